"""What a machine does in a second, by a clock that ticks as often as the test says."""

import math
from itertools import accumulate, cycle

import pytest
import torch

from budwood.models.device import Compute
from budwood.records.workload import Workload
from budwood.subnet.probe import probe_machine


def tried(precision: str, *seconds: float) -> Workload:
    """Try a machine whose kernels take so long: each runs once between the first and the last of three readings."""
    ticks = accumulate(cycle(tick for each in seconds for tick in (0, each, 0)))
    return probe_machine(Compute(torch.device("cpu"), precision), clock=lambda: float(next(ticks)), width=16)


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_a_speed_is_the_work_of_a_kernel_over_its_seconds(precision) -> None:
    """Matrices are 16 wide: a product takes 2n^3 FLOPs; a factor and as many solutions as rows n^3/3 + 2n^3.

    Solving would take 7 / 6 of 6 seconds at the speed of products; 3 more are for panels. Twice as wide a matrix is
    converted, and permuted along two axes.
    """
    speed = tried(precision, 4, 6, 10, 8, 2)
    assert speed.passes == 2 * 16**3 / 4
    assert speed.products == 2 * 16**3 / 6
    assert speed.panels == pytest.approx(7 / 3 * 16**2 / 3)
    assert speed.entries == 32**2 / 8
    assert speed.moved == 2 * 32**2 / 2


def test_panels_take_no_time_where_solving_is_as_fast_as_multiplying() -> None:
    speed = tried("float32", 4, 6, 7, 8, 2)
    assert speed.panels == math.inf
    assert Workload.solving(100, 5).seconds(speed) == 100 / speed.products
