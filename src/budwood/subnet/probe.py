"""How fast this machine does what cutting a sub-network takes: kernels of a real size, tried for a moment each."""

import math
import time
from collections.abc import Callable

import torch

from budwood.models.device import Compute
from budwood.records.workload import Workload

_SECONDS = 0.2
"""For which a kernel is tried."""
_WIDTH = 2048
"""Of matrices; larger ones are hardly faster."""


@torch.no_grad()
def probe_machine(compute: Compute, *, clock: Callable[[], float] = time.perf_counter, width: int = _WIDTH) -> Workload:
    """Return what a device does in a second of every kind of work; it takes about two seconds.

    What solving takes beside products grows with the square of a system's rows, not the cube, so one size is enough.
    """
    generator = torch.Generator().manual_seed(0)
    square = torch.rand(width, width, generator=generator).to(compute.device)
    exact = (square @ square.T).div_(width).add_(torch.eye(width, device=compute.device))
    weight = square.to(compute.dtype)
    # As large as the matrices of a layer, which come from fresh memory.
    wide, places = weight.repeat(2, 2), torch.randperm(2 * width, generator=generator)
    stored = wide.cpu()  # weights are ordered where files are read

    def seconds(kernel: Callable[[], torch.Tensor]) -> float:
        return _seconds_of(kernel, clock)

    passing = seconds(lambda: torch.nn.functional.linear(weight, weight))
    multiplying = seconds(lambda: square @ square)
    solving = seconds(lambda: torch.cholesky_solve(square, torch.linalg.cholesky_ex(exact)[0]))
    making = seconds(lambda: wide.to(torch.float32, copy=True))
    moving = seconds(lambda: stored.index_select(0, places).index_select(1, places))
    products, solved = 2 * width**3 / multiplying, width**3 * 7 / 3
    beside = solving - solved / products
    return Workload(
        passes=2 * width**3 / passing,
        products=products,
        # Where a machine solves as fast as it multiplies, panels take no time.
        panels=solved / width / beside if beside > 0 else math.inf,
        entries=4 * width**2 / making,
        moved=8 * width**2 / moving,
    )


def _seconds_of(kernel: Callable[[], torch.Tensor], clock: Callable[[], float]) -> float:
    """Return the mean seconds of a call; reading a number waits for the device."""
    kernel().flatten()[-1].item()
    started, calls = clock(), 0
    while not calls or clock() - started < _SECONDS:
        kernel().flatten()[-1].item()
        calls += 1
    return (clock() - started) / calls
