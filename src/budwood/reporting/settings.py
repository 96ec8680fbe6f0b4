"""On what a study would run."""

from typing import Literal

from pydantic import Field

from budwood.records.strict import Strict
from budwood.reporting.accelerator import AcceleratorName


class PlanSettings(Strict):
    """The hardware that a study would run on, to estimate its cost beforehand; see `budwood.study.plan`."""

    accelerator: Literal[AcceleratorName, "here"] = "h100"
    """Device that the plan assumes; `here` is that of `measurement.device` on this machine, whose speed is tried for
    some seconds."""
    num_devices: int = Field(default=1, gt=0)
    """Devices that train in parallel; they divide the time, not the memory."""
    mfu: float = Field(default=0.4, gt=0, le=1)
    """Share of the peak that forward and backward passes reach."""
    ledger: str | None = None
    """Path of the `ledger.json` of a run on the same machine: stages are as fast as they were in it, and `mfu` counts
    only where it lacks one."""
    disk_gb: float | None = Field(default=None, gt=0)
    """Room for everything that is written; what is free here where it is empty."""
