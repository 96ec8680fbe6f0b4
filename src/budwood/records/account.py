"""What one variant found, became and cost: all that the tables of a study need of it."""

from budwood.records.certificate import Certificate
from budwood.records.cost import Cost
from budwood.records.evaluation import Downstream, Efficiency, Sample
from budwood.records.names import Variant
from budwood.records.search import Finalists, Winner
from budwood.records.strict import Strict
from budwood.records.training import ProbeScore, Score


class SearchFindings(Strict):
    """What the search of a variant found and cost, and its probe."""

    bin: str
    space: str
    winner: Winner
    finalists: Finalists
    certificate: Certificate
    probe: ProbeScore | None = None

    @property
    def variant(self) -> Variant:
        """The bin and the space."""
        return Variant(self.bin, self.space)


class TrainingFindings(Strict):
    """What was trained of a variant, and how it was measured."""

    bin: str
    space: str
    """Where probes choose the space, the one that they chose."""
    scores: tuple[Score, ...]
    downstream: tuple[Downstream, ...]
    efficiency: tuple[Efficiency, ...]
    evaluation_costs: tuple[Cost, ...]
    samples: tuple[Sample, ...]
    certificates: tuple[Certificate, ...] = ()
    """Of the trained sub-networks."""

    @property
    def variant(self) -> Variant:
        """The bin and the space."""
        return Variant(self.bin, self.space)
