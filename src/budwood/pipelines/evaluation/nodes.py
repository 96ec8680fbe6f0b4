"""Measure the arms of a variant, and gather all variants."""

import time
from pathlib import Path
from typing import Any

import pandas as pd

from budwood.arch.count import forward_flops_per_token, num_parameters
from budwood.corpus.packing import PackedCorpus
from budwood.evaluation.perplexity import source_losses
from budwood.parameters import MeasurementParameters
from budwood.subnet.checkpoint import load_model, read_architecture

Record = dict[str, Any]

ARMS = ("random_init", "subnet_init", "distilled")
COSTS = ("search_costs", "choice_costs", "export_costs", "evaluation_costs")
GATHERED = ("history", "certificate", "scores", *COSTS, *(f"{arm}_curve" for arm in ARMS))
"""Datasets of a variant that the tables of all variants are made from."""
CERTIFIED = ("num_parameters", "largest_logit_difference", "native", "class", "fingerprint")
"""Facts of a certificate that fit in a table."""


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
        scores.append(
            run
            | {"num_parameters": num_parameters(read_architecture(folder)), "losses": losses}
            | {"tokens_per_sequence": measurement.length}
        )
    flops = num_tokens * forward_flops_per_token(read_architecture(subnet_init), context=measurement.length)
    cost = {"stage": "evaluation", "flops": float(flops), "tokens": num_tokens}
    return scores, [cost | {"seconds": time.perf_counter() - started}]


def gather(
    calibration_costs: list[Record],
    teacher_evaluation: Record,
    teacher_cache_record: Record | None = None,
    **parts: Any,
) -> tuple[pd.DataFrame, pd.DataFrame, pd.DataFrame, list[Record], list[Record]]:
    """Return the histories, curves, certificates, arms and costs of all variants.

    Args:
        calibration_costs: of the teacher's importance.
        teacher_evaluation: holds the cost of the teacher's own losses.
        teacher_cache_record: holds the cost of what a cached teacher has said.
        parts: `<bin>__<space>__<what>` for every `what` of `GATHERED`.
    """
    variants = sorted({tuple(key.split("__")[:2]) for key in parts})
    histories: list[pd.DataFrame] = []
    curves: list[pd.DataFrame] = []
    certificates: list[Record] = []
    arms: list[Record] = []
    ledger: list[Record] = []
    shared = [*calibration_costs, *teacher_evaluation["costs"], *(teacher_cache_record or {"costs": []})["costs"]]
    ledger += [{"bin": "", "space": "", "arm": ""} | cost for cost in shared]
    for bin_name, space in variants:
        variant = {"bin": bin_name, "space": space}
        part = {what: parts[f"{bin_name}__{space}__{what}"] for what in GATHERED}
        histories.append(part["history"].assign(**variant))
        certificates.append(variant | {key: part["certificate"][key] for key in CERTIFIED})
        arms += [variant | score for score in part["scores"]]
        curves += [part[f"{arm}_curve"].assign(**variant, arm=arm) for arm in ARMS]
        costs = [cost for name in COSTS for cost in part[name]]
        ledger += [variant | {"arm": ""} | cost for cost in costs]
        ledger += [variant | cost for score in part["scores"] for cost in _training_costs(score)]
    return pd.concat(histories), pd.concat(curves), pd.DataFrame(certificates), arms, ledger


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
