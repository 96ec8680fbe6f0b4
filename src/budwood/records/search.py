"""What a search found, and which of it won."""

from collections.abc import Iterable
from typing import Annotated, Self

from pydantic import BeforeValidator, InstanceOf, PlainSerializer

from budwood.arch.selection import Selection
from budwood.records.certificate import Proof
from budwood.records.cost import SEARCH_STAGES, Cost, CostStage
from budwood.records.placed import Placed
from budwood.records.strict import Strict


class Described(Strict):
    """A sub-network: what it keeps, in words, and its size."""

    selection: Annotated[
        InstanceOf[Selection],
        BeforeValidator(lambda value: Selection.from_dict(value) if isinstance(value, dict) else value),
        PlainSerializer(Selection.to_dict),
    ]
    description: str
    num_parameters: int


class Taken(Strict):
    """What a sub-network takes of what its bin limits; see `budwood.arch.limits`."""

    limit: str
    amount: float
    most: float


class Finalist(Described):
    """One of the best candidates of a search."""

    taken: tuple[Taken, ...] = ()

    selection_loss: float
    """On the text of the search, by its fitness."""
    choice_loss: float | None = None
    """On the text of the choice, nats per token, corrected as it is exported."""


class FrontPoint(Described):
    """A candidate that no other beats in all objectives."""

    objectives: dict[str, float]


class Searched(Strict):
    """How a search went; its winner carries the same facts."""

    fitness: str
    parameter_bin: tuple[int, int]
    """Smallest and largest allowed number of parameters."""
    num_evaluations: int
    paper_flops: float
    """What the paper's schedule would have cost: 5,050 candidates on 512,000 tokens each."""
    front: tuple[FrontPoint, ...] = ()


class Gathering(Strict):
    """What several searches may have corrected their candidates from, and what it cost once."""

    moments: str
    """Their fingerprint."""
    cost: Cost


class Finalists(Searched):
    """The best of a search, and what it cost."""

    candidates: tuple[Finalist, ...]
    costs: tuple[Cost, ...]
    """Of this search alone."""
    gathering: Gathering | None = None
    """None where candidates were compared uncorrected."""
    ranking: tuple[CostStage, ...] = ()
    """Stages that rank the teacher's components and that the search, or the order of its space, needed."""

    @property
    def searched(self) -> Searched:
        """How the search went, and nothing more."""
        return Searched(**{name: getattr(self, name) for name in Searched.model_fields})


class Winner(Searched, Placed, Described):
    """The finalist that is best on text that the search has not read."""

    selection_loss: float
    kept_channels: tuple[int, ...]
    """For every channel of its residual stream, the teacher's."""
    kept_layers: tuple[int, ...]
    """For every layer in depth order, the teacher's."""
    corrections: tuple[str, ...]
    """Names of those that were made; see `budwood.subnet.settings.Compensation`."""
    proof: Proof
    """Of its folder."""
    choice_loss: float
    choice_interval: tuple[float, float]
    """Of the loss on the text of the choice, with 95% confidence."""
    lead: float | None
    """Over the next finalist; none where there was none."""
    lead_interval: tuple[float, float] | None
    taken: tuple[Taken, ...] = ()
    """Of what its bin limits."""
    finalists: tuple[Finalist, ...]
    finalist_tokens: int
    """On which finalists were trained before the choice."""
    costs: tuple[Cost, ...]
    """Of the choice, of the correction and of the proofs."""
    search_flops: float = 0.0
    """To find and cut it out, with all that the search needed, even where other searches use it too."""

    def charged(self, searched: Finalists, ranking: Iterable[Cost] = ()) -> Self:
        """Return the winner with what it cost to find and cut it out.

        Args:
            searched: the search that found it.
            ranking: what it cost to rank the teacher's components; what the search did not need is left out.
        """
        shared = [cost for cost in ranking if cost.stage in searched.ranking]
        shared += [searched.gathering.cost] if searched.gathering else []
        costs = [*shared, *searched.costs, *self.costs]
        return self.model_copy(
            update={"search_flops": sum(cost.flops for cost in costs if cost.stage in SEARCH_STAGES)}
        )
