"""What a study will cost, told before anything is spent: arithmetic on architectures, without weights or text."""

import json
import statistics
from collections.abc import Hashable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
import pandas as pd

from budwood.arch.bins import ParameterBin
from budwood.arch.count import forward_flops_per_token, num_parameters, training_flops_per_token
from budwood.arch.sampling import sample
from budwood.arch.space import SearchSpace
from budwood.arch.spec import Architecture
from budwood.reporting import formats
from budwood.reporting.accelerator import Accelerator
from budwood.reporting.ledger import PROBE, paper_search_flops
from budwood.reporting.memory import Memory, Precision, forward_memory, training_memory
from budwood.reporting.records import BASELINE, CONTINUED, REFERENCE, SHARED
from budwood.subnet.compensate import Compensation, regression_flops
from budwood.training.job import Schedule

ROOM = 0.9
"""Share of a device's memory that is planned with: its runtime, fragments and what estimates miss take the rest."""
NUM_MEMBERS = 64
"""Sub-networks drawn from every bin; nobody knows beforehand which of them a search will find."""
_NUM_HISTORIES = 3
_BISECTIONS = 40

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

CHOSEN = "chosen by probes"
"""Stands for the space of a bin that probes will choose."""

COLUMNS = [
    *("stage", "bin", "space", "arm", "tokens", "flops", "paper_flops", "device_hours"),
    *("num_parameters", "memory_bytes", "disk_bytes", "passing_disk_bytes"),
    *(f"{part}_bytes" for part in Memory.__slots__),
]


@dataclass(frozen=True, slots=True, kw_only=True)
class Reading:
    """How much text is measured on; sequences unless it says otherwise."""

    length: int
    """Tokens of a sequence."""
    batch_size: int
    """Of one forward pass."""
    calibration: int
    elimination: int
    """Every time that a layer is left out on trial."""
    selection: int
    """For each candidate."""
    choice: int
    """For each finalist."""
    teacher: int
    """Of all splits and sources, for the teacher."""
    validation: int
    """Of all sources, for each arm."""
    heldout: int
    """For every held-out loss on the way; of the length that is trained."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Variant:
    """A bin with a space, and what may come out of it."""

    bin: str
    space: str
    members: tuple[Architecture, ...]
    """Drawn from the bin."""
    center: Architecture
    """The model at the centre of the bin, by which the paper charges."""
    compensation: Compensation | None
    genes_bytes: float
    """What the history of a search takes for one candidate: all that it keeps."""
    reference: Architecture | None = None
    """That the bin names, to be trained beside the sub-networks."""

    def mean_forward(self, context: int) -> float:
        """Return the mean FLOPs of a forward pass of the members, per token."""
        return statistics.fmean(forward_flops_per_token(member, context=context) for member in self.members)

    def mean_training(self, context: int) -> float:
        """Return the mean FLOPs of training the members, per token."""
        return statistics.fmean(training_flops_per_token(member, context=context) for member in self.members)

    def mean_compensation(self, teacher: Architecture, num_tokens: int, context: int) -> float:
        """Return the mean FLOPs of correcting the members, if every dropped layer stood by itself; 0 where none is."""
        if self.compensation is None:
            return 0.0
        regressions = (
            regression_flops(
                teacher,
                member,
                self.compensation,
                num_tokens=num_tokens,
                num_gaps=min(member.num_hidden_layers, teacher.num_hidden_layers - member.num_hidden_layers),
            )
            for member in self.members
        )
        return num_tokens * forward_flops_per_token(teacher, context=context) + statistics.fmean(regressions)

    @property
    def largest(self) -> Architecture:
        """The member with the most parameters."""
        return max(self.members, key=num_parameters)


@dataclass(frozen=True, slots=True, kw_only=True)
class Study:
    """All that a study's cost follows from."""

    teacher: Architecture
    teacher_bytes_per_parameter: int
    """In its files, and in those of what is cut out of it."""
    variants: tuple[Variant, ...]
    num_evaluations: int
    """Candidates of one search."""
    num_finalists: int
    finalist_tokens: int
    """On which every finalist is trained."""
    reading: Reading
    schedule: Schedule
    arms: Mapping[str, bool]
    """Whether the teacher takes part, by the name of the arm."""
    precision: Precision
    num_seeds: int = 1
    """Times that every arm is trained."""
    probe_schedule: Schedule | None = None
    """Of the training of every variant's sub-network, after which the best of each bin goes on; None: all do."""

    @property
    def trained_tokens(self) -> int:
        """Of one arm, in whole steps."""
        return _trained_tokens(self.schedule)

    @property
    def trained(self) -> tuple[Variant, ...]:
        """What is trained in full: all variants, or one of every bin that nobody knows yet."""
        if self.probe_schedule is None:
            return self.variants
        bins: dict[str, list[Variant]] = {}
        for variant in self.variants:
            bins.setdefault(variant.bin, []).append(variant)
        return tuple(
            replace(spaces[0], space=CHOSEN, members=tuple(member for space in spaces for member in space.members))
            for spaces in bins.values()
        )

    @property
    def probed_tokens(self) -> int:
        """Tokens of a probe that the training after it does not repeat."""
        probe = self.probe_schedule
        if probe is None or probe.shape != "warmup_stable_decay":
            return 0
        return probe.decay_start * probe.tokens_per_step

    def heldout_tokens(self, schedule: Schedule, after: int = 0) -> int:
        """Return the tokens of all held-out losses of one run after some tokens, step 0 included."""
        steps, count = schedule.num_steps, schedule.num_evaluations
        taken = {0, *(round(steps * (place + 1) / count) for place in range(count))}
        times = sum(step * schedule.tokens_per_step > after for step in taken) if after else len(taken)
        return times * self.reading.heldout * schedule.sequence_length

    def training_memory(self, members: Sequence[Architecture], micro_batch: int, *, taught: bool) -> Memory:
        """Return what training takes, of that model which takes most."""
        tokens, teacher = micro_batch * self.schedule.sequence_length, self.teacher if taught else None
        memories = (
            training_memory(member, num_tokens=tokens, precision=self.precision, teacher=teacher) for member in members
        )
        return max(memories, key=lambda memory: memory.total)


def draw_members(
    space: SearchSpace, parameter_bin: ParameterBin, *, num_members: int = NUM_MEMBERS
) -> tuple[tuple[Architecture, ...], float]:
    """Return sub-networks that lie in a bin, and the mean bytes of what a search writes down of one of them.

    Raises:
        ValueError: the bin cannot be reached.
    """
    rng = np.random.default_rng(0)
    # Sizes are drawn before entries: where layers are alike those of the coarse space are the same, and come at once.
    sizes = replace(space, granularity="coarse") if space.teacher.is_uniform else space
    members = tuple(sample(sizes, parameter_bin, rng).architecture(space.teacher) for _ in range(num_members))
    written = [len(json.dumps(sample(space, parameter_bin, rng).to_dict())) for _ in range(_NUM_HISTORIES)]
    return members, statistics.fmean(written)


def in_small(teacher: Architecture, size: float) -> Architecture:
    """Return the model of a teacher's proportions whose number of parameters comes nearest to a size.

    Hidden size, heads, MLP width and layers shrink by one factor; heads keep their dimensions.
    """
    low, high = 0.0, 1.0
    for _ in range(_BISECTIONS):
        middle = (low + high) / 2
        low, high = (middle, high) if num_parameters(_scaled(teacher, middle)) < size else (low, middle)
    return min((_scaled(teacher, factor) for factor in (low, high)), key=lambda m: abs(num_parameters(m) - size))


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
    hours = frame["flops"] / (accelerator.flops_per_second * mfu) / _SECONDS_PER_HOUR
    texts = dict.fromkeys(("bin", "space", "arm"), "")
    counted = [name for name in COLUMNS if name not in {"stage", *texts, "paper_flops"}]
    return (
        frame.assign(device_hours=hours)
        .fillna(texts | dict.fromkeys(counted, 0))
        .astype(dict.fromkeys([*counted, "paper_flops"], float))
    )


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


def _scaled(teacher: Architecture, factor: float) -> Architecture:
    def shrunk(size: int) -> int:
        return max(1, round(size * factor))

    first = teacher.layers[0]
    groups = shrunk(first.num_key_value_heads)
    layer = replace(
        first,
        num_attention_heads=groups * first.heads_per_group,
        num_key_value_heads=groups,
        intermediate_size=shrunk(first.intermediate_size),
    )
    depth = shrunk(teacher.num_hidden_layers)
    return replace(teacher, hidden_size=shrunk(teacher.hidden_size), layers=(layer,) * depth)


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
    yield _row("text", None, SHARED, 0, 0) | {"disk_bytes": study.trained_tokens * token_bytes}
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
    yield _row("evaluation", None, SHARED, reading.teacher * reading.length, forward) | held


def _search_rows(study: Study, variant: Variant) -> Iterator[dict[str, object]]:
    """Yield what it takes to find and cut out a sub-network, and to probe it."""
    reading, length, largest = study.reading, study.reading.length, variant.largest
    yield _search_row(study, variant)
    files = {"disk_bytes": num_parameters(largest) * study.teacher_bytes_per_parameter}
    tokens = reading.calibration * length
    flops = variant.mean_compensation(study.teacher, tokens, length)
    yield _row("compensation", variant, SHARED, tokens if flops else 0, flops / tokens) | files
    if (probe := study.probe_schedule) is not None:
        context = probe.sequence_length
        look = _row(PROBE, variant, SHARED, reading.choice * length, variant.mean_forward(length))
        row = _row(PROBE, variant, SHARED, _trained_tokens(probe), variant.mean_training(context))
        row |= {name: row[name] + look[name] for name in ("tokens", "flops")}
        memory = study.training_memory(variant.members, probe.micro_batch, taught=False)
        yield row | _held(memory, largest) | _files(num_parameters(largest))
        yield _row("heldout", variant, SHARED, study.heldout_tokens(probe), variant.mean_forward(context))


def _training_rows(study: Study, variant: Variant) -> Iterator[dict[str, object]]:
    """Yield what the arms of a variant cost, and what it takes to measure them."""
    reading, length, largest = study.reading, study.reading.length, variant.largest
    for arm, taught in study.arms.items():
        for place in range(study.num_seeds):
            done = study.probed_tokens if arm == CONTINUED and place == 0 else 0
            yield from _arm_rows(study, variant, arm, taught=taught, done=done)
    tokens = study.num_seeds * len(study.arms) * reading.validation * length
    held = forward_memory(largest, num_sequences=reading.batch_size, length=length, precision=study.precision)
    row = _row("evaluation", variant, SHARED, tokens, variant.mean_forward(length)) | _held(held, largest)
    if variant.reference is not None:
        measured = study.num_seeds * reading.validation * length
        flops = measured * forward_flops_per_token(variant.reference, context=length)
        row |= {"tokens": tokens + measured, "flops": row["flops"] + flops}
    yield row


def _reference_rows(study: Study, variant: Variant) -> Iterator[dict[str, object]]:
    """Yield what the reference of a bin costs; all its spaces share it."""
    reference, schedule = variant.reference, study.schedule
    if reference is None:
        return
    tokens, length = study.trained_tokens, schedule.sequence_length
    shared = replace(variant, space=SHARED)
    memory = study.training_memory((reference,), schedule.micro_batch, taught=False)
    row = _row("training", shared, REFERENCE, tokens, training_flops_per_token(reference, context=length))
    forward = forward_flops_per_token(reference, context=length)
    for _ in range(study.num_seeds):
        yield row | _held(memory, reference) | _files(num_parameters(reference))
        yield _row("heldout", shared, REFERENCE, study.heldout_tokens(schedule), forward)


def _trained_tokens(schedule: Schedule) -> int:
    """Return the tokens of a run, in whole steps."""
    return schedule.num_steps * schedule.tokens_per_step


def _files(count: int) -> dict[str, object]:
    """Return what a trained model of some parameters leaves on disk, and its checkpoints meanwhile."""
    return {"disk_bytes": _MODEL_BYTES * count, "passing_disk_bytes": _NUM_CHECKPOINTS * _CHECKPOINT_BYTES * count}


def _search_row(study: Study, variant: Variant) -> dict[str, object]:
    reading, largest = study.reading, variant.largest
    sequences = study.num_evaluations * reading.selection + study.num_finalists * reading.choice
    read, (tokens, flops) = sequences * reading.length, _finals(study, variant)
    row = _row("search", variant, SHARED, read, variant.mean_forward(reading.length))
    row |= {"tokens": read + tokens, "flops": read * variant.mean_forward(reading.length) + flops}
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
    calibrated = reading.calibration * reading.length
    corrections = variant.mean_compensation(study.teacher, calibrated, reading.length)
    trained = -(-study.finalist_tokens // schedule.tokens_per_step) * schedule.tokens_per_step
    training = trained * variant.mean_training(schedule.sequence_length)
    tokens = trained + (calibrated if corrections else 0)
    return study.num_finalists * tokens, study.num_finalists * (corrections + training)


def _arm_rows(study: Study, variant: Variant, arm: str, *, taught: bool, done: int) -> Iterator[dict[str, object]]:
    schedule, length, largest = study.schedule, study.schedule.sequence_length, variant.largest
    tokens = study.trained_tokens - done
    memory = study.training_memory(variant.members, schedule.micro_batch, taught=taught)
    reference = tokens * training_flops_per_token(variant.center, context=length) if arm == BASELINE else np.nan
    row = _row("training", variant, arm, tokens, variant.mean_training(length)) | _held(memory, largest)
    yield row | _files(num_parameters(largest)) | {"paper_flops": reference}
    if taught:
        yield _row("teacher", variant, arm, tokens, forward_flops_per_token(study.teacher, context=length))
    yield _row("heldout", variant, arm, study.heldout_tokens(schedule, done), variant.mean_forward(length))
