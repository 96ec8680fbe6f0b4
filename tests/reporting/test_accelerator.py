"""How fast devices are, by their makers and by a run."""

from dataclasses import replace

import pytest

from budwood.records.cost import Cost
from budwood.reporting.accelerator import ACCELERATORS, paces_of

LEDGER = [
    Cost(stage="calibration", flops=3e12, tokens=1, seconds=2),
    Cost(stage="search", flops=6e12, tokens=1, seconds=10),
    Cost(stage="compensation", flops=3e12, tokens=1),
    Cost(stage="certificate", flops=1e12, tokens=1),
    Cost(stage="training", arm="distilled", flops=4e12, tokens=1, seconds=10),
    Cost(stage="teacher", arm="distilled", flops=2e12, tokens=1),
]


def test_accelerators_multiply_faster_than_they_hold() -> None:
    assert ACCELERATORS["h100"].flops_per_second == 989e12
    assert all(device.flops_per_second > device.memory_bytes for device in ACCELERATORS.values())


def test_the_pace_of_a_run_by_hand() -> None:
    """A search has its time, 10 s, with its corrections and proofs: 10 TFLOP; the training, with its teacher: 6."""
    paces = paces_of(LEDGER)
    assert paces["calibration"] == 1.5e12
    assert paces["search"] == paces["compensation"] == paces["certificate"] == 1e12
    assert paces["training"] == paces["teacher"] == paces["probe"] == 0.6e12
    assert "evaluation" not in paces
    assert paces_of(LEDGER, num_devices=2)["search"] == 0.5e12


def test_a_run_takes_as_long_as_it_took() -> None:
    accelerator = replace(ACCELERATORS["cpu"], paces=paces_of(LEDGER))
    hours = sum(accelerator.hours(cost.stage, cost.flops, 0.2) for cost in LEDGER)
    assert 3600 * hours == pytest.approx(sum(cost.seconds for cost in LEDGER))
    assert accelerator.hours("evaluation", 192e9 * 0.2 * 3600, 0.2) == pytest.approx(1)
