"""What a study will cost, told before anything is spent: arithmetic on architectures, without weights or text."""

from collections.abc import Hashable, Iterator, Mapping, Sequence
from dataclasses import asdict, replace
from typing import Any

import numpy as np
import pandas as pd

from budwood.arch.count import forward_flops_per_token, num_parameters, training_flops_per_token
from budwood.arch.spec import Architecture
from budwood.reporting import formats
from budwood.reporting.accelerator import Accelerator
from budwood.reporting.ledger import PROBE, paper_search_flops
from budwood.reporting.memory import Memory, forward_memory
from budwood.reporting.records import BASELINE, CONTINUED, REFERENCE, SHARED
from budwood.reporting.study import Ablation, Study, Variant

ROOM = 0.9
"""Share of a device's memory that is planned with: its runtime, fragments and what estimates miss take the rest."""

_MODEL_BYTES = 4
"""Of a parameter of a trained model."""
_CHECKPOINT_BYTES = 12
"""Of a parameter in a checkpoint: float32 weights and AdamW's two moments."""
_NUM_CHECKPOINTS = 3
"""Two are kept, and a third is there until it is whole."""
_UINT16_VALUES = 2**16
_LARGE_HISTORIES_BYTES = 4 * 2**30
_SECONDS_PER_HOUR = 3600
_TRIALS_PER_LAYER = 5
"""Layers that are left out on trial, about, for every one that is left out: 4.7 of 30 in SmolLM2-135M."""

COLUMNS = [
    *("stage", "bin", "space", "arm", "tokens", "flops", "paper_flops", "device_hours"),
    *("num_parameters", "memory_bytes", "disk_bytes", "passing_disk_bytes"),
    *(f"{part}_bytes" for part in Memory.__slots__),
]
ABLATION_COLUMNS = [
    *("ablation", "searches", "runs", "search_flops", "training_flops", "teacher_flops", "device_hours")
]


def plan(study: Study, accelerator: Accelerator, mfu: float) -> pd.DataFrame:
    """Return what every stage of a study will cost.

    Sub-networks that nobody knows yet are counted as the mean of members of their bin, and their memory as that of the
    member that takes most. Searches whose candidates race are counted as if none was dropped.

    Args:
        study: the study.
        accelerator: runs it.
        mfu: share of the accelerator's peak that is reached.

    Returns:
        Rows as the ledger will have them, and one for the text. Columns: `stage`, `bin`, `space`, `arm`; `tokens` and
        `flops`; `paper_flops`: what the paper charges in place of a search (the bin's centre at 2,048 tokens), and of
        `random_init` (the training of the bin's centre), NaN elsewhere; `device_hours`; `num_parameters` of the largest
        model of the row; `memory_bytes` of one device with its parts (`weights_bytes` ...); `disk_bytes` that stay, and
        `passing_disk_bytes` that checkpoints take until the run ends.
    """
    one_of_each = {variant.bin: variant for variant in study.trained}
    rows = [
        *_shared_rows(study),
        *(row for variant in study.variants for row in _search_rows(study, variant)),
        *(row for variant in study.trained for row in _training_rows(study, variant)),
        *(row for variant in one_of_each.values() for row in _reference_rows(study, variant)),
    ]
    frame = pd.DataFrame(rows).reindex(columns=COLUMNS)
    hours = frame["flops"] / _flops_per_hour(accelerator, mfu)
    texts = dict.fromkeys(("bin", "space", "arm"), "")
    counted = [name for name in COLUMNS if name not in {"stage", *texts, "paper_flops"}]
    return (
        frame.assign(device_hours=hours)
        .fillna(texts | dict.fromkeys(counted, 0))
        .astype(dict.fromkeys([*counted, "paper_flops"], float))
    )


def plan_ablations(ablations: Sequence[Ablation], accelerator: Accelerator, mfu: float) -> pd.DataFrame:
    """Return what every ablation will cost by itself, beside the text and what is measured of the teacher.

    Args:
        ablations: in the order of the rows.
        accelerator: runs them.
        mfu: share of the accelerator's peak that is reached.

    Returns:
        Columns `ablation`; `searches` and `runs`, their numbers; `search_flops` with corrections, `training_flops`,
        `teacher_flops`, and `device_hours` of all.
    """
    rows = []
    for ablation in ablations:
        tokens, context = ablation.schedule.num_tokens, ablation.schedule.sequence_length
        flops = {
            "search_flops": sum(
                _search_row(study, variant)["flops"] + _correction_flops(study, variant)
                for study, variant in ablation.searches
            ),
            "training_flops": sum(tokens * variant.mean_training(context) for variant, _ in ablation.runs),
            "teacher_flops": sum(tokens * teacher for _, teacher in ablation.runs),
        }
        hours = sum(flops.values()) / _flops_per_hour(accelerator, mfu)
        counts = {"searches": len(ablation.searches), "runs": len(ablation.runs)}
        rows.append({"ablation": ablation.name} | counts | flops | {"device_hours": hours})
    return pd.DataFrame(rows, columns=ABLATION_COLUMNS)


def warnings_of(
    study: Study, planned: pd.DataFrame, accelerator: Accelerator, num_devices: int, free_disk_bytes: float
) -> list[str]:
    """Return what will not fit, each with what can be done about it."""
    room, schedule, warnings = ROOM * accelerator.memory_bytes, study.schedule, []
    too_large = planned[planned["memory_bytes"] > room].sort_values("memory_bytes", ascending=False)
    for (stage, arm), rows in too_large.groupby(["stage", "arm"], sort=False):
        worst = rows.iloc[0].to_dict()
        place = " · ".join(str(name) for name in (stage, arm, worst["bin"], worst["space"]) if name)
        others = f" ({len(rows) - 1} more do not fit either)" if len(rows) > 1 else ""
        needs = f"needs {formats.size(worst['memory_bytes'])} of a device, which has {formats.size(room)} to plan with"
        warnings.append(f"{place} {needs}{others}: {_advice(study, worst, room, num_devices)}.")
    if schedule.global_batch % (schedule.micro_batch * num_devices):
        warnings.append(
            f"{num_devices} devices with schedule.micro_batch={schedule.micro_batch} each cannot share "
            f"schedule.global_batch={schedule.global_batch} equally."
        )
    needed = disk_bytes(planned)
    if needed > free_disk_bytes:
        room_left = formats.size(free_disk_bytes)
        warnings.append(f"The study writes up to {formats.size(needed)} to disk, where {room_left} are free.")
    histories = planned.loc[planned["stage"] == "search", "disk_bytes"].sum()
    if histories > _LARGE_HISTORIES_BYTES:
        warnings.append(
            f"Searches write down all that every candidate keeps, up to {formats.size(histories)}, which the machine's "
            "memory holds when variants are gathered: search fewer fine spaces in one run."
        )
    return warnings


def disk_bytes(planned: pd.DataFrame) -> float:
    """Return what a study takes on disk at most: all that stays, and the checkpoints of one run at a time."""
    return float(planned["disk_bytes"].sum() + planned["passing_disk_bytes"].max())


def _flops_per_hour(accelerator: Accelerator, mfu: float) -> float:
    return accelerator.flops_per_second * mfu * _SECONDS_PER_HOUR


def _advice(study: Study, row: Mapping[Hashable, object], room: float, num_devices: int) -> str:
    if row["stage"] != "training":
        return "take a device with more memory, or lower measurement.batch_size"
    if row["arm"] == REFERENCE:
        (reference,) = {each.reference for each in study.trained if each.bin == row["bin"]}
        assert reference is not None
        taught = False
        members: tuple[Architecture, ...] = (reference,)
    else:
        (variant,) = [each for each in study.trained if (each.bin, each.space) == (row["bin"], row["space"])]
        members, taught = variant.members, study.arms[str(row["arm"])]
    micro_batch = study.schedule.micro_batch
    for smaller in range(micro_batch - 1, 0, -1):
        fits = study.training_memory(members, smaller, taught=taught).total <= room
        if fits and study.schedule.global_batch % (smaller * num_devices) == 0:
            return f"schedule.micro_batch={smaller} fits"
    return "no schedule.micro_batch fits; take a device with more memory, or shard the training"


def _row(stage: str, where: Variant | None, arm: str, tokens: float, flops_per_token: float) -> dict[str, Any]:
    place = {"bin": where.bin, "space": where.space} if where else {"bin": SHARED, "space": SHARED}
    return {"stage": stage, **place, "arm": arm, "tokens": tokens, "flops": tokens * flops_per_token}


def _held(memory: Memory, largest: Architecture) -> dict[str, object]:
    parts = {f"{part}_bytes": size for part, size in asdict(memory).items()}
    return parts | {"memory_bytes": memory.total, "num_parameters": num_parameters(largest)}


def _shared_rows(study: Study) -> Iterator[dict[str, object]]:
    """Yield what is spent once: the text, and the passes of the teacher alone."""
    reading, teacher = study.reading, study.teacher
    token_bytes = 2 if teacher.vocab_size <= _UINT16_VALUES else 4
    yield _row("text", None, SHARED, 0, 0) | {"disk_bytes": study.schedule.num_tokens * token_bytes}
    forward = forward_flops_per_token(teacher, context=reading.length)
    held = _held(
        forward_memory(teacher, num_sequences=reading.batch_size, length=reading.length, precision=study.precision),
        teacher,
    )
    files = {"disk_bytes": num_parameters(teacher) * study.teacher_bytes_per_parameter}
    yield _row("calibration", None, SHARED, reading.calibration * reading.length, forward) | held | files
    depth = teacher.num_hidden_layers
    trials = min(_TRIALS_PER_LAYER * depth, depth * (depth + 1) // 2)
    half = forward_flops_per_token(teacher.with_layers(teacher.layers[: (depth + 1) // 2]), context=reading.length)
    yield _row("elimination", None, SHARED, trials * reading.elimination * reading.length, half) | held
    yield _row("evaluation", None, SHARED, reading.teacher * reading.length + reading.question_tokens, forward) | held
    if study.cached_sequence_bytes:
        schedule = study.schedule
        forward = forward_flops_per_token(teacher, context=schedule.sequence_length)
        disk = {"disk_bytes": schedule.num_sequences * study.cached_sequence_bytes}
        yield _row("teacher_cache", None, SHARED, schedule.num_tokens, forward) | held | disk


def _search_rows(study: Study, variant: Variant) -> Iterator[dict[str, object]]:
    """Yield what it takes to find and cut out a sub-network, and to probe it."""
    reading, length, largest = study.reading, study.reading.length, variant.largest
    yield _search_row(study, variant)
    files = {"disk_bytes": num_parameters(largest) * study.teacher_bytes_per_parameter}
    tokens, flops = reading.calibration * length, _correction_flops(study, variant)
    yield _row("compensation", variant, SHARED, tokens if flops else 0, flops / tokens) | files
    if (probe := study.probe_schedule) is not None:
        context = probe.sequence_length
        look = _row(PROBE, variant, SHARED, reading.choice * length, variant.mean_forward(length))
        row = _row(PROBE, variant, SHARED, probe.num_tokens, variant.mean_training(context))
        row |= {name: row[name] + look[name] for name in ("tokens", "flops")}
        memory = study.training_memory(variant.members, probe.micro_batch, taught=False)
        yield row | _held(memory, largest) | _files(num_parameters(largest))
        yield _row("heldout", variant, SHARED, study.heldout_tokens(probe), variant.mean_forward(context))


def _training_rows(study: Study, variant: Variant) -> Iterator[dict[str, object]]:
    """Yield what the arms of a variant cost, and what it takes to measure them."""
    for arm, taught in study.arms.items():
        for place in range(study.num_seeds):
            done = study.probed_tokens if arm == CONTINUED and place == 0 else 0
            yield from _arm_rows(study, variant, arm, taught=taught, done=done)
    yield _evaluation_row(study, variant)


def _evaluation_row(study: Study, variant: Variant) -> dict[str, object]:
    """Return what it takes to measure arms, to ask the first of each, and to time their model and the teacher."""
    reading, length, largest = study.reading, study.reading.length, variant.largest
    of_arm = study.num_seeds * reading.validation * length + reading.question_tokens
    read = [
        (len(study.arms) * of_arm + reading.timed_tokens, variant.mean_forward(length)),
        (reading.timed_tokens, forward_flops_per_token(study.teacher, context=length)),
    ]
    if variant.reference is not None:
        read.append((of_arm + reading.timed_tokens, forward_flops_per_token(variant.reference, context=length)))
    held = forward_memory(largest, num_sequences=reading.batch_size, length=length, precision=study.precision)
    row = _row("evaluation", variant, SHARED, sum(tokens for tokens, _ in read), 0) | _held(held, largest)
    return row | {"flops": float(sum(tokens * flops for tokens, flops in read))}


def _reference_rows(study: Study, variant: Variant) -> Iterator[dict[str, object]]:
    """Yield what the reference of a bin costs; all its spaces share it."""
    reference, schedule = variant.reference, study.schedule
    if reference is None:
        return
    tokens, length = study.schedule.num_tokens, schedule.sequence_length
    shared = replace(variant, space=SHARED)
    memory = study.training_memory((reference,), schedule.micro_batch, taught=False)
    row = _row("training", shared, REFERENCE, tokens, training_flops_per_token(reference, context=length))
    forward = forward_flops_per_token(reference, context=length)
    for _ in range(study.num_seeds):
        yield row | _held(memory, reference) | _files(num_parameters(reference))
        yield _row("heldout", shared, REFERENCE, study.heldout_tokens(schedule), forward)


def _files(count: int) -> dict[str, object]:
    """Return what a trained model of some parameters leaves on disk, and its checkpoints meanwhile."""
    return {"disk_bytes": _MODEL_BYTES * count, "passing_disk_bytes": _NUM_CHECKPOINTS * _CHECKPOINT_BYTES * count}


def _search_row(study: Study, variant: Variant) -> dict[str, Any]:
    reading, largest = study.reading, variant.largest
    sequences = study.num_evaluations * reading.selection + study.num_finalists * reading.choice
    read, (tokens, flops) = sequences * reading.length, _finals(study, variant)
    per_token = variant.mean_forward(reading.length) + study.fitness_flops_per_token
    row = _row("search", variant, SHARED, read, per_token)
    row |= {"tokens": read + tokens, "flops": read * per_token + flops}
    memory = forward_memory(
        largest,
        num_sequences=reading.batch_size,
        length=reading.length,
        precision=study.precision,
        teacher=study.teacher,
    )
    charged = paper_search_flops(
        variant.center,
        num_evaluations=study.num_evaluations,
        num_sequences=reading.selection,
        sequence_length=reading.length,
    )
    history = {"disk_bytes": study.num_evaluations * variant.genes_bytes}
    return row | _held(memory, largest) | history | {"paper_flops": charged}


def _finals(study: Study, variant: Variant) -> tuple[float, float]:
    """Return tokens and FLOPs of what is done to finalists before they are compared: correction and training."""
    reading, schedule = study.reading, study.schedule
    calibrated, corrections = reading.calibration * reading.length, _correction_flops(study, variant)
    trained = -(-study.finalist_tokens // schedule.tokens_per_step) * schedule.tokens_per_step
    training = trained * variant.mean_training(schedule.sequence_length)
    tokens = trained + (calibrated if corrections else 0)
    return study.num_finalists * tokens, study.num_finalists * (corrections + training)


def _correction_flops(study: Study, variant: Variant) -> float:
    reading = study.reading
    return variant.mean_compensation(study.teacher, reading.calibration * reading.length, reading.length)


def _arm_rows(study: Study, variant: Variant, arm: str, *, taught: bool, done: int) -> Iterator[dict[str, object]]:
    schedule, length, largest = study.schedule, study.schedule.sequence_length, variant.largest
    tokens = study.schedule.num_tokens - done
    memory = study.training_memory(variant.members, schedule.micro_batch, taught=taught)
    reference = tokens * training_flops_per_token(variant.center, context=length) if arm == BASELINE else np.nan
    row = _row("training", variant, arm, tokens, variant.mean_training(length)) | _held(memory, largest)
    yield row | _files(num_parameters(largest)) | {"paper_flops": reference}
    if taught:
        yield _row("teacher", variant, arm, tokens, forward_flops_per_token(study.teacher, context=length))
    yield _row("heldout", variant, arm, study.heldout_tokens(schedule, done), variant.mean_forward(length))
