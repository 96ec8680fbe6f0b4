"""Task scores and speed of models: records -> tables, with errors."""

from collections.abc import Collection, Sequence
from statistics import median

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from budwood.evaluation.settings import HELDOUT_TASKS
from budwood.records.evaluation import Downstream, Efficiency, ModelSpeed
from budwood.records.names import BASELINE
from budwood.reporting.tables import paired_difference


def tasks_table(records: Sequence[Downstream], unlike: Collection[tuple[str, str, str]] = frozenset()) -> pd.DataFrame:
    """Return one row for every model and task.

    Args:
        records: of all models.
        unlike: bin, space and name of arms that do not compare with their baseline; see `matching.unlike`.

    Returns:
        Columns `bin`, `space`, `model`, `task`, `metric`, `num_fewshot`, `num_questions`, `num_cut`, `value`,
        `standard_error` (of the harness), `chance`; `difference` and `difference_standard_error`: paired over the
        questions, the model minus the variant's `random_init`; `version`, `harness`. NaN where it does not apply.

    Raises:
        ValueError: two models of a variant answered different numbers of questions.
    """
    answers = {(r.bin, r.space, r.model, t.task): t.answers for r in records for t in r.tasks}
    rows = []
    for record in records:
        for task in record.tasks:
            baseline = answers.get((record.bin, record.space, BASELINE, task.task))
            difference = (np.nan, np.nan)
            compared = record.model != BASELINE and (record.bin, record.space, record.model) not in unlike
            if baseline and task.answers and compared:
                difference = paired_difference(task.answers, baseline)
            rows.append(
                {"bin": record.bin, "space": record.space, "model": record.model}
                | task.model_dump(include=set(_TASK_COLUMNS))
                | dict(zip(("difference", "difference_standard_error"), difference, strict=True))
                | {"version": str(task.version), "harness": record.harness}
            )
    columns = ["bin", "space", "model", *_TASK_COLUMNS, "difference", "difference_standard_error", "version", "harness"]
    return pd.DataFrame(rows, columns=columns).astype(dict.fromkeys(("value", "standard_error", "chance"), float))


def mean_over_tasks(tasks: pd.DataFrame) -> pd.DataFrame:
    """Return the table with a further task, `mean of <number>`: the unweighted mean over the tasks that score accuracy.

    Questions from held-out text are no benchmark: they count where nothing else was asked.

    Tasks have different questions, so errors are those of a mean of independent numbers: the root of the summed squares
    over their number. What is unknown of one of the tasks is unknown of their mean; so is an error of zero, which is
    that of answers that are all alike. With fewer than two such tasks the table is returned unchanged.
    """
    counted = tasks[tasks["metric"].str.startswith("acc")]
    benchmarks = counted[~counted["task"].isin(HELDOUT_TASKS)]
    counted = benchmarks if len(benchmarks) else counted
    number = counted["task"].nunique()
    if number < 2:  # noqa: PLR2004 - one task is its own mean
        return tasks
    groups = counted.groupby(["bin", "space", "model"], sort=False)
    means: pd.DataFrame = groups[["value", "difference"]].mean(skipna=False).reset_index()
    for error in ("standard_error", "difference_standard_error"):
        squares = groups[error].agg(lambda errors: np.sqrt((errors.mask(errors == 0) ** 2).sum(skipna=False)) / number)
        means[error] = squares.to_numpy()
    means = means[groups.size().to_numpy() == number]
    return pd.concat([tasks, means.assign(task=f"mean of {number}")], ignore_index=True)


_TASK_COLUMNS = ("task", "metric", "num_fewshot", "num_questions", "num_cut", "value", "standard_error", "chance")


def speeds_table(records: Sequence[Efficiency]) -> pd.DataFrame:
    """Return one row for the teacher and one for the sub-network of every variant.

    Returns:
        Columns `bin`, `space`, `model`, `num_parameters`; for `prefill` and `decode`: `<phase>_seconds` (median over
        repeats), `<phase>_tokens_per_second`, and `<phase>_speedup` with `_low` and `_high`: the teacher's time over
        the model's in the same repeat, median and quartiles; `peak_bytes` (weights and the most allocated beside them,
        NaN where the device does not report it), `weight_bytes`, `kv_bytes_per_token`; the settings, `device`,
        `precision` and `threads`.
    """
    rows = []
    for record in records:
        how = record.model_dump(include=set(_SPEED_SETTINGS))
        for name, model in record.models.items():
            working = np.nan if model.working_bytes is None else model.working_bytes
            rows.append(
                {"bin": record.bin, "space": record.space, "model": name}
                | {"num_parameters": model.num_parameters}
                | _phase("prefill", record, name, record.prompt_tokens)
                | _phase("decode", record, name, 1)
                | {"peak_bytes": model.weight_bytes + working, "weight_bytes": model.weight_bytes}
                | {"kv_bytes_per_token": model.kv_bytes_per_token}
                | how
            )
    return pd.DataFrame(rows)


_SPEED_SETTINGS = ("prompt_tokens", "new_tokens", "batch_size", "device", "precision", "threads")


def _phase(phase: str, record: Efficiency, name: str, tokens: int) -> dict[str, float]:
    """Return time, throughput and speed-up of a model; that time covers `tokens` of every sequence."""
    own, teacher = (_seconds(record.models[model], phase) for model in (name, "teacher"))
    low, middle, high = np.quantile(teacher / own, (0.25, 0.5, 0.75)) if name != "teacher" else (np.nan,) * 3
    seconds = median(own.tolist())
    return {
        f"{phase}_seconds": seconds,
        f"{phase}_tokens_per_second": record.batch_size * tokens / seconds,
        f"{phase}_speedup": float(middle),
        f"{phase}_speedup_low": float(low),
        f"{phase}_speedup_high": float(high),
    }


def _seconds(model: ModelSpeed, phase: str) -> NDArray[np.float64]:
    return np.asarray(model.prefill_seconds if phase == "prefill" else model.decode_seconds)
