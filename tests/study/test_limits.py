"""Warnings of what will not fit, and what they propose."""

from papers import H100, PAPERS, row, study

from budwood.reporting.accelerator import ACCELERATORS
from budwood.study.limits import warnings_of
from budwood.study.plan import plan


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


def test_other_limits() -> None:
    planned = plan(study(), H100, 0.4)
    (full,), (uneven,) = (warnings_of(study(), planned, H100, *limits) for limits in ((1, 1e9), (7, 1e15)))
    assert "to disk, where 954 MiB are free" in full
    assert "7 devices with micro_batch=6 each cannot share schedule.global_batch=1056" in uneven
