"""What is trained from every sub-network."""

from typing import Self

from pydantic import Field, model_validator

from budwood.records.strict import Strict
from budwood.training.settings import DistillationSettings


class ArmParameters(Strict):
    """One training arm."""

    learning_rate: float | None = Field(default=None, gt=0)
    """Peak, chosen for the arm's initialisation; without one it is `schedule.peak_learning_rate`."""
    distillation: DistillationSettings | None = None


class Arms(Strict):
    """The arms of every variant."""

    random_init: ArmParameters
    """The sub-network's architecture from its family's own initialisation: the baseline."""
    subnet_init: ArmParameters
    """The sub-network with the weights it was cut with."""
    distilled: ArmParameters
    """The sub-network with its weights, under the teacher."""

    reference_init: ArmParameters
    """The reference architecture of the bin from its family's own initialisation, where the bin names one."""

    @model_validator(mode="after")
    def _distilled_has_a_teacher(self) -> Self:
        if self.distilled.distillation is None:
            raise ValueError("arms.distilled: give `distillation` its weights")
        for name in ("random_init", "subnet_init", "reference_init"):
            distillation = getattr(self, name).distillation
            if distillation is not None and distillation.teacher == "cached":
                raise ValueError(f"arms.{name}: teacher must be live, only `distilled` reads a cache")
        return self
