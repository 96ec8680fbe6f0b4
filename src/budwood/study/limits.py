"""What of a planned study will not fit, and what can be done about it."""

from collections.abc import Hashable, Mapping

import pandas as pd

from budwood.arch.bytes import spell_bytes
from budwood.records.names import ARMS, CONTINUED, REFERENCE, SHARED
from budwood.reporting.accelerator import Accelerator
from budwood.reporting.ledger import PROBE
from budwood.reporting.quote import ROOM, disk_bytes
from budwood.study.planned import PlannedStudy

_WITHOUT_BATCHES = ("intake", "certificate")
"""Stages that read a few short texts, whatever `measurement.batch_size` is."""


def warnings_of(
    study: PlannedStudy, planned: pd.DataFrame, accelerator: Accelerator, num_devices: int, free_disk_bytes: float
) -> list[str]:
    """Return what will not fit, each with what can be done about it."""
    room, batch, warnings = ROOM * accelerator.memory_bytes, study.schedule.global_batch, []
    too_large = planned[planned["memory_bytes"] > room].sort_values("memory_bytes", ascending=False)
    for (stage, arm), rows in too_large.groupby(["stage", "arm"], sort=False):
        worst = rows.iloc[0].to_dict()
        place = " · ".join(str(name) for name in (stage, arm, worst["bin"], worst["space"]) if name)
        others = f" ({len(rows) - 1} more do not fit either)" if len(rows) > 1 else ""
        needs = f"needs {spell_bytes(worst['memory_bytes'])} of a device, which has {spell_bytes(room)} to plan with"
        warnings.append(f"{place} {needs}{others}: {_advice(study, worst, room, num_devices)}.")
    bins = dict.fromkeys(each.variant.bin for each in study.forecasts)
    portions = {study.within(name).micro_batch(arm) for name in bins for arm in (*ARMS, REFERENCE)}
    warnings += [
        f"{num_devices} devices with micro_batch={portion} each cannot share schedule.global_batch={batch} equally."
        for portion in sorted(portions)
        if batch % (portion * num_devices)
    ]
    needed = disk_bytes(planned)
    if needed > free_disk_bytes:
        room_left = spell_bytes(free_disk_bytes)
        warnings.append(f"The study writes up to {spell_bytes(needed)} to disk, where {room_left} are free.")
    return warnings


def _advice(study: PlannedStudy, row: Mapping[Hashable, object], room: float, num_devices: int) -> str:
    if row["stage"] not in {"training", PROBE}:
        lower = study.conditions.measurement.batch_size > 1 and _reads_batches(study, row)
        return f"take a device with more memory{', or lower measurement.batch_size' if lower else ''}"
    (found, *_) = [
        each
        for each in (study.forecasts if row["stage"] == PROBE else study.trained)
        if each.variant.bin == row["bin"] and row["space"] in {each.variant.space, SHARED}
    ]
    reference = found.reference if row["arm"] == REFERENCE else None
    members = (reference,) if reference else found.members
    bin_name, arm = str(row["bin"]), CONTINUED if row["stage"] == PROBE else str(row["arm"])
    own, teacher = study.within(bin_name), study.teacher_beside(arm)
    for smaller in range(own.micro_batch(arm) - 1, 0, -1):
        fits = study.training_memory(members, smaller, teacher).total <= room
        if fits and study.schedule.global_batch % (smaller * num_devices) == 0:
            return f"bins.{bin_name}.arms.{arm}.micro_batch={smaller} fits"
    return "no micro_batch fits; take a device with more memory, or shard the training"


def _reads_batches(study: PlannedStudy, row: Mapping[Hashable, object]) -> bool:
    """Return whether a stage reads text in batches of `measurement.batch_size`; a mere cut reads none."""
    if row["stage"] == "compensation":
        return any(each.compensation for each in study.forecasts if each.variant == (row["bin"], row["space"]))
    return row["stage"] not in _WITHOUT_BATCHES
