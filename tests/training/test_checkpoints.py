"""Checkpoints appear whole, the newest stay, and a branch takes no space."""

from types import SimpleNamespace

import pytest

from budwood.training import checkpoints
from budwood.training.checkpoints import (
    keep_branch,
    newest_checkpoint,
    place_checkpoint,
    remove_checkpoint,
    require_space,
    step_of,
)


def write(folder, step):
    target = folder / "partial" / f"checkpoint-{step}" / "shards"
    target.mkdir(parents=True)
    (target / "weights").write_text(str(step))
    return target.parent


def test_the_newest_is_the_one_of_the_latest_step_and_not_the_last_by_name(tmp_path):
    for step in (9, 10, 2):
        write(tmp_path, step)
        place_checkpoint(tmp_path, step, kept=5)
    write(tmp_path, 11)
    assert step_of(newest_checkpoint(tmp_path)) == 10
    assert step_of(newest_checkpoint(tmp_path, limit=9)) == 9
    assert newest_checkpoint(tmp_path, limit=1) is None
    assert newest_checkpoint(None) is None
    assert newest_checkpoint(tmp_path / "none") is None


def test_rotation_keeps_the_newest_few_and_leaves_no_half_of_the_others(tmp_path):
    for step in (1, 2, 10, 9):
        write(tmp_path, step)
        place_checkpoint(tmp_path, step, kept=2)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["checkpoint-10", "checkpoint-9", "partial"]
    assert not list((tmp_path / "partial").iterdir())


def test_a_removal_that_is_killed_leaves_nothing_that_looks_whole(tmp_path, monkeypatch):
    write(tmp_path, 3)
    checkpoint = place_checkpoint(tmp_path, 3, kept=1)
    with monkeypatch.context() as patch:
        patch.setattr(checkpoints.shutil, "rmtree", lambda *_, **__: None)
        remove_checkpoint(checkpoint)
    assert newest_checkpoint(tmp_path) is None


def test_a_branch_outlives_its_checkpoint_and_shares_its_files(tmp_path):
    run, branches = tmp_path / "run", tmp_path / "branches"
    write(run, 3)
    checkpoint = place_checkpoint(run, 3, kept=1)
    for _ in range(2):
        keep_branch(checkpoint, branches)
    branch = newest_checkpoint(branches)
    assert (branch / "shards" / "weights").stat().st_ino == (checkpoint / "shards" / "weights").stat().st_ino
    remove_checkpoint(checkpoint)
    assert (branch / "shards" / "weights").read_text() == "3"


def test_space_is_three_float32_values_a_parameter_and_checkpoint_and_one_for_the_model(tmp_path, monkeypatch):
    """10 parameters, 2 checkpoints and the next: 10 * (3 * 12 + 4) = 400 bytes."""
    usage = SimpleNamespace(free=400)
    monkeypatch.setattr(checkpoints.shutil, "disk_usage", lambda _: usage)
    require_space(tmp_path, 10, kept=2)
    usage.free = 399
    with pytest.raises(OSError, match=r"3 checkpoints of 10 parameters .* lower engine.kept_checkpoints=2"):
        require_space(tmp_path, 10, kept=2)
    (tmp_path / "there").write_text("x")
    require_space(tmp_path, 10, kept=2)
