"""Rates of a run, by hand."""

from types import SimpleNamespace

import pytest
import torch

from budwood.models.device import Compute
from budwood.training import progress
from budwood.training.progress import Meter, peak_flops


@pytest.mark.parametrize(
    ("name", "peak"),
    [
        ("NVIDIA H100 80GB HBM3", 989e12),
        ("NVIDIA H100 PCIe", 756e12),
        ("NVIDIA A100-SXM4-40GB", 312e12),
        ("NVIDIA L40S", 362e12),
        ("NVIDIA L4", 121e12),
        ("NVIDIA GeForce RTX 4090", 165e12),
        ("NVIDIA H100 80GB HBM3 MIG 1g.10gb", None),
        ("NVIDIA GeForce RTX 4090 Laptop GPU", None),
        ("cpu (1 threads)", None),
        ("NVIDIA A1000", None),
    ],
)
def test_peaks_are_found_by_whole_words(name, peak):
    assert peak_flops(name) == peak


def test_rates_count_the_steps_and_nothing_between_them(monkeypatch):
    """Steps of 2 s and 4 s with a pause of 100 s; 60 tokens a step of 5 FLOP, of 100 FLOP/s."""
    times = iter([0.0, 2.0, 102.0, 106.0])
    monkeypatch.setattr(progress, "time", SimpleNamespace(perf_counter=lambda: next(times)))
    meter = Meter(tokens_per_step=60, flops_per_token=5, peak=100)
    assert meter.rates() == {}
    meter.begin()
    meter.end()
    assert meter.row() == {"tokens_per_second": 30, "mfu": 1.5}
    meter.begin()
    meter.end()
    assert meter.row() == {"tokens_per_second": 15, "mfu": 0.75}
    assert meter.rates() == {"tokens_per_second": 20, "mfu": 1}


def test_utilisation_is_told_of_known_devices_in_bfloat16_only(monkeypatch):
    monkeypatch.setattr(Compute, "describe", lambda _: "NVIDIA H100 80GB HBM3")
    device = torch.device("cpu")
    assert Meter.of(Compute(device, "bfloat16"), 1, 1, num_devices=8).peak == 8 * 989e12
    assert Meter.of(Compute(device, "float32"), 1, 1, num_devices=8).peak is None
    monkeypatch.setattr(Compute, "describe", lambda _: "something new")
    assert Meter.of(Compute(device, "bfloat16"), 1, 1, num_devices=8).peak is None
