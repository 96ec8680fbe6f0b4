"""Warnings of what will not fit, and what they propose."""

from dataclasses import replace

import pytest
from papers import H100, MEASUREMENT, PAPERS, forecast, row, study

from budwood.reporting.accelerator import ACCELERATORS
from budwood.study.limits import warnings_of
from budwood.study.plan import plan
from budwood.study.settings import ProtocolSettings
from budwood.subnet.settings import Compensation


def test_what_fits_is_not_warned_of() -> None:
    assert warnings_of(study(), plan(study(), H100, 0.4), H100, 8, 1e15) == []


def test_what_does_not_fit_is_told_with_a_way_out() -> None:
    """48 sequences are too many for 80 GiB; what is proposed fits, and divides 1,056."""
    large = study(schedule=PAPERS.model_copy(update={"micro_batch": 48}))
    told = warnings_of(large, plan(large, H100, 0.4), H100, 1, 1e15)
    assert [warning.split(" needs ")[0] for warning in told] == [
        "training · distilled · small · coarse",
        "training · random_init · small · coarse",
        "training · subnet_init · small · coarse",
    ]
    for warning in told:
        size = int(warning.split("micro_batch=")[1].split()[0])
        assert 1056 % size == 0
        fitting = study(schedule=PAPERS.model_copy(update={"micro_batch": size}))
        arm = warning.split(" · ")[1]
        assert row(plan(fitting, H100, 0.4), "training", arm)["memory_bytes"] <= 0.9 * H100.memory_bytes


def test_no_micro_batch_fits_a_small_device() -> None:
    small = ACCELERATORS["rtx4090"]
    (told,) = [w for w in warnings_of(study(), plan(study(), small, 0.4), small, 1, 1e15) if "distilled" in w]
    assert "shard the training" in told


@pytest.mark.parametrize("compensation", [None, Compensation()])
def test_what_is_proposed_for_a_stage_takes_less_there(compensation: Compensation | None) -> None:
    """A batch of 1 is the least, and is not to be lowered."""
    none, probed = replace(H100, memory_bytes=1), ProtocolSettings(probe_tokens=10**9)
    facts = {"forecasts": (forecast(compensation=compensation),), "num_orderings": 1, "protocol": probed}
    settings = {
        "measurement.batch_size": ("measurement", MEASUREMENT, "batch_size"),
        "micro_batch": ("schedule", PAPERS, "micro_batch"),
    }
    large = study(**facts)
    planned = plan(large, H100, 0.4)
    before = planned.set_index("stage")["memory_bytes"].groupby(level=0).max()
    told = {warning.split()[0]: warning for warning in warnings_of(large, planned, none, 1, 1e15)}
    assert set(told) == set(before[before > 0].index)
    for setting, (group, own, name) in settings.items():
        least = study(**facts | {group: own.model_copy(update={name: 1})})
        planned = plan(least, H100, 0.4)
        after = planned.set_index("stage")["memory_bytes"].groupby(level=0).max()
        assert {stage for stage, warning in told.items() if setting in warning} == set(before[after < before].index)
        again = warnings_of(least, planned, none, 1, 1e15)
        assert not [warning for warning in again if f"lower {setting}" in warning]


def test_the_arm_that_a_probe_trains_is_named() -> None:
    """What is proposed fits there, and what is set does not."""
    probed = {"protocol": ProtocolSettings(probe_tokens=10**9)}
    large = study(schedule=PAPERS.model_copy(update={"micro_batch": 48}), **probed)
    (told,) = [w for w in warnings_of(large, plan(large, H100, 0.4), H100, 1, 1e15) if w.startswith("probe")]
    assert told.startswith("probe · small · coarse needs ")
    size = int(told.split("bins.small.arms.subnet_init.micro_batch=")[1].split()[0])
    for micro_batch, fits in ((size, True), (48, False)):
        tried = study(schedule=PAPERS.model_copy(update={"micro_batch": micro_batch}), **probed)
        assert (row(plan(tried, H100, 0.4), "probe")["memory_bytes"] <= 0.9 * H100.memory_bytes) == fits


def test_other_limits() -> None:
    planned = plan(study(), H100, 0.4)
    (full,), (uneven,) = (warnings_of(study(), planned, H100, *limits) for limits in ((1, 1e9), (7, 1e15)))
    assert "to disk, where 954 MiB are free" in full
    assert "7 devices with micro_batch=6 each cannot share schedule.global_batch=1056" in uneven
