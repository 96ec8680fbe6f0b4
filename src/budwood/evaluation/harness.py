"""How a checkpoint answers the tasks of EleutherAI's lm-evaluation-harness, and the tasks made from held-out text."""

import hashlib
import json
import logging
import math
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

import yaml

from budwood.evaluation.settings import HELDOUT_TASKS, LAST_WORD, Benchmark, EvaluationSettings
from budwood.evaluation.tasks import VERSION, leaves, load_benchmark, own_folder
from budwood.models.device import Compute
from budwood.records.evaluation import Downstream, Metric, TaskAnswers
from budwood.records.files import read_json, write_folder_atomically, write_json
from budwood.records.seal import damage, seal
from budwood.records.strict import Strict

if TYPE_CHECKING:
    from budwood.evaluation.respondent import Respondent

FEWSHOT_SEED = 1234
"""The harness's own default, which published numbers were made with."""
BOOTSTRAP_ITERATIONS = 1000
"""For metrics without a closed form of their standard error (perplexity of LAMBADA)."""
HELDOUT_VERSION = 1.0
"""Raised whenever the questions of a held-out task would change."""

_logger = logging.getLogger(__name__)

_CHOICE = {"output_type": "multiple_choice", "doc_to_choice": "choices", "doc_to_target": "label"}
_ANSWERS: dict[str, dict[str, str]] = dict.fromkeys(HELDOUT_TASKS, _CHOICE) | {
    LAST_WORD: {"output_type": "loglikelihood", "doc_to_target": "target"}
}


def write_tasks(questions: Mapping[str, Sequence[Mapping[str, Any]]], folder: Path) -> None:
    """Write held-out tasks as `lm_eval --include_path` reads them: each a YAML file, and its questions in JSON lines.

    The YAML names the questions by their absolute path, since the harness knows no other: see `open_tasks`. A kill
    leaves the old folder, or none.
    """
    with write_folder_atomically(folder) as partial:
        for task, rows in questions.items():
            lines = "".join(f"{json.dumps(row, ensure_ascii=False)}\n" for row in rows)
            (partial / f"{task}.jsonl").write_text(lines, encoding="utf-8")
            metrics = ("acc",) if task == LAST_WORD else ("acc", "acc_norm")
            config = {
                "task": task,
                "dataset_path": "json",
                "dataset_kwargs": {"data_files": {"test": str(folder.resolve() / f"{task}.jsonl")}},
                "test_split": "test",
                "doc_to_text": "context",
                **_ANSWERS[task],
                "metric_list": [{"metric": name, "aggregation": "mean", "higher_is_better": True} for name in metrics],
                "metadata": {"version": HELDOUT_VERSION},
            }
            (partial / f"{task}.yaml").write_text(yaml.safe_dump(config, sort_keys=False), encoding="utf-8")
        seal(partial)


def open_tasks(folder: Path) -> Path:
    """Return a folder that `write_tasks` wrote, whose YAML leads to its questions though it was moved.

    Raises:
        ValueError: a file has changed.
    """
    reason = damage(folder)
    if reason is not None:
        raise ValueError(f"{folder.absolute()} is damaged ({reason}): remove it and run again to rebuild it")
    files = {file.stem: file for file in sorted(folder.glob("*.jsonl"))}
    configs = [yaml.safe_load(file.with_suffix(".yaml").read_text(encoding="utf-8")) for file in files.values()]
    if any(Path(config["dataset_kwargs"]["data_files"]["test"]).parent != folder.resolve() for config in configs):
        lines = {task: file.read_text(encoding="utf-8").splitlines() for task, file in files.items()}
        write_tasks({task: [json.loads(line) for line in rows] for task, rows in lines.items()}, folder)
    return folder


def fingerprint_tasks(heldout: Path, include_path: str | None = None) -> str:
    """Return a hash of the held-out questions that `write_tasks` wrote, and of a folder of further tasks."""
    digest = hashlib.sha256()
    for file in sorted(heldout.glob("*.jsonl")):
        digest.update(f"{file.name} {HELDOUT_VERSION} ".encode() + file.read_bytes())
    if include_path is not None:
        own = own_folder(include_path)
        for file in sorted(path for path in own.rglob("*") if path.is_file() and "__pycache__" not in path.parts):
            digest.update(f"{file.relative_to(own)} {file.stat().st_size} ".encode() + file.read_bytes())
    return digest.hexdigest()[:16]


def run_benchmarks(
    folder: Path,
    heldout: Path,
    settings: EvaluationSettings,
    compute: Compute,
    output: Path,
    *,
    bos_token_id: int | None,
) -> Downstream:
    """Ask a checkpoint all questions of the settings' benchmarks.

    Every finished task, and so every task of a group, is kept in `output` and read instead of asked again.

    Args:
        folder: the checkpoint with its tokenizer.
        heldout: the held-out tasks (see `write_tasks`).
        settings: what is asked.
        compute: where the model runs.
        output: for this checkpoint, these settings and these questions alone.
        bos_token_id: begins every request, as it begins the sequences of the corpus.

    Returns:
        answers under the name of the folder: one for a task and for a group that the harness aggregates; one each for
        the tasks of other groups and of tags. Of equal names the first is reported.

    Raises:
        ValueError: the folder has no tokenizer.
    """
    if not (folder / "tokenizer_config.json").is_file():
        raise ValueError(f"{folder} has no tokenizer: the harness reads text, not tokens")
    files = {
        benchmark: output / f"{_slug(benchmark.task)}-{benchmark.num_fewshot}-{benchmark.metric}.json"
        for benchmark in settings.benchmarks()
    }
    # All of them before the model: what cannot be loaded costs nothing yet.
    missing = {
        benchmark: load_benchmark(benchmark, heldout, settings.include_path)
        for benchmark, file in files.items()
        if not file.is_file()
    }
    if missing:
        # Seconds of imports that commands without an evaluation do without.
        from budwood.evaluation.respondent import Respondent  # noqa: PLC0415

        respondent = Respondent(folder, compute, settings.batch_size, bos_token_id)
        for benchmark, items in missing.items():
            session = _Session(respondent, benchmark, settings.limit, files[benchmark].parent / files[benchmark].stem)
            write_json(files[benchmark], [record.model_dump() for record in session.records(items)])
    records = [TaskAnswers.model_validate(row) for file in files.values() for row in read_json(file)]
    first = {record.task: record for record in reversed(records)}
    return Downstream(
        model=folder.name,
        harness=VERSION,
        device=compute.describe(),
        precision=compute.precision,
        limit=settings.limit,
        tasks=tuple(reversed(first.values())),
    )


class _Sample(Strict):
    """What a question says of a task."""

    filter: str
    num_requests: int
    metrics: dict[str, float]


class _Asked(Strict):
    """The scores of a task, and what its questions say of them."""

    scores: dict[str, float]
    """By the harness's keys."""
    version: float | str | None
    num_fewshot: int
    num_cut: int
    samples: list[_Sample]
    tokens: int
    flops: float
    seconds: float


@dataclass(frozen=True, slots=True)
class _Session:
    """One benchmark asked of one model."""

    respondent: "Respondent"
    benchmark: Benchmark
    limit: int | None
    folder: Path
    """Keeps what every task gave."""

    def records(self, items: Sequence[Any]) -> list[TaskAnswers]:
        """Ask all tasks, then return the records of what the benchmark consists of."""
        answers: dict[int, _Asked] = {}
        for place, task in enumerate(leaves(items)):
            file = self.folder / f"{place}-{_slug(task.task_name)}.json"
            if not file.is_file():
                write_json(file, self._ask(task).model_dump())
            answers[id(task)] = _Asked.model_validate(read_json(file))
        return [record for item in items for record in self._report(item, answers)]

    def _ask(self, task: Any) -> _Asked:
        from lm_eval import evaluate  # noqa: PLC0415 - seconds of imports

        started, tokens, flops = time.perf_counter(), self.respondent.tokens, self.respondent.flops
        shots = self.benchmark.num_fewshot
        task.set_config("num_fewshot", (task.get_config("num_fewshot") or 0) if shots is None else shots)
        task.set_fewshot_seed(FEWSHOT_SEED)
        name = task.task_name
        found = evaluate(
            self.respondent, {"tasks": {name: task}}, limit=self.limit, bootstrap_iters=BOOTSTRAP_ITERATIONS
        )
        samples = found["samples"][name]
        questions = {sample["doc_id"]: self.respondent.was_cut(sample["arguments"]) for sample in samples}
        num_cut = sum(questions.values())
        if num_cut:
            _logger.warning(
                "%s: %d of %d questions exceed the model's %d positions and were cut at their left",
                *(name, num_cut, len(questions), self.respondent.max_length),
            )
        return _Asked(
            scores={key: value for key, value in found["results"][name].items() if isinstance(value, int | float)},
            version=found["versions"][name],
            num_fewshot=found["n-shot"][name] or 0,
            num_cut=num_cut,
            samples=[_sample(sample) for sample in samples],
            tokens=self.respondent.tokens - tokens,
            flops=self.respondent.flops - flops,
            seconds=time.perf_counter() - started,
        )

    def _report(self, item: Any, answers: Mapping[int, _Asked]) -> Iterator[TaskAnswers]:
        """Yield the record of a task or of a group that has scores of its own, else those of the group's members."""
        tasks = list(leaves([item]))
        own = [answers[id(task)] for task in tasks]
        if not hasattr(item, "aggregate"):
            scores, version = own[0].scores, own[0].version
        else:
            of_members = {task.task_name: answer.scores for task, answer in zip(tasks, own, strict=True)}
            scores, version = item.aggregate(of_members), item.version
        if any("," in key for key in scores):
            name = item.name if hasattr(item, "aggregate") else item.task_name
            yield _answers((name, version), self.benchmark.metric, scores, own)
        elif hasattr(item, "aggregate"):
            for member in item:
                yield from self._report(member, answers)
        else:
            _logger.warning("%s gives no number and is not reported", item.task_name)


def _sample(sample: Mapping[str, Any]) -> _Sample:
    numbers = {name: sample[name] for name in sample["metrics"] if isinstance(sample[name], int | float)}
    return _Sample(filter=sample["filter"], num_requests=len(sample["arguments"]), metrics=numbers)


def _answers(
    named: tuple[str, float | str | None], shown: str | None, scores: Mapping[str, Any], asked: Sequence[_Asked]
) -> TaskAnswers:
    """Return what tables need of the harness's scores.

    Args:
        named: the task or group, and its version.
        shown: the metric that tables show.
        scores: of a task or a group, by the harness's keys.
        asked: the task, or all tasks of the group.
    """
    # The harness names a metric `acc,none`: the metric, and the filter that its answers went through.
    keys = [key for key in scores if "," in key and not key.partition(",")[0].endswith("_stderr")]
    errors = {key: scores.get(key.replace(",", "_stderr,", 1)) for key in keys}
    metrics = {
        key.removesuffix(",none"): Metric(
            value=float(scores[key]), standard_error=float(error) if isinstance(error, int | float) else None
        )
        for key, error in errors.items()
    }
    metric = next((name for name in (shown, "acc_norm", "acc") if name in metrics), next(iter(metrics)))
    assert metric is not None, "it is one of the names"
    name, _, filter_name = metric.partition(",")
    samples = [sample for task in asked for sample in task.samples if sample.filter == (filter_name or "none")]
    values, value = [sample.metrics.get(name, math.nan) for sample in samples], metrics[metric].value
    return TaskAnswers(
        task=named[0],
        version=named[1],
        num_fewshot=max(task.num_fewshot for task in asked),
        metric=metric,
        num_questions=len(samples),
        **dict(metrics[metric]),
        chance=_chance([sample.num_requests for sample in samples], metrics, metric),
        metrics=metrics,
        # None where it is no mean over questions.
        answers=values if math.isclose(fmean(values), value, abs_tol=1e-9) else None,
        num_cut=sum(task.num_cut for task in asked),
        tokens=sum(task.tokens for task in asked),
        flops=sum(task.flops for task in asked),
        seconds=sum(task.seconds for task in asked),
    )


def _chance(num_requests: Sequence[int], metrics: Mapping[str, Metric], metric: str) -> float | None:
    """Return the share that guessing gets right, where every request of a question is one of its choices."""
    if metric not in {"acc", "acc_norm"} or "acc_mutual_info" in metrics or min(num_requests) == 1:
        return None
    return sum(1 / number for number in num_requests) / len(num_requests)


def _slug(name: str) -> str:
    """Return a name as part of a file's name, which two names never share."""
    return quote(name, safe="")
