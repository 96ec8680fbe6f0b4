"""Accelerators that a study can be planned for."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Literal

from budwood.records.cost import STAGES, Cost, CostStage
from budwood.records.workload import Workload
from budwood.training.peaks import PEAK_FLOPS

_GIB = 2**30
_SECONDS_PER_HOUR = 3600
_TIMED_TOGETHER: tuple[tuple[CostStage, ...], ...] = (
    ("search", "compensation", "certificate"),
    ("training", "teacher", "heldout", "probe"),
)
"""Stages of which the ledger has one time, that of the first."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Accelerator:
    """Speed and memory of one device."""

    flops_per_second: float
    """Peak of dense matrix products in `precision`."""
    memory_bytes: int
    precision: Literal["float32", "bfloat16"] = "bfloat16"

    paces: Mapping[str, float] = field(default_factory=dict)
    """FLOPs per second of stages, where a run has shown them."""
    speed: Workload | None = None
    """What it does in a second, where that was tried."""

    def hours(self, stage: str, flops: float, mfu: float, work: Workload | None = None) -> float:
        """Return what a stage takes, at its pace, by what was tried, or at a share of the peak.

        Args:
            stage: its name.
            flops: its FLOPs.
            mfu: share of the peak that it reaches.
            work: all that is done, where that is known.
        """
        if self.speed is not None and work is not None and stage not in self.paces:
            return work.seconds(self.speed) / _SECONDS_PER_HOUR
        return flops / self.paces.get(stage, self.flops_per_second * mfu) / _SECONDS_PER_HOUR


def paces_of(spent: Iterable[Cost], num_devices: int = 1) -> dict[str, float]:
    """Return the FLOPs per second at which every stage of a run went; some are timed together.

    Args:
        spent: its ledger.
        num_devices: that ran at a time; the pace is that of one.
    """
    costs, paces = list(spent), dict[str, float]()
    for stages in (*_TIMED_TOGETHER, *((stage,) for stage in STAGES if stage not in sum(_TIMED_TOGETHER, ()))):
        of_stages = [cost for cost in costs if cost.stage in stages]
        flops, seconds = sum(cost.flops for cost in of_stages), sum(cost.seconds for cost in of_stages)
        if flops > 0 and seconds > 0:
            paces |= dict.fromkeys(stages, flops / seconds / num_devices)
    return paces


AcceleratorName = Literal["a100-40gb", "a100-80gb", "h100", "h200", "b200", "l40s", "rtx4090", "mi300x", "cpu"]

ACCELERATORS: dict[AcceleratorName, Accelerator] = {
    "a100-40gb": Accelerator(flops_per_second=PEAK_FLOPS["A100"], memory_bytes=40 * _GIB),
    "a100-80gb": Accelerator(flops_per_second=PEAK_FLOPS["A100"], memory_bytes=80 * _GIB),
    "h100": Accelerator(flops_per_second=PEAK_FLOPS["H100"], memory_bytes=80 * _GIB),
    "h200": Accelerator(flops_per_second=PEAK_FLOPS["H200"], memory_bytes=141 * _GIB),
    "b200": Accelerator(flops_per_second=PEAK_FLOPS["B200"], memory_bytes=180 * _GIB),
    "l40s": Accelerator(flops_per_second=PEAK_FLOPS["L40S"], memory_bytes=48 * _GIB),
    "rtx4090": Accelerator(flops_per_second=PEAK_FLOPS["RTX 4090"], memory_bytes=24 * _GIB),
    "mi300x": Accelerator(flops_per_second=1307e12, memory_bytes=192 * _GIB),
    "cpu": Accelerator(flops_per_second=192e9, memory_bytes=8 * _GIB, precision="float32"),
}
"""Peaks without sparsity, as the makers' data sheets give them (half of what they print "with sparsity").

NVIDIA: A100 (SXM) 312 TFLOP/s, 40 or 80 GB; H100 SXM 1,979 with sparsity, 80 GB; H200 the same, 141 GB; DGX B200 36
PFLOP/s with sparsity for eight, 1,440 GB; L40S 733 with sparsity, 48 GB; GeForce RTX 4090 165.2 (bfloat16, accumulated
in float32), 24 GB (Ada architecture white paper). AMD: Instinct MI300X 1,307.4, 192 GB. Makers call a GiB of these
memories a GB. `cpu` is what the quickstart is sized for: two cores with AVX2 at 3 GHz, each 2 fused multiply-adds of 8
float32 numbers per cycle, and 8 GiB.
"""
