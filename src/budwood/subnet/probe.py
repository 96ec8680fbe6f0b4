"""How fast this machine does what cutting a sub-network takes: kernels of a real size, tried for a moment each."""

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
    """Return what a device does in a second of every kind of work; it takes about two seconds."""
    generator = torch.Generator().manual_seed(0)
    square = torch.rand(width, width, generator=generator).to(compute.device)
    exact = (square @ square.T).div_(width).add_(torch.eye(width, device=compute.device))
    weight = square.to(compute.dtype)
    # As large as the matrices of a layer, which come from fresh memory.
    wide, places = weight.cpu().repeat(2, 2), torch.randperm(2 * width, generator=generator)

    def rate(amount: float, kernel: Callable[[], torch.Tensor]) -> float:
        return amount / _seconds_of(kernel, clock)

    return Workload(
        passes=rate(2 * width**3, lambda: torch.nn.functional.linear(weight, weight)),
        products=rate(2 * width**3, lambda: square @ square),
        solves=rate(width**3 * 7 / 3, lambda: torch.cholesky_solve(square, torch.linalg.cholesky_ex(exact)[0])),
        # Weights are ordered where files are read.
        moved=rate(12 * width**2, lambda: wide.index_select(0, places).index_select(1, places).float()),
    )


def _seconds_of(kernel: Callable[[], torch.Tensor], clock: Callable[[], float]) -> float:
    """Return the mean seconds of a call; reading a number waits for the device."""
    kernel().flatten()[-1].item()
    started, calls = clock(), 0
    while not calls or clock() - started < _SECONDS:
        kernel().flatten()[-1].item()
        calls += 1
    return (clock() - started) / calls
