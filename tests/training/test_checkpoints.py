"""Checkpoints are whole or passed over, the newest stay, and a branch takes no space."""

import shutil
from types import SimpleNamespace

import pytest

from budwood.records.locks import holding
from budwood.training import checkpoints
from budwood.training.checkpoints import (
    checkpoints_of,
    keep_branch,
    place_checkpoint,
    require_space,
    step_of,
    whole_checkpoint,
)


def write(folder, step):
    target = folder / "partial" / f"checkpoint-{step}" / "shards"
    target.mkdir(parents=True)
    (target / "weights").write_text(str(step))
    return target.parent


def test_the_newest_is_the_one_of_the_latest_step_and_not_the_last_by_name(tmp_path):
    for step in (2, 9, 10):
        write(tmp_path, step)
        place_checkpoint(tmp_path, step, kept=5)
    write(tmp_path, 11)
    assert step_of(whole_checkpoint(tmp_path)) == 10
    assert step_of(whole_checkpoint(tmp_path, limit=9)) == 9
    assert whole_checkpoint(tmp_path, limit=1) is None
    assert whole_checkpoint(None) is None
    assert whole_checkpoint(tmp_path / "none") is None


def test_rotation_keeps_the_newest_few_and_leaves_no_half_of_the_others(tmp_path):
    for step in (1, 2, 9, 10):
        write(tmp_path, step)
        place_checkpoint(tmp_path, step, kept=2)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["checkpoint-10", "checkpoint-9", "partial"]
    assert not list((tmp_path / "partial").iterdir())


def test_damaged_checkpoints_are_passed_over_and_named(tmp_path, caplog):
    for step in (1, 2, 3, 4):
        write(tmp_path, step)
        place_checkpoint(tmp_path, step, kept=9)
    (tmp_path / "checkpoint-4/shards/weights").write_text("5")
    (tmp_path / "checkpoint-3/seal.json").unlink()
    assert whole_checkpoint(tmp_path) == tmp_path / "checkpoint-2"
    for step, reason in ((4, "shards/weights changed since it was written"), (3, "seal.json is missing")):
        assert f"Passing over checkpoint {tmp_path}/checkpoint-{step}: {reason}" in caplog.text
    caplog.clear()
    assert whole_checkpoint(tmp_path, limit=1) == tmp_path / "checkpoint-1"
    assert not caplog.text


def test_a_new_checkpoint_replaces_the_damaged_ones_from_its_step_on(tmp_path):
    for step in (1, 2, 3, 4):
        write(tmp_path, step)
        place_checkpoint(tmp_path, step, kept=9)
    write(tmp_path, 3)
    (tmp_path / "partial/checkpoint-3/new").touch()
    place_checkpoint(tmp_path, 3, kept=2)
    assert [step_of(path) for path in checkpoints_of(tmp_path)] == [2, 3]
    assert (whole_checkpoint(tmp_path) / "new").exists()


def test_a_branch_outlives_its_checkpoint_and_shares_its_files(tmp_path):
    run, branches = tmp_path / "run", tmp_path / "branches"
    write(run, 3)
    checkpoint = place_checkpoint(run, 3, kept=1)
    for _ in range(2):
        keep_branch(checkpoint, branches)
    branch = whole_checkpoint(branches)
    assert (branch / "shards" / "weights").stat().st_ino == (checkpoint / "shards" / "weights").stat().st_ino
    shutil.rmtree(checkpoint)
    assert whole_checkpoint(branches) == branch


def test_a_damaged_branch_is_replaced(tmp_path):
    for _ in range(2):
        run, branches = tmp_path / "run", tmp_path / "branches"
        write(run, 3)
        keep_branch(place_checkpoint(run, 3, kept=1), branches)
        (branches / "checkpoint-3/seal.json").unlink(missing_ok=True)
    assert whole_checkpoint(branches) is None
    keep_branch(run / "checkpoint-3", branches)
    assert whole_checkpoint(branches) == branches / "checkpoint-3"


def test_a_branch_that_another_run_is_keeping_does_not_stop_a_run(tmp_path, caplog):
    write(tmp_path, 3)
    with holding(tmp_path / "branches", "a test"):
        keep_branch(place_checkpoint(tmp_path, 3, kept=1), tmp_path / "branches")
    assert "No longer run can begin with" in caplog.text


def test_space_is_three_float32_values_a_parameter_and_checkpoint_and_one_for_the_model(tmp_path, monkeypatch):
    """10 parameters, 3 checkpoints: 10 * (3 * 12 + 4) = 400 bytes."""
    usage = SimpleNamespace(free=400)
    monkeypatch.setattr(checkpoints.shutil, "disk_usage", lambda _: usage)
    require_space(tmp_path, 10, 3)
    usage.free = 399
    with pytest.raises(OSError, match=r"3 checkpoints of 10 parameters .* lower engine.kept_checkpoints, or raise"):
        require_space(tmp_path, 10, 3)
    (tmp_path / "there").write_text("x")
    require_space(tmp_path, 10, 3)
