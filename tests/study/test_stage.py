"""Stages: what decides a result, where it is kept, and when it answers."""

import importlib
import json
import pkgutil
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass, fields, is_dataclass, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any, ClassVar, NamedTuple

import numpy as np
import pandas as pd
import pytest
import torch
from pydantic import BaseModel
from sources import write_source

import budwood.study
from budwood.models.checkpoint import Checkpoint
from budwood.records.cost import Cost
from budwood.records.locks import FolderInUseError, holding
from budwood.records.strict import HOW
from budwood.study.evaluation import AskModel, EvaluateTeacher
from budwood.study.results import PARTS
from budwood.study.search import EvolveSubnets
from budwood.study.stage import USED, Stage, Unused, Work, Workspace, identity, remove, unused_since
from budwood.study.training import CacheTeacher, Start, TrainArm
from budwood.training.settings import ArmSettings

# ---- What decides ------------------------------------------------------------------------------------------------


def subclasses(kind: type) -> Iterator[type]:
    """Yield all of budwood's stages."""
    for each in kind.__subclasses__():
        if each.__module__.startswith("budwood."):
            yield each
        yield from subclasses(each)


def deciding(stage: Stage) -> list[str]:
    return [each.name for each in fields(stage) if HOW not in each.metadata]


def another(value: Any) -> Any:
    """Return a value that differs in what tells it from others."""
    table: list[tuple[type | tuple[type, ...], Callable[[Any], Any]]] = [
        (str, lambda text: f"{text}-other"),
        ((int, float), lambda number: number + 1),
        (torch.Tensor, lambda tensor: tensor + 1),
        (BaseModel, _other_settings),
        (dict, lambda mapping: {key: another(entry) for key, entry in mapping.items()}),
        ((list, tuple), lambda parts: [*parts, *parts]),
    ]
    for kinds, change in table:
        if isinstance(value, kinds):
            return change(value)
    if is_dataclass(value) and "fingerprint" in {each.name for each in fields(value)}:
        return replace(value, fingerprint="another")
    return SimpleNamespace(fingerprint="another")


def _other_settings(value: BaseModel) -> BaseModel:
    changes = {
        "seed": 7,
        "temperature": 2.0,
        "num_samples": 3,
        "learning_rate": 0.5,
        "layerwise": True,
        "num_evaluations": 9,
        "fraction": 0.3,
    }
    changes |= {"description": "other", "revision": "other", "gguf": "f16", "fingerprint": "other"}
    changes |= {"singular_values": False, "rates": (0.1, 0.2)}
    known = {name: change for name, change in changes.items() if name in type(value).model_fields}
    assert known, f"no other {type(value).__name__} is known"
    return value.model_copy(update=known)


@pytest.mark.slow
def test_there_is_an_example_of_every_stage(stages):
    for module in pkgutil.iter_modules(budwood.study.__path__):
        importlib.import_module(f"budwood.study.{module.name}")
    assert {type(stage) for stage in stages} == set(subclasses(Stage))
    names = [stage.name for stage in stages]
    assert len(set(names)) == len(names)


@pytest.mark.slow
def test_facts_hold_every_field_that_decides_and_the_code(stages):
    for stage in stages:
        facts = stage.facts()
        json.dumps(facts)
        assert {"stage", "code", *deciding(stage)} <= set(facts), stage.name
        assert not {each.name for each in fields(stage) if HOW in each.metadata} & set(facts), stage.name


@pytest.mark.slow
def test_another_value_of_any_deciding_field_is_another_stage(stages):
    for stage in stages:
        for name in deciding(stage):
            value = getattr(stage, name)
            if isinstance(stage, TrainArm) and name == "settings":
                changed = ArmSettings(learning_rate=0.9, distillation=value.distillation)
            elif isinstance(stage, TrainArm) and name == "start":
                changed = Start(initialisation="random", checkpoint=value.checkpoint)
            else:
                changed = another(value)
            assert replace(stage, **{name: changed}).facts() != stage.facts(), f"{stage.name}.{name}"


def test_another_value_of_a_field_that_does_not_decide_changes_nothing(stages):
    seen = 0
    for stage in stages:
        if isinstance(stage, AskModel):
            continue  # of its questions and settings some things decide: see test_facts.py
        for each in fields(stage):
            if HOW in each.metadata:
                seen += 1
                changed = replace(stage, **{each.name: SimpleNamespace(fingerprint="another")})
                assert changed.facts() == stage.facts(), f"{stage.name}.{each.name}"
    assert seen >= 8


def test_how_settings_run_does_not_decide(stages):
    """Micro-batches, checkpoints and workers."""
    for stage in stages:
        if isinstance(stage, TrainArm | CacheTeacher):
            schedule = stage.schedule.model_copy(update={"micro_batch": 2, "checkpoint_steps": 9})
            assert replace(stage, schedule=schedule).facts() == stage.facts()
        if isinstance(stage, EvolveSubnets):
            assert replace(stage, search=stage.search.model_copy(update={"workers": 3})).facts() == stage.facts()


def test_what_has_no_fingerprint_cannot_decide():
    with pytest.raises(TypeError, match="cannot depend on a object: it has no fingerprint"):
        identity(object())


@pytest.mark.slow
def test_a_fitness_of_ones_own_decides_with_its_source(stages, tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(str(tmp_path))
    (stage,) = [stage for stage in stages if isinstance(stage, EvolveSubnets)]
    assert "fitness_code" not in stage.facts()
    own = stage.search.model_copy(update={"fitness": "own_measure.loss"})
    facts = []
    for body in ("return 1", "return 2", "return 2  # the same"):
        write_source(tmp_path / "own_measure.py", f"def loss(model, windows):\n    {body}\n")
        facts.append(replace(stage, search=own).facts())
    assert facts[0] != facts[1] == facts[2]


# ---- Folders and reuse -------------------------------------------------------------------------------------------


class Made(NamedTuple):
    """Something of every kind."""

    table: pd.DataFrame
    tensors: dict[str, torch.Tensor]
    cost: Cost
    costs: list[Cost]
    model: Checkpoint


RUNS: list[int] = []


@dataclass(frozen=True, kw_only=True)
class Make(Stage[Made]):
    """Make it."""

    name: ClassVar[str] = "make"
    number: int
    teacher: Checkpoint

    def run(self, work: Work) -> Made:
        """Count the call."""
        RUNS.append(self.number)
        shutil.copytree(self.teacher.folder, work.folder / "model", dirs_exist_ok=True)
        return Made(
            table=pd.DataFrame({"loss": [1.5, np.nan], "name": ["a", None]}),
            tensors={"x": torch.arange(3.0)},
            cost=Cost(stage="search", flops=float("inf"), tokens=self.number),
            costs=[],
            model=Checkpoint.open(work.folder / "model"),
        )

    def replay(self, work: Work) -> None:
        """Report what is reported while it runs."""
        work.track({"epochs": 2}, 1)

    def report(self, result: Made, work: Work) -> None:
        """Report."""
        work.track({"tokens": result.cost.tokens}, 0)


@pytest.fixture
def make(materials, tmp_path) -> Make:
    RUNS.clear()
    folder = tmp_path / "teacher"
    shutil.copytree(materials.teacher.folder, folder)
    return Make(number=1, teacher=Checkpoint.open(folder))


@pytest.fixture
def workspace(tmp_path) -> Workspace:
    return Workspace(folder=tmp_path / "workspace")


def folder_of(workspace: Workspace) -> Path:
    (folder,) = workspace.folder.glob("make-*")
    return folder


def test_a_finished_stage_answers_with_what_it_returned_and_reports_it_again(make, workspace):
    first = workspace.finish(make)
    told = []
    again = replace(workspace, track=lambda metrics, step: told.append((metrics, step))).finish(make)
    assert RUNS == [1]
    pd.testing.assert_frame_equal(first.table, again.table)
    assert torch.equal(first.tensors["x"], again.tensors["x"])
    assert (first.cost, first.costs, first.model) == (again.cost, again.costs, again.model)
    assert told == [({"epochs": 2}, 1), ({"tokens": 1}, 0)]


def test_equal_declarations_share_a_folder_and_others_do_not(make, workspace, tmp_path):
    workspace.finish(make)
    shutil.copytree(make.teacher.folder, tmp_path / "moved")
    workspace.finish(Make(number=1, teacher=Checkpoint.open(tmp_path / "moved")))
    assert RUNS == [1]
    workspace.finish(replace(make, number=2))
    assert RUNS == [1, 2]
    assert len(list(workspace.folder.glob("make-*"))) == 2


def test_a_folder_says_what_it_is_of(make, workspace):
    workspace.finish(make)
    facts = json.loads((folder_of(workspace) / "facts.json").read_text())
    assert facts == make.facts()
    assert (facts["number"], facts["teacher"]) == (1, make.teacher.fingerprint)


def test_changed_code_is_another_stage(make, workspace, monkeypatch):
    workspace.finish(make)
    monkeypatch.setattr("budwood.study.stage.code_hash", lambda _: "other")
    workspace.finish(make)
    assert RUNS == [1, 1]


def test_weights_edited_in_place_are_noticed(make, workspace):
    workspace.finish(make)
    weights = make.teacher.folder / "model.safetensors"
    content = bytearray(weights.read_bytes())
    content[-1] ^= 1
    weights.write_bytes(content)
    workspace.finish(Make(number=1, teacher=Checkpoint.open(make.teacher.folder)))
    assert RUNS == [1, 1]


def test_a_stage_that_was_interrupted_runs_again_in_its_folder(make, workspace):
    workspace.finish(make)
    (folder_of(workspace) / PARTS).unlink()
    workspace.finish(make)
    assert RUNS == [1, 1]
    assert folder_of(workspace)


def test_two_processes_do_not_do_the_same_work(make, workspace):
    folder = workspace.claim(make.name, make.facts())
    with holding(folder, "the other"), pytest.raises(FolderInUseError, match="is in use: the other by process"):
        workspace.finish(make)
    assert RUNS == []


def cut(file: Path) -> None:
    file.write_bytes(file.read_bytes()[:-9])


def flip(file: Path) -> None:
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(content)


WRITTEN = ["result.json", "table.parquet", "tensors.safetensors", "cost.json", "costs.json", "model/config.json"]
WRITTEN += ["model/model.safetensors"]


@pytest.mark.parametrize("damage", [Path.unlink, cut, flip, lambda file: file.write_bytes(b"")])
@pytest.mark.parametrize("name", WRITTEN)
def test_damage_is_one_error_with_the_folder_and_what_to_do(make, workspace, name, damage):
    workspace.finish(make)
    folder = folder_of(workspace)
    damage(folder / name)
    if name == PARTS and not (folder / PARTS).exists():
        workspace.finish(make)  # it has not been finished
        return
    with pytest.raises(ValueError, match="is damaged") as error:
        workspace.finish(make)
    message = str(error.value)
    assert message.startswith(f"{folder} is damaged (")
    assert message.endswith("remove this folder and run again to rebuild it")
    shutil.rmtree(folder)
    workspace.finish(make)
    assert RUNS == [1, 1]


@pytest.mark.parametrize("text", ["[]", "null", "{}", '{"table": 3}', '{"table": {"form": "poem", "at": "x"}}'])
def test_a_list_that_is_none_is_damage(make, workspace, text):
    workspace.finish(make)
    (folder_of(workspace) / PARTS).write_text(text)
    with pytest.raises(ValueError, match=r"make-.* is damaged \(.*\): remove this folder and run again"):
        workspace.finish(make)


@pytest.mark.slow
def test_the_teachers_own_folder_is_read_again_when_it_was_edited(materials, workspace, tmp_path):
    """With a real stage: other weights give other losses."""
    shutil.copytree(materials.teacher.folder, tmp_path / "teacher")

    def measure() -> list[float]:
        stage = EvaluateTeacher(
            teacher=Checkpoint.open(tmp_path / "teacher"),
            tokens=materials.tokens,
            length=8,
            reported={"validation": 2},
            compute=materials.compute,
        )
        return workspace.finish(stage).losses["one"]

    before = measure()
    assert measure() == before
    weights = tmp_path / "teacher" / "model.safetensors"
    content = bytearray(weights.read_bytes())
    for place in range(len(content) - 64, len(content), 4):
        content[place + 1] ^= 0x7F
    weights.write_bytes(content)
    assert measure() != before


# ---- Pruning -----------------------------------------------------------------------------------------------------


def test_what_was_not_used_since_a_time_is_found_the_largest_first(workspace):
    small, large, fresh = (workspace.claim("stage", {"number": number}) for number in range(3))
    (small / "data").write_bytes(b"0" * 10)
    (large / "deep").mkdir()
    (large / "deep" / "data").write_bytes(b"0" * 10_000)
    now = datetime.now(UTC)
    old = now - timedelta(days=3)
    for folder in (small, large):
        (folder / USED).write_text(old.isoformat())
    found = unused_since(workspace.folder, now - timedelta(days=1))
    assert [each.folder for each in found] == [large, small]
    assert found[0].last_used == old
    assert found[0].num_bytes - found[1].num_bytes >= 9_990
    assert unused_since(workspace.folder, old) == []
    workspace.claim("stage", {"number": 1})
    assert [each.folder for each in unused_since(workspace.folder, now - timedelta(days=1))] == [small]
    assert fresh.is_dir()


def test_what_is_linked_elsewhere_frees_nothing(workspace, tmp_path):
    folder = workspace.claim("stage", {})
    (folder / "tokens.bin").write_bytes(b"0" * 10_000)
    (tmp_path / "tokens.bin").hardlink_to(folder / "tokens.bin")
    (found,) = unused_since(workspace.folder, datetime.now(UTC) + timedelta(days=1))
    assert found.num_bytes < 1000


def test_a_folder_at_work_is_not_removed(workspace):
    folder = workspace.claim("stage", {})
    unused = Unused(folder, datetime.now(UTC), 0)
    with holding(folder, "work"), pytest.raises(FolderInUseError, match="is in use: work by process"):
        remove(unused)
    assert folder.is_dir()
    remove(unused)
    assert not folder.exists()
