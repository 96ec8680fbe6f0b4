"""Which tasks lm-evaluation-harness knows, with a folder of the user's own."""

import difflib
import importlib.metadata
from collections.abc import Iterator, Sequence
from functools import cache
from pathlib import Path
from typing import Any

from budwood.evaluation.settings import HELDOUT_TASKS, TASK_PRESETS, Benchmark, EvaluationSettings

VERSION = f"lm_eval {importlib.metadata.version('lm_eval')}"


def check_names(settings: EvaluationSettings) -> None:
    """Check that the harness knows every task that no preset has.

    Raises:
        ValueError: one is unknown.
    """
    preset = {benchmark.task for benchmarks in TASK_PRESETS.values() for benchmark in benchmarks}
    for benchmark in settings.benchmarks():
        if benchmark.task not in preset:
            _index_with(benchmark.task, settings.include_path)


def check_benchmarks(settings: EvaluationSettings) -> None:
    """Check that the harness knows every benchmark, can ask it, and has its data or can download it.

    Raises:
        ValueError: one is unknown, its data is missing, or its answers need images or are code that would be run.
    """
    for benchmark in settings.benchmarks():
        if benchmark.task in HELDOUT_TASKS:
            continue
        for task in leaves(load_benchmark(benchmark, Path(), settings.include_path)):
            for flag, reason in (("MULTIMODAL", "asks about images"), ("UNSAFE_CODE", "runs code that models write")):
                if getattr(task, flag, False):
                    raise ValueError(f"evaluation.tasks: {benchmark.task!r} cannot be asked: {task.task_name} {reason}")


def load_benchmark(benchmark: Benchmark, heldout: Path, include_path: str | None) -> list[Any]:
    """Return the task or the group of a benchmark, or the tasks of a tag, with their data.

    Raises:
        ValueError: the harness does not know it, or its data is missing.
    """
    name = benchmark.task
    manager = _heldout_tasks(heldout) if name in HELDOUT_TASKS else _index_with(name, include_path)
    try:
        loaded = manager.load(name)
    except Exception as error:
        raise ValueError(
            f"evaluation.tasks: {name!r} cannot be loaded ({type(error).__name__}: {error}); check the network where "
            "its data is missing, or leave the task out"
        ) from error
    groups = loaded.get("groups") or {}
    return [groups[name]] if name in groups else list(loaded["tasks"].values())


def _index_with(name: str, include_path: str | None) -> Any:
    """Return the index of all tasks.

    Raises:
        ValueError: it does not have this one.
    """
    manager = known_tasks(include_path)
    if name not in manager.all_tasks:
        near = difflib.get_close_matches(name, [*TASK_PRESETS, *manager.all_tasks])
        where = f" or of {own_folder(include_path)}" if include_path else ""
        raise ValueError(
            f"evaluation.tasks: {name!r} is neither a preset ({', '.join(TASK_PRESETS)}) nor a task, group or tag of "
            f"{VERSION}{where}" + (f"; did you mean {' or '.join(near)}?" if near else "")
        )
    return manager


def leaves(items: Sequence[Any]) -> Iterator[Any]:
    """Yield all tasks of some tasks and groups."""
    for item in items:
        yield from item.get_all_tasks() if hasattr(item, "get_all_tasks") else (item,)


@cache
def known_tasks(include_path: str | None) -> Any:
    """Return the index of the harness's own 14,000 tasks, which takes 7 seconds to read, and of a further folder.

    Raises:
        ValueError: the folder does not exist or has no task.
    """
    from lm_eval.tasks import TaskManager  # noqa: PLC0415 - seconds of imports

    return TaskManager(include_path=None if include_path is None else str(own_folder(include_path)))


def own_folder(include_path: str) -> Path:
    """Return a folder of further tasks.

    Raises:
        ValueError: it does not exist or has no task.
    """
    folder = Path(include_path).expanduser().resolve()
    if not any(folder.rglob("*.yaml")):
        raise ValueError(f"evaluation.include_path: {folder} must be a folder with tasks of lm_eval in .yaml files")
    return folder


def _heldout_tasks(folder: Path) -> Any:
    from lm_eval.tasks import TaskManager  # noqa: PLC0415 - seconds of imports

    return TaskManager(include_path=str(folder), include_defaults=False)
