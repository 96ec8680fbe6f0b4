"""Measure the arms of a variant, and gather all variants."""

import time
from collections import defaultdict
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import pandas as pd

from budwood.arch.count import forward_flops_per_token, num_parameters
from budwood.corpus.packing import PackedCorpus
from budwood.evaluation.efficiency import Subject, measure_efficiency
from budwood.evaluation.harness import VERSION, check_benchmarks, fingerprint_tasks, run_benchmarks
from budwood.evaluation.heldout import heldout_questions, read_texts
from budwood.evaluation.perplexity import source_losses
from budwood.evaluation.settings import HELDOUT_TASKS
from budwood.models.checkpoint import load_model, load_tokenizer, read_architecture
from budwood.models.teacher import fingerprint
from budwood.parameters import EvaluationParameters, MeasurementParameters
from budwood.pipelines.evaluation.gathering import Gathered, Record, steps_taken_over, task_costs
from budwood.pipelines.tracking import run_of, track
from budwood.pipelines.work import claim
from budwood.reporting.records import ARMS, REFERENCE


def build_tasks(
    tokens: PackedCorpus, teacher: Path, evaluation: EvaluationParameters
) -> dict[str, list[dict[str, Any]]]:
    """Return the questions that are made from validation text, having checked that all other tasks are at hand.

    Raises:
        ValueError: a task is unknown or cannot be had, or a source holds too little text.
    """
    check_benchmarks(evaluation)
    if not {benchmark.task for benchmark in evaluation.benchmarks()} & set(HELDOUT_TASKS):
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
    reference_init: Path | None = None,
) -> list[Record]:
    """Return what every arm answers, with the cost."""
    folders = _by_arm(random_init, subnet_init, distilled, reference_init)
    return _ask(folders, heldout_tasks, evaluation, measurement, workspace)


def measure_speed(
    teacher: Path,
    subnet: Path,
    evaluation: EvaluationParameters,
    measurement: MeasurementParameters,
    reference_init: Path | None = None,
) -> Record:
    """Return latency and memory of the teacher, the sub-network and the reference, in turns; nothing where not wanted.

    All other arms have the sub-network's architecture, and so its speed.
    """
    if evaluation.efficiency is None:
        return {}
    compute = measurement.compute()
    folders = {"teacher": teacher, "subnet": subnet, REFERENCE: reference_init}
    subjects = {
        name: Subject(compute.place(load_model(folder, compute.dtype)), read_architecture(folder))
        for name, folder in folders.items()
        if folder is not None
    }
    record = measure_efficiency(subjects, evaluation.efficiency, compute)
    own = record["models"]["subnet"]
    track({f"subnet.{name}": median(own[name]) for name in ("prefill_seconds", "decode_seconds")}, 0)
    return record


def evaluate_arms(
    tokens: PackedCorpus, measurement: MeasurementParameters, **runs: Any
) -> tuple[list[Record], list[Record]]:
    """Return every run's validation losses by source and sequence beside its training record, and the cost.

    Args:
        tokens: the text.
        measurement: how much of it.
        runs: `<run>`, the trained checkpoint, and `<run>_run`, its record, of every arm and seed.
    """
    started = time.perf_counter()
    compute, windows = measurement.compute(), (measurement.length, measurement.validation)
    scores, num_tokens, flops = [], 0, 0
    for name in [name for name in runs if f"{name}_run" in runs]:
        run, architecture = runs[f"{name}_run"], read_architecture(runs[name])
        model = compute.place(load_model(runs[name], compute.dtype))
        losses = source_losses(model, tokens, "validation", windows, name)
        read = sum(map(len, losses.values())) * measurement.length
        num_tokens += read
        flops += read * forward_flops_per_token(architecture, context=measurement.length)
        with run_of(name):
            track({"validation_loss": float(np.concatenate([*losses.values()]).mean())}, run["steps"])
        scores.append(
            run
            | {"run": name, "num_parameters": num_parameters(architecture), "losses": losses}
            | {"tokens_per_sequence": measurement.length}
        )
    cost = {"stage": "evaluation", "flops": float(flops), "tokens": num_tokens}
    return scores, [cost | {"seconds": time.perf_counter() - started}]


def _by_arm(random_init: Any, subnet_init: Any, distilled: Any, reference_init: Any) -> dict[str, Any]:
    """Return what arms have by their names; a bin without a reference has no such arm."""
    arms = dict(zip(ARMS, (random_init, subnet_init, distilled), strict=True))
    return arms if reference_init is None else arms | {REFERENCE: reference_init}


def _ask(
    folders: dict[str, Path],
    heldout_tasks: Path,
    evaluation: EvaluationParameters,
    measurement: MeasurementParameters,
    workspace: Path,
) -> list[Record]:
    compute, questions = measurement.compute(), fingerprint_tasks(heldout_tasks, evaluation.include_path)
    records = []
    for name, folder in folders.items():
        facts = {
            "model": fingerprint(folder),
            "harness": VERSION,
            "questions": questions,
            "limit": evaluation.limit,
            "precision": compute.precision,
        }
        kept = claim(workspace, f"tasks-{name}", facts)
        record = run_benchmarks(folder, heldout_tasks, evaluation, compute, kept)
        with run_of(name):
            for task in record["tasks"]:
                # MLflow takes no comma, which separates a metric of the harness from its filter.
                values = {metric.replace(",", "/"): found["value"] for metric, found in task["metrics"].items()}
                track({f"{task['task']}.{metric}": value for metric, value in values.items()}, 0)
        records.append({"model": name} | record)
    return records


def collect(**parts: Any) -> dict[str, Any]:
    """Return all that the tables of the study need of a variant, by the names of its datasets."""
    return parts


def join_curves(scores: list[Record], **curves: pd.DataFrame) -> pd.DataFrame:
    """Return the curves of all runs of a variant, with the arm and the seed of each.

    Args:
        scores: of the runs.
        curves: `<run>_curve` of each.
    """
    return pd.concat(
        [curves[f"{score['run']}_curve"].assign(arm=score["arm"], seed=score["seed"]) for score in scores],
        ignore_index=True,
    )


def gather(
    calibration_costs: list[Record],
    teacher_evaluation: Record,
    teacher_downstream: list[Record],
    teacher_cache_record: Record | None = None,
    selections: pd.DataFrame | None = None,
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
        selections: how the spaces of every bin compare, the best first, where probes chose one.
        parts: `<bin>__<space>__<what>`: `history` and `findings` of every search, `curves` and `results` of everything
            that was trained; where probes chose the space, the latter under `selected`.
    """
    asked_once = (teacher_cache_record or {"costs": []})["costs"]
    shared = [*calibration_costs, *teacher_evaluation["costs"], *asked_once, *task_costs(teacher_downstream)]
    found = Gathered(ledger=[{"bin": "", "space": "", "arm": ""} | cost for cost in shared])
    found.downstream += [{"bin": "", "space": ""} | record for record in teacher_downstream]
    by_variant: dict[tuple[str, str], Record] = defaultdict(dict)
    for key, value in parts.items():
        bin_name, space, what = key.split("__")
        by_variant[bin_name, space][what] = value
    searched = {variant: part["findings"] | part for variant, part in by_variant.items() if "findings" in part}
    trained = {variant: part["results"] | part for variant, part in by_variant.items() if "results" in part}
    best = {} if selections is None else selections.groupby("bin")["space"].first().to_dict()
    taken_over: dict[tuple[str, str], int] = {}
    for (bin_name, space), part in sorted(trained.items()):
        chosen = str(best.get(bin_name, space))
        steps = taken_over[bin_name, chosen] = steps_taken_over(part, searched[bin_name, chosen].get("probe_scores"))
        found.add_training({"bin": bin_name, "space": chosen}, part, steps)
    for (bin_name, space), part in sorted(searched.items()):
        found.add_search({"bin": bin_name, "space": space}, part, taken_over.get((bin_name, space), 0))
    tables = pd.concat(found.histories), pd.concat(found.curves), pd.DataFrame(found.certificates)
    return *tables, found.winners, found.arms, found.downstream, found.efficiency, found.ledger
