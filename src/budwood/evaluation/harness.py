"""The door to EleutherAI's lm-evaluation-harness; no other module imports it."""

import difflib
import hashlib
import importlib.metadata
import json
import logging
import math
import shutil
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, astuple, dataclass
from functools import cache
from pathlib import Path
from statistics import fmean
from typing import Any

import yaml
from transformers import PreTrainedModel

from budwood.arch.count import forward_flops_per_token
from budwood.evaluation.heldout import CONTINUATION, LAST_WORD
from budwood.models.checkpoint import load_model, load_tokenizer, read_architecture
from budwood.models.device import Compute
from budwood.records.files import write_atomically

Record = dict[str, Any]

HELDOUT_TASKS = (LAST_WORD, CONTINUATION)
VERSION = f"lm_eval {importlib.metadata.version('lm_eval')}"
FEWSHOT_SEED = 1234
"""The harness's own default, which published numbers were made with."""
BOOTSTRAP_ITERATIONS = 1000
"""For metrics without a closed form of their standard error (perplexity of LAMBADA)."""
HELDOUT_VERSION = 1.0
"""Raised whenever the questions of a held-out task would change."""


@dataclass(frozen=True, slots=True)
class Benchmark:
    """A task or a group of tasks of the harness, and how it is asked."""

    task: str
    num_fewshot: int | None = None
    """Examples in front of every question; None: as many as the task itself has."""
    metric: str | None = None
    """The metric that tables show; None: `acc_norm` where there is one, else `acc`, else the task's first."""


PRESETS: dict[str, tuple[Benchmark, ...]] = {
    "heldout": (Benchmark(LAST_WORD, 0, "acc"), Benchmark(CONTINUATION, 0, "acc_norm")),
    # "Where to begin", section 4.5.
    "paper": (
        Benchmark("copa", 0, "acc"),
        Benchmark("lambada_openai", 0, "acc"),
        Benchmark("winogrande", 0, "acc"),
        Benchmark("mmlu", 5, "acc"),
        Benchmark("arc_easy", 10, "acc_norm"),
        Benchmark("arc_challenge", 10, "acc_norm"),
        Benchmark("piqa", 10, "acc_norm"),
        Benchmark("hellaswag", 10, "acc_norm"),
    ),
    # The further columns of its tables 13, 14 and 17, whose shots and metrics it does not print.
    "extended": (
        Benchmark("openbookqa", 0, "acc_norm"),
        Benchmark("social_iqa", 0, "acc"),
        Benchmark("mmlu_continuation", 0, "acc"),
        Benchmark("commonsense_qa", 0, "acc"),
        Benchmark("boolq", 0, "acc"),
    ),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class HarnessOptions:
    """What all tasks share."""

    tasks_folder: Path
    """Holds the held-out tasks (see `write_tasks`)."""
    compute: Compute
    batch_size: int = 4
    limit: int | None = None
    """Questions of each task, the first ones; None: all."""


def choose_benchmarks(names: Sequence[str]) -> tuple[Benchmark, ...]:
    """Return the benchmarks that names of presets and of tasks stand for; of a task that is named twice the first."""
    chosen: dict[str, Benchmark] = {}
    for name in names:
        for benchmark in PRESETS.get(name, (Benchmark(name),)):
            chosen.setdefault(benchmark.task, benchmark)
    return tuple(chosen.values())


def write_tasks(questions: Mapping[str, Sequence[Mapping[str, Any]]], folder: Path) -> None:
    """Write held-out tasks as `lm_eval --include_path` reads them: each a YAML file, and its questions in JSON lines.

    The YAML names the questions by their absolute path: write anew what was moved. A kill leaves the old folder, or
    none.
    """
    partial = folder.with_name(f"{folder.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
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
    shutil.rmtree(folder, ignore_errors=True)
    partial.rename(folder)


def fingerprint_tasks(folder: Path) -> str:
    """Return a hash of the questions of a folder that `write_tasks` wrote."""
    digest = hashlib.sha256()
    for file in sorted(folder.glob("*.jsonl")):
        digest.update(f"{file.name} {HELDOUT_VERSION} ".encode() + file.read_bytes())
    return digest.hexdigest()[:16]


_ANSWERS: dict[str, dict[str, str]] = {
    LAST_WORD: {"output_type": "loglikelihood", "doc_to_target": "target"},
    CONTINUATION: {"output_type": "multiple_choice", "doc_to_choice": "choices", "doc_to_target": "label"},
}


def check_benchmarks(chosen: Sequence[Benchmark]) -> None:
    """Check that the harness knows every benchmark, and that its data is at hand or can be downloaded.

    Raises:
        ValueError: the harness knows no such task, or its data cannot be had.
    """
    foreign = [benchmark.task for benchmark in chosen if benchmark.task not in HELDOUT_TASKS]
    if not foreign:
        return
    manager = _own_tasks()
    known = {*manager.all_subtasks, *manager.all_groups}
    for task in foreign:
        if task not in known:
            near = difflib.get_close_matches(task, [*PRESETS, *known])
            raise ValueError(
                f"evaluation.tasks: {task!r} is neither a preset ({', '.join(PRESETS)}) nor a task or group of "
                f"{VERSION}" + (f"; did you mean {' or '.join(near)}?" if near else "")
            )
    for task in foreign:
        try:
            manager.load(task)
        except Exception as error:
            raise ValueError(
                f"evaluation.tasks: the data of {task!r} cannot be had ({type(error).__name__}: {error}); check the "
                "network, or leave the task out"
            ) from error


def run_benchmarks(folder: Path, chosen: Sequence[Benchmark], options: HarnessOptions, output: Path) -> Record:
    """Ask a checkpoint all questions of some benchmarks.

    Every finished benchmark is kept in `output`, and read instead of run when it is there.

    Args:
        folder: the checkpoint with its tokenizer.
        chosen: what is asked.
        options: how.
        output: for this checkpoint, these options and these questions alone.

    Returns:
        versions, options, and for every benchmark in `tasks` what `_result` returns.

    Raises:
        ValueError: the folder holds no tokenizer.
    """
    if not (folder / "tokenizer_config.json").is_file():
        raise ValueError(f"{folder} holds no tokenizer: the harness reads text, not tokens")
    files = {benchmark: output / f"{'-'.join(map(str, astuple(benchmark)))}.json" for benchmark in chosen}
    missing = [benchmark for benchmark, file in files.items() if not file.is_file()]
    if missing:
        session = _Session.open(folder, options)
        for benchmark in missing:
            write_atomically(files[benchmark], json.dumps(session.run(benchmark)))
    return {
        "harness": VERSION,
        "device": options.compute.describe(),
        "precision": options.compute.precision,
        "limit": options.limit,
        "tasks": [json.loads(file.read_text()) for file in files.values()],
    }


@dataclass(slots=True)
class _Session:
    """One model in the harness."""

    language_model: Any
    options: HarnessOptions
    work: "_Work"

    @classmethod
    def open(cls, folder: Path, options: HarnessOptions) -> "_Session":
        # Seconds of imports that commands without an evaluation do without.
        from lm_eval.models.huggingface import HFLM  # noqa: PLC0415

        # Loaded here and not by the harness, so that no code that came with a checkpoint runs.
        model = options.compute.place(load_model(folder, options.compute.dtype))
        with _silent("lm_eval.models.huggingface"):  # it warns that it was given a loaded model
            language_model = HFLM(model, tokenizer=load_tokenizer(folder), batch_size=options.batch_size)
        return cls(language_model, options, _Work.watch(folder, model))

    def run(self, benchmark: Benchmark) -> Record:
        from lm_eval import evaluate  # noqa: PLC0415

        started = time.perf_counter()
        before = asdict(self.work)
        heldout = benchmark.task in HELDOUT_TASKS
        loaded = (_heldout_tasks(self.options.tasks_folder) if heldout else _own_tasks()).load(benchmark.task)
        for task in loaded["tasks"].values():
            own = task.get_config("num_fewshot") or 0
            task.set_config("num_fewshot", own if benchmark.num_fewshot is None else benchmark.num_fewshot)
            task.set_fewshot_seed(FEWSHOT_SEED)
        found = evaluate(self.language_model, loaded, limit=self.options.limit, bootstrap_iters=BOOTSTRAP_ITERATIONS)
        spent = {name: value - before[name] for name, value in asdict(self.work).items()}
        return _result(benchmark, found) | spent | {"seconds": time.perf_counter() - started}


@dataclass(slots=True)
class _Work:
    """Counts what a model computes, padding included, whoever calls it."""

    tokens: int = 0
    flops: float = 0.0

    @classmethod
    def watch(cls, folder: Path, model: PreTrainedModel) -> "_Work":
        work, architecture = cls(), read_architecture(folder)

        def count(_: object, arguments: tuple[Any, ...], named: dict[str, Any]) -> None:
            batch, length = (arguments[0] if arguments else named["input_ids"]).shape
            cache = named.get("cache")
            context = length + (cache.get_seq_length() if cache is not None else 0)
            work.tokens += batch * length
            work.flops += batch * length * forward_flops_per_token(architecture, context=context)

        model.register_forward_pre_hook(count, with_kwargs=True)
        return work


def _result(benchmark: Benchmark, found: Mapping[str, Any]) -> Record:
    """Return what tables need of the harness's results.

    Returns:
        `task`, `version`, `num_fewshot`, `metric`, `value`, `standard_error` (as the harness gives it; None where it
        gives none), `chance` (of accuracy in a multiple choice; None elsewhere), `metrics` (all others too), and
        `answers`: the metric of every question, in order, so that models can be compared in pairs (None where it is no
        mean over questions).
    """
    scores = found["results"][benchmark.task]
    # The harness names a metric `acc,none`: the metric, and the filter that its answers went through.
    keys = [key for key in scores if "," in key and not key.partition(",")[0].endswith("_stderr")]
    metrics: dict[str, Record] = {
        key.removesuffix(",none"): {
            "value": float(scores[key]),
            "standard_error": _number(scores.get(key.replace(",", "_stderr,", 1))),
        }
        for key in keys
    }
    wanted = [name for name in (benchmark.metric, "acc_norm", "acc") if name in metrics]
    metric = str([*wanted, *metrics][0])
    name, _, filter_name = metric.partition(",")
    samples = [
        sample for task in found["samples"].values() for sample in task if sample["filter"] == (filter_name or "none")
    ]
    answers, value = [sample[name] for sample in samples], metrics[metric]["value"]
    return {
        "task": benchmark.task,
        "version": found["versions"].get(benchmark.task),
        "num_fewshot": max(found["n-shot"][task] for task in found["samples"]),
        "metric": metric,
        "num_questions": len(samples),
        **metrics[metric],
        "chance": _chance([len(sample["arguments"]) for sample in samples], metrics, metric),
        "metrics": metrics,
        "answers": list(map(float, answers)) if math.isclose(_mean(answers), value, abs_tol=1e-9) else None,
    }


def _chance(num_requests: Sequence[int], metrics: Mapping[str, Any], metric: str) -> float | None:
    """Return the share that guessing gets right, where every request of a question is one of its choices."""
    if metric not in {"acc", "acc_norm"} or "acc_mutual_info" in metrics or min(num_requests) == 1:
        return None
    return sum(1 / number for number in num_requests) / len(num_requests)


def _mean(answers: Sequence[Any]) -> float:
    """Return the mean of numbers; NaN of anything else."""
    return fmean(answers) if all(isinstance(answer, int | float) for answer in answers) else math.nan


def _number(value: object) -> float | None:
    return float(value) if isinstance(value, int | float) else None


@cache
def _own_tasks() -> Any:
    """Return the index of the harness's own 14,000 tasks; to read them takes 7 seconds."""
    from lm_eval.tasks import TaskManager  # noqa: PLC0415

    return TaskManager()


def _heldout_tasks(folder: Path) -> Any:
    from lm_eval.tasks import TaskManager  # noqa: PLC0415

    return TaskManager(include_path=str(folder), include_defaults=False)


@contextmanager
def _silent(name: str) -> Iterator[None]:
    logger = logging.getLogger(name)
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(level)
