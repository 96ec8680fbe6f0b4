"""A ranking that is interrupted keeps what its pass over the text has found."""

from dataclasses import replace
from pathlib import Path
from unittest.mock import Mock, patch

import pytest
import torch

from budwood.study import teacher
from budwood.study.results import PARTS
from budwood.study.stage import Workspace
from budwood.study.teacher import SCORES, RankComponents
from budwood.study.text import Materials


class Killed(BaseException):
    """As a signal ends a run."""


@pytest.fixture
def ranking(materials: Materials) -> RankComponents:
    return RankComponents.of(materials, eliminates=True)


def kill_in_elimination(ranking: RankComponents, workspace: Workspace) -> None:
    """Begin a ranking that ends as soon as its text was read."""
    with patch.object(teacher, "leave_layers_out", side_effect=Killed), pytest.raises(Killed):
        workspace.finish(ranking)


def test_a_kill_during_elimination_costs_no_second_pass(
    ranking: RankComponents, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = Workspace(folder=tmp_path / "whole").finish(ranking)
    workspace = Workspace(folder=tmp_path / "killed")
    kill_in_elimination(ranking, workspace)
    monkeypatch.setattr(teacher, "importance_in", Mock(side_effect=AssertionError("the text was read again")))
    found = workspace.finish(ranking)
    assert found.importance.keys() == whole.importance.keys()
    assert all(torch.equal(found.importance[name], whole.importance[name]) for name in whole.importance)
    assert [(cost.stage, cost.tokens, cost.flops) for cost in found.costs] == [
        (cost.stage, cost.tokens, cost.flops) for cost in whole.costs
    ]
    (ours, theirs) = (
        next(tmp_path.glob(f"{name}/importance-*/importance.safetensors")) for name in ("whole", "killed")
    )
    assert ours.read_bytes() == theirs.read_bytes()


def test_damaged_scores_are_named(ranking: RankComponents, tmp_path: Path) -> None:
    workspace = Workspace(folder=tmp_path)
    kill_in_elimination(ranking, workspace)
    (scores,) = tmp_path.glob(f"importance-*/{SCORES}")
    assert (scores / PARTS).is_file()
    (scores / "importance.safetensors").write_bytes(b"")
    with pytest.raises(ValueError, match=rf"{SCORES} is damaged .*remove this folder and run again"):
        workspace.finish(ranking)


def test_without_elimination_nothing_is_kept_twice(ranking: RankComponents, tmp_path: Path) -> None:
    Workspace(folder=tmp_path).finish(replace(ranking, elimination=0))
    assert not list(tmp_path.glob(f"importance-*/{SCORES}"))
