"""Measure the arms of a variant, and gather all variants."""

import time
from collections.abc import Iterator
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import pandas as pd

from budwood.arch.count import forward_flops_per_token, num_parameters
from budwood.corpus.packing import PackedCorpus
from budwood.evaluation.efficiency import Subject, measure_efficiency
from budwood.evaluation.harness import (
    HELDOUT_TASKS,
    VERSION,
    HarnessOptions,
    check_benchmarks,
    fingerprint_tasks,
    run_benchmarks,
)
from budwood.evaluation.heldout import heldout_questions, read_texts
from budwood.evaluation.perplexity import source_losses
from budwood.parameters import EvaluationParameters, MeasurementParameters
from budwood.pipelines.tracking import track
from budwood.pipelines.work import claim
from budwood.subnet.checkpoint import load_model, load_tokenizer, read_architecture
from budwood.subnet.teacher import fingerprint

Record = dict[str, Any]
Records = list[Record]

ARMS = ("random_init", "subnet_init", "distilled")
COSTS = ("search_costs", "choice_costs", "export_costs", "evaluation_costs")
GATHERED = (
    *("history", "best", "certificate", "scores", "downstream", "efficiency"),
    *COSTS,
    *(f"{arm}_curve" for arm in ARMS),
)
"""Datasets of a variant that the tables of all variants are made from."""
WINNER = (
    *("description", "num_parameters", "num_evaluations", "fitness", "selection_loss", "choice_loss"),
    *("choice_interval", "lead", "lead_interval", "finalist_tokens", "paper_flops"),
)
"""Facts of a search that its table tells."""
CERTIFIED = ("num_parameters", "largest_logit_difference", "native", "class", "fingerprint")
"""Facts of a certificate that fit in a table."""


def build_tasks(
    tokens: PackedCorpus, teacher: Path, evaluation: EvaluationParameters
) -> dict[str, list[dict[str, Any]]]:
    """Return the questions that are made from validation text, having checked that all other tasks are at hand.

    Raises:
        ValueError: a task is unknown or cannot be had, or a source holds too little text.
    """
    chosen = evaluation.benchmarks()
    check_benchmarks(chosen)
    if not {benchmark.task for benchmark in chosen} & set(HELDOUT_TASKS):
        return {}
    return heldout_questions(read_texts(tokens, load_tokenizer(teacher), "validation"), evaluation.heldout)


def ask_teacher(
    teacher: Path,
    heldout_tasks: Path,
    evaluation: EvaluationParameters,
    measurement: MeasurementParameters,
    workspace: Path,
) -> list[Record]:
    """Return what the teacher answers, with the cost."""
    return _ask({"teacher": teacher}, heldout_tasks, evaluation, measurement, workspace)


def ask_arms(
    random_init: Path,
    subnet_init: Path,
    distilled: Path,
    heldout_tasks: Path,
    evaluation: EvaluationParameters,
    measurement: MeasurementParameters,
    workspace: Path,
) -> list[Record]:
    """Return what every arm answers, with the cost."""
    folders = dict(zip(ARMS, (random_init, subnet_init, distilled), strict=True))
    return _ask(folders, heldout_tasks, evaluation, measurement, workspace)


def measure_speed(
    teacher: Path, subnet: Path, evaluation: EvaluationParameters, measurement: MeasurementParameters
) -> Record:
    """Return latency and memory of the teacher and the sub-network, in turns; nothing where it is not wanted.

    The arms have the sub-network's architecture, and so its speed.
    """
    if evaluation.efficiency is None:
        return {}
    compute = measurement.compute()
    subjects = {
        name: Subject(compute.place(load_model(folder, compute.dtype)), read_architecture(folder))
        for name, folder in (("teacher", teacher), ("subnet", subnet))
    }
    record = measure_efficiency(subjects, evaluation.efficiency, compute)
    own = record["models"]["subnet"]
    track({f"subnet.{name}": median(own[name]) for name in ("prefill_seconds", "decode_seconds")}, 0)
    return record


def evaluate_arms(
    random_init: Path,
    subnet_init: Path,
    distilled: Path,
    random_init_run: Record,
    subnet_init_run: Record,
    distilled_run: Record,
    tokens: PackedCorpus,
    measurement: MeasurementParameters,
) -> tuple[list[Record], list[Record]]:
    """Return every arm's validation losses by source and sequence beside its training record, and the cost."""
    started = time.perf_counter()
    compute, windows = measurement.compute(), (measurement.length, measurement.validation)
    folders = (random_init, subnet_init, distilled)
    runs = (random_init_run, subnet_init_run, distilled_run)
    scores, num_tokens = [], 0
    for folder, run in zip(folders, runs, strict=True):
        model = compute.place(load_model(folder, compute.dtype))
        losses = source_losses(model, tokens, "validation", windows, run["arm"])
        num_tokens += sum(map(len, losses.values())) * measurement.length
        track({f"{run['arm']}.validation_loss": float(np.concatenate([*losses.values()]).mean())}, run["steps"])
        scores.append(
            run
            | {"num_parameters": num_parameters(read_architecture(folder)), "losses": losses}
            | {"tokens_per_sequence": measurement.length}
        )
    flops = num_tokens * forward_flops_per_token(read_architecture(subnet_init), context=measurement.length)
    cost = {"stage": "evaluation", "flops": float(flops), "tokens": num_tokens}
    return scores, [cost | {"seconds": time.perf_counter() - started}]


def _ask(
    folders: dict[str, Path],
    heldout_tasks: Path,
    evaluation: EvaluationParameters,
    measurement: MeasurementParameters,
    workspace: Path,
) -> list[Record]:
    chosen, compute = evaluation.benchmarks(), measurement.compute()
    options = HarnessOptions(
        tasks_folder=heldout_tasks, compute=compute, batch_size=evaluation.batch_size, limit=evaluation.limit
    )
    records = []
    for name, folder in folders.items():
        facts = {
            "model": fingerprint(folder),
            "harness": VERSION,
            "heldout": fingerprint_tasks(heldout_tasks),
            "limit": evaluation.limit,
            "precision": compute.precision,
        }
        record = run_benchmarks(folder, chosen, options, claim(workspace, f"tasks-{name}", facts))
        for task in record["tasks"]:
            # MLflow takes no comma, which stands between a metric of the harness and its filter.
            values = {metric.replace(",", "/"): found["value"] for metric, found in task["metrics"].items()}
            track({f"{name}.{task['task']}.{metric}": value for metric, value in values.items()}, 0)
        records.append({"model": name} | record)
    return records


def gather(
    calibration_costs: list[Record],
    teacher_evaluation: Record,
    teacher_downstream: list[Record],
    teacher_cache_record: Record | None = None,
    **parts: Any,
) -> tuple[
    pd.DataFrame, pd.DataFrame, pd.DataFrame, list[Record], list[Record], list[Record], list[Record], list[Record]
]:
    """Return the histories, curves, certificates, winners, arms, downstream answers, speeds and costs of all variants.

    Args:
        calibration_costs: of the teacher's importance.
        teacher_evaluation: holds the cost of the teacher's own losses.
        teacher_downstream: what the teacher answers.
        teacher_cache_record: holds the cost of what a cached teacher has said.
        parts: `<bin>__<space>__<what>` for every `what` of `GATHERED`.
    """
    variants = sorted({tuple(key.split("__")[:2]) for key in parts})
    histories: list[pd.DataFrame] = []
    curves: list[pd.DataFrame] = []
    certificates: list[Record] = []
    winners: list[Record] = []
    arms: list[Record] = []
    ledger: list[Record] = []
    downstream: list[Record] = [{"bin": "", "space": ""} | record for record in teacher_downstream]
    efficiency: list[Record] = []
    asked_once = (teacher_cache_record or {"costs": []})["costs"]
    shared = [*calibration_costs, *teacher_evaluation["costs"], *asked_once, *_task_costs(teacher_downstream)]
    ledger += [{"bin": "", "space": "", "arm": ""} | cost for cost in shared]
    for bin_name, space in variants:
        variant = {"bin": bin_name, "space": space}
        part = {what: parts[f"{bin_name}__{space}__{what}"] for what in GATHERED}
        histories.append(part["history"].assign(**variant))
        certificates.append(variant | {key: part["certificate"][key] for key in CERTIFIED})
        spent = sum(cost["flops"] for cost in [*part["search_costs"], *part["choice_costs"]])
        winners.append(variant | {key: part["best"][key] for key in WINNER} | {"search_flops": spent})
        arms += [variant | score for score in part["scores"]]
        curves += [part[f"{arm}_curve"].assign(**variant, arm=arm) for arm in ARMS]
        downstream += [variant | record for record in part["downstream"]]
        costs = [cost for name in COSTS for cost in part[name]]
        if part["efficiency"]:
            efficiency.append(variant | part["efficiency"])
            costs.append(_cost(part["efficiency"]))
        ledger += [variant | {"arm": ""} | cost for cost in costs]
        ledger += [
            variant | {"arm": record["model"]} | cost for record in part["downstream"] for cost in _task_costs([record])
        ]
        ledger += [variant | cost for score in part["scores"] for cost in _training_costs(score)]
    tables = pd.concat(histories), pd.concat(curves), pd.DataFrame(certificates)
    return *tables, winners, arms, downstream, efficiency, ledger


def _task_costs(records: list[Record]) -> Iterator[Record]:
    yield from (_cost(task) for record in records for task in record["tasks"])


def _cost(spent: Record) -> Record:
    return {"stage": "evaluation"} | {name: spent[name] for name in ("flops", "tokens", "seconds")}


def _training_costs(score: Record) -> list[Record]:
    student = {
        "stage": "training",
        "arm": score["arm"],
        "flops": score["student_flops"],
        "tokens": score["tokens"],
        "seconds": score["seconds"],
    }
    # The teacher and the held-out losses run inside the training: their seconds are in the student's.
    teacher = {"stage": "teacher", "flops": score["teacher_flops"], "seconds": 0.0}
    heldout = {"stage": "heldout", "flops": score["heldout_flops"], "tokens": score["heldout_tokens"], "seconds": 0.0}
    return [student, *([student | teacher] if score["teacher_flops"] else []), student | heldout]
