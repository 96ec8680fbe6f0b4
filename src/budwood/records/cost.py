"""What work costs: entries of the ledger."""

from typing import Annotated, Literal, Self, get_args

from budwood.records.names import SHARED, Variant
from budwood.records.strict import HOW, Strict

CostStage = Literal[
    "calibration",
    "elimination",
    "search",
    "compensation",
    "probe",
    "teacher_cache",
    "training",
    "teacher",
    "heldout",
    "evaluation",
    "certificate",
]
"""Stages that cost FLOPs, in the order in which they run."""
STAGES: tuple[CostStage, ...] = get_args(CostStage)
SEARCH_STAGES: tuple[CostStage, ...] = ("calibration", "elimination", "search", "compensation")
"""What it takes to find and cut out the sub-network of one variant."""


class Cost(Strict):
    """One cost. `bin`, `space` and `arm` are empty where they do not apply."""

    stage: CostStage
    bin: str = SHARED
    space: str = SHARED
    arm: str = SHARED
    flops: float
    tokens: int
    seconds: Annotated[float, HOW] = 0.0
    """Wall-clock time; 0 where the time is part of another cost."""

    @classmethod
    def of(cls, stage: CostStage, tokens: float, flops_per_token: float, seconds: float = 0.0) -> Self:
        """Return the cost of reading some tokens."""
        return cls(stage=stage, tokens=round(tokens), flops=float(tokens * flops_per_token), seconds=seconds)

    def at(self, variant: Variant, arm: str | None = None) -> Self:
        """Return the cost as one of a variant, and of an arm where one is given."""
        return self.model_copy(update={**variant._asdict(), "arm": self.arm if arm is None else arm})

    def after(self, seconds: float) -> Self:
        """Return the cost with the time that it took."""
        return self.model_copy(update={"seconds": seconds})

    def share(self, share: float) -> Self:
        """Return a share of the cost."""
        amounts = {"flops": share * self.flops, "seconds": share * self.seconds, "tokens": round(share * self.tokens)}
        return self.model_copy(update=amounts)
