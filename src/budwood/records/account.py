"""What one variant found, became and cost: all that the tables of a study need of it."""

from budwood.records.certificate import Certificate
from budwood.records.cost import Cost
from budwood.records.evaluation import Downstream, Efficiency, Sample
from budwood.records.placed import Placed
from budwood.records.search import Finalists, Winner
from budwood.records.training import ProbeScore, Score


class SearchFindings(Placed):
    """What the search of a variant found and cost, and its probe."""

    winner: Winner
    finalists: Finalists
    certificate: Certificate
    probe: ProbeScore | None = None


class TrainingFindings(Placed):
    """What was trained of a variant, and how it was measured; its space is the one that probes chose, where they do."""

    scores: tuple[Score, ...]
    downstream: tuple[Downstream, ...]
    efficiency: tuple[Efficiency, ...]
    evaluation_costs: tuple[Cost, ...]
    samples: tuple[Sample, ...]
    certificates: tuple[Certificate, ...] = ()
    """Of the trained sub-networks."""
