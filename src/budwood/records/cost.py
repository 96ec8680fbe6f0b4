"""What work costs: entries of the ledger."""

from collections.abc import Iterable
from typing import Annotated, Literal, Self, get_args

from budwood.records.names import SHARED, Variant
from budwood.records.placed import Placed
from budwood.records.strict import HOW

CostStage = Literal[
    "calibration",
    "elimination",
    "search",
    "compensation",
    "probe",
    "teacher_cache",
    "gate",
    "sweep",
    "training",
    "teacher",
    "heldout",
    "evaluation",
    "certificate",
]
"""Stages that cost FLOPs, in the order in which they run."""
STAGES: tuple[CostStage, ...] = get_args(CostStage)
RANKING_STAGES: tuple[CostStage, ...] = ("calibration", "elimination")
"""What ranks the teacher's components, for all variants that need it."""
SEARCH_STAGES: tuple[CostStage, ...] = (*RANKING_STAGES, "search", "compensation")
"""What it takes to find and cut out the sub-network of one variant."""


class Cost(Placed):
    """One cost. `bin`, `space` and `arm` are empty where they do not apply."""

    stage: CostStage
    arm: str = SHARED
    flops: float
    tokens: int
    seconds: Annotated[float, HOW] = 0.0
    """Wall-clock time; 0 where the time is part of another cost."""
    serves: tuple[Variant, ...] | None = None
    """Variants that share the cost and need it; None: all that its bin and space name."""

    @classmethod
    def of(cls, stage: CostStage, tokens: float, flops_per_token: float, seconds: float = 0.0) -> Self:
        """Return the cost of reading some tokens."""
        return cls(stage=stage, tokens=round(tokens), flops=float(tokens * flops_per_token), seconds=seconds)

    @classmethod
    def total(cls, stage: CostStage, costs: Iterable[Self]) -> Self:
        """Return several costs as one, without their times."""
        costs = list(costs)
        return cls(stage=stage, tokens=sum(cost.tokens for cost in costs), flops=sum(cost.flops for cost in costs))

    def at(self, variant: Variant, arm: str | None = None) -> Self:
        """Return the cost as one of a variant, and of an arm where one is given."""
        return super().at(variant).model_copy(update={"arm": self.arm if arm is None else arm})

    def after(self, seconds: float) -> Self:
        """Return the cost with the time that it took."""
        return self.model_copy(update={"seconds": seconds})

    def share(self, share: float) -> Self:
        """Return a share of the cost."""
        amounts = {"flops": share * self.flops, "seconds": share * self.seconds, "tokens": round(share * self.tokens)}
        return self.model_copy(update=amounts)
