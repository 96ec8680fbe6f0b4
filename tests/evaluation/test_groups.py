"""Tasks, groups and tags of the user's own and of lm_eval: every one is asked and reported, or refused."""

import json
import logging
from pathlib import Path

import numpy as np
import pytest
import yaml
from lm_eval import evaluate
from lm_eval.api.task import ConfigurableTask, Task
from lm_eval.models.huggingface import HFLM
from lm_eval.tasks import TaskManager
from lm_eval.tasks._factory import TaskFactory
from questions import ask, texts

from budwood.evaluation import harness, tasks
from budwood.evaluation.harness import fingerprint_tasks
from budwood.evaluation.settings import TASK_PRESETS, Benchmark, EvaluationSettings
from budwood.evaluation.tasks import check_benchmarks, check_names

pytestmark = pytest.mark.usefixtures("_datasets_cache")

CHOICES = {
    "output_type": "multiple_choice",
    "dataset_path": "json",
    "test_split": "test",
    "doc_to_text": "context",
    "doc_to_choice": "choices",
    "doc_to_target": "label",
    "metric_list": [{"metric": "acc"}],
    "tag": "own_tag",
}


MEAN = [{"metric": "acc", "weight_by_size": True}]


GROUPS = {
    "own_mean": {"task": ["own_0", "own_1"], "aggregate_metric_list": MEAN},
    "own_bare": {"task": [{"task": "own_2", "num_fewshot": 1}, "own_mean", {"group": "inner", "task": ["own_3"]}]},
    # Its members have no such metric.
    "own_empty": {"task": ["own_1", "own_2"], "aggregate_metric_list": [{"metric": "f1"}]},
}


@pytest.fixture
def own_tasks(tmp_path: Path) -> Path:
    """Return a folder of four tasks of six questions under one tag, with groups of them."""
    folder = tmp_path / "own"
    folder.mkdir()
    for number, text in enumerate(texts(4)):
        rows = [
            {"context": text[place:9] or "x", "choices": ["ab", "cde", "f"], "label": place % 3} for place in range(6)
        ]
        (folder / f"{number}.jsonl").write_text("\n".join(map(json.dumps, rows)))
        data = {"dataset_kwargs": {"data_files": {"test": str(folder / f"{number}.jsonl")}}}
        task = {"task": f"own_{number}", "fewshot_split": "test"} | CHOICES | data
        (folder / f"{number}.yaml").write_text(yaml.safe_dump(task))
    for name, group in GROUPS.items():
        (folder / f"{name}.yaml").write_text(yaml.safe_dump({"group": name} | group))
    return folder


@pytest.fixture(autouse=True)
def _only_own_tasks(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Leave the harness's own 14,000 tasks unread where a folder gives others."""
    if "own_tasks" in request.fixturenames:
        monkeypatch.setattr(
            tasks,
            "known_tasks",
            lambda path: TaskManager(include_path=str(tasks.own_folder(path)), include_defaults=False),
        )


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("own_1", {"own_1": 6}),
        ("own_tag", {"own_0": 6, "own_1": 6, "own_2": 6, "own_3": 6}),
        ("own_mean", {"own_mean": 12}),
        ("own_bare", {"own_2": 6, "own_mean": 12, "own_3": 6}),
        ("own_empty", {"own_1": 6, "own_2": 6}),
    ],
)
def test_groups_without_scores_and_tags_are_reported_by_their_tasks(
    folder: Path, tmp_path: Path, own_tasks: Path, name: str, expected: dict[str, int]
) -> None:
    check_benchmarks(EvaluationSettings(tasks=[name], include_path=str(own_tasks)))
    records = ask(folder, tmp_path, tmp_path, tasks=[name], include_path=str(own_tasks))
    assert {record["task"]: record["num_questions"] for record in records} == expected
    for record in records:
        assert record["value"] == pytest.approx(np.mean(record["answers"]))
        assert record["chance"] == pytest.approx(1 / 3)
        assert record["tokens"] > 0
    # What a group changes in its members is kept.
    assert {r["task"]: r["num_fewshot"] for r in records}.get("own_2") == (None, 0, 1)[
        ("own_2" in expected) + (name == "own_bare")
    ]


def test_a_group_has_the_scores_that_the_harness_gives_it(folder: Path, tmp_path: Path, own_tasks: Path) -> None:
    manager = TaskManager(include_path=str(own_tasks), include_defaults=False)
    model = HFLM(str(folder), device="cpu", dtype="float32", batch_size=3)
    theirs = evaluate(model, manager.load("own_mean"), bootstrap_iters=10)["results"]["own_mean"]
    (record,) = ask(folder, tmp_path, tmp_path, tasks=["own_mean"], include_path=str(own_tasks))
    assert record["value"] == pytest.approx(theirs["acc,none"])
    assert record["standard_error"] == pytest.approx(theirs["acc_stderr,none"])


def test_a_group_that_was_killed_goes_on_with_its_next_task(
    folder: Path, tmp_path: Path, own_tasks: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ask_task, asked = harness._Session._ask, []

    def die_once(self: harness._Session, task: Task) -> dict:
        asked.append(task.task_name)
        if len(asked) == 2:
            raise KeyboardInterrupt
        return ask_task(self, task)

    monkeypatch.setattr(harness._Session, "_ask", die_once)
    settings = {"tasks": ["own_tag"], "include_path": str(own_tasks)}
    with pytest.raises(KeyboardInterrupt):
        ask(folder, tmp_path, tmp_path, **settings)
    assert len(ask(folder, tmp_path, tmp_path, **settings)) == 4
    assert asked == ["own_0", "own_1", "own_1", "own_2", "own_3"]


def test_tasks_are_loaded_before_any_model(
    folder: Path, tmp_path: Path, own_tasks: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("budwood.evaluation.respondent.load_model", None)
    (own_tasks / "3.jsonl").unlink()
    with pytest.raises(ValueError, match="'own_tag' cannot be loaded"):
        ask(folder, tmp_path, tmp_path, tasks=["own_1", "own_tag"], include_path=str(own_tasks))


def test_of_equal_tasks_the_first_is_reported(folder: Path, tmp_path: Path, own_tasks: Path) -> None:
    records = ask(folder, tmp_path, tmp_path, tasks=["own_2", "own_bare"], include_path=str(own_tasks))
    assert [record["task"] for record in records] == ["own_2", "own_mean", "own_3"]
    assert records[0]["num_fewshot"] == 0


def test_a_folder_without_tasks_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"evaluation.include_path: .*/nothing must be a folder with tasks of lm_eval"):
        check_benchmarks(EvaluationSettings(tasks=["piqa"], include_path=str(tmp_path / "nothing")))


@pytest.mark.parametrize("flag", ["MULTIMODAL", "UNSAFE_CODE"])
def test_what_cannot_be_asked_is_refused(own_tasks: Path, monkeypatch: pytest.MonkeyPatch, flag: str) -> None:
    monkeypatch.setattr(Task, flag, True, raising=False)
    monkeypatch.setattr(ConfigurableTask, flag, True)
    with pytest.raises(ValueError, match="'own_mean' cannot be asked: own_0"):
        check_benchmarks(EvaluationSettings(tasks=["own_mean"], include_path=str(own_tasks)))


def test_a_fingerprint_follows_further_tasks(tmp_path: Path, own_tasks: Path) -> None:
    before = fingerprint_tasks(tmp_path, str(own_tasks))
    assert before != fingerprint_tasks(tmp_path)
    (own_tasks / "3.jsonl").write_text("{}")
    assert before != fingerprint_tasks(tmp_path, str(own_tasks))


class NamedTask(Task):
    """A task that has only a name: no data is loaded."""

    task_name = ""

    def __init__(self, name: str) -> None:
        self.task_name = name


NamedTask.__abstractmethods__ = frozenset()


@pytest.mark.slow
def test_every_group_and_tag_of_the_harness_gives_at_least_one_record(monkeypatch: pytest.MonkeyPatch) -> None:
    """862 groups, 42 of them without scores, and all tags, with answers as if their tasks had been asked."""
    monkeypatch.setattr(
        TaskFactory, "_build_task", lambda _, entry, changes: NamedTask((changes or {}).get("task", entry.name))
    )
    monkeypatch.setattr("lm_eval.tasks._factory.ConfigurableTask", lambda config: NamedTask(config["task"]))
    logging.getLogger("lm_eval").setLevel(logging.ERROR)
    manager = tasks.known_tasks(None)
    question = {"metrics": {"acc": 1.0}, "filter": "none", "num_requests": 2}
    spent = {"num_fewshot": 0, "num_cut": 1, "tokens": 2, "flops": 3.0, "seconds": 4.0}
    answer = harness._Asked(scores={"acc,none": 1.0, "sample_len": 1}, version=1, samples=[question], **spent)
    malformed = []
    for name in [*manager.all_groups, *manager.all_tags]:
        try:
            items = tasks.load_benchmark(Benchmark(name), Path(), None)
        except ValueError:
            malformed.append(name)
            continue
        members = list(tasks.leaves(items))
        session = harness._Session(None, Benchmark(name), None, Path())
        records = [r for item in items for r in session._report(item, {id(task): answer for task in members})]
        assert sum(record.num_cut for record in records) == len(members) > 0, name
    assert len(manager.all_groups) > 800
    assert {"pythia", "openllm", "tinyBenchmarks", "glue", "ai2_arc"} <= {*manager.all_groups, *manager.all_tags}
    # The harness itself cannot read these.
    assert malformed == ["t0_eval", "toksuite_abridged"]


@pytest.mark.slow
def test_every_task_of_a_preset_is_known_to_the_harness_and_others_are_not() -> None:
    known = set(tasks.known_tasks(None).all_tasks)
    assert {b.task for name in ("paper", "extended") for b in TASK_PRESETS[name]} <= known
    for check in (check_names, check_benchmarks):
        with pytest.raises(
            ValueError, match=r"(?s)'hellaswagg' is neither a preset \(heldout, .*did you mean hellaswag"
        ):
            check(EvaluationSettings(tasks=["heldout", "hellaswagg"]))


@pytest.mark.slow
def test_data_that_cannot_be_had_is_told_by_name(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise ConnectionError("no route")

    monkeypatch.setattr("datasets.load_dataset", refuse)
    with pytest.raises(ValueError, match=r"'piqa' cannot be loaded \(ConnectionError: no route\)"):
        check_benchmarks(EvaluationSettings(tasks=["piqa"]))
