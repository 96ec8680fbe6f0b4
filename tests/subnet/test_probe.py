"""What a machine does in a second, by a clock that ticks once whenever it is read."""

from itertools import count

import pytest
import torch

from budwood.models.device import Compute
from budwood.records.workload import Workload
from budwood.subnet.probe import probe_machine


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_a_speed_is_the_work_of_a_kernel_over_its_seconds(precision) -> None:
    """A kernel runs once between the first and the last of three readings: two seconds.

    Matrices are 16 wide: a product takes 2n^3 FLOPs; a factor and as many solutions as rows n^3/3 + 2n^3; twice as
    wide a matrix is permuted along two axes and converted.
    """
    ticks = count()
    speed = probe_machine(Compute(torch.device("cpu"), precision), clock=lambda: float(next(ticks)), width=16)
    assert speed == Workload(passes=16**3, products=16**3, solves=pytest.approx(16**3 * 7 / 6), moved=3 * 32**2 / 2)
