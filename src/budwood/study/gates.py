"""Checks of seconds, before money is spent: the order of a teacher, the start of a student, and that it learns."""

import logging
import shutil
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from statistics import fmean
from typing import ClassVar, Self

import torch
from torch import Tensor

from budwood.arch.count import forward_flops_per_token
from budwood.arch.selection import Indices, Selection
from budwood.arch.spec import Architecture
from budwood.models.checkpoint import Checkpoint, load_model
from budwood.models.device import Compute
from budwood.models.losses import sequence_losses
from budwood.models.prompts import PROMPTS, read_prompts
from budwood.records.gate import Gate
from budwood.records.hashes import hash_file
from budwood.records.serving import Prompt
from budwood.study import gate_costs
from budwood.study.settings import OnFailure
from budwood.study.stage import NOT_DECIDING, Stage, Work, no_tracking
from budwood.study.teacher import importance_of
from budwood.study.text import Materials, Windows
from budwood.subnet.extract import extract_child
from budwood.subnet.ordering import OrderedTeacher, open_ordered
from budwood.subnet.settings import Ordering
from budwood.training.curve import read_curve
from budwood.training.job import TrainingJob
from budwood.training.launch import run_job
from budwood.training.objectives import Objective
from budwood.training.student import Student
from budwood.training.teacher import teacher_beside

START_TOLERANCE = 1e-3
"""Nats by which a student's loss may differ from its certificate's; float32 on another device differs by less."""
TIE = 1e-3
"""Nats by which the teacher's own order may be ahead: where both halves are the same entries, rounding decides."""
OVERFIT_SHARE = 0.8
"""Of its first loss, the most that a student may keep on a batch that it has seen `OVERFIT_STEPS` times."""

logger = logging.getLogger(__name__)


def require_passed(gates: Sequence[Gate], on_failure: OnFailure) -> None:
    """Stop where a gate has failed, or only log it.

    Raises:
        ValueError: a gate has failed and none may.
    """
    failed = "; ".join(gate.describe() for gate in gates if not gate.passed)
    if failed and on_failure == "stop":
        raise ValueError(f"sanity gate failed: {failed}. To go on all the same, set protocol.failed_gate: warn")
    if failed:
        logger.warning("Sanity gate failed: %s", failed)


@dataclass(frozen=True, kw_only=True)
class CheckOrder(Stage[list[Gate]]):
    """Compare the first half of every axis with its last half, and with the first half in the teacher's own order."""

    name: ClassVar[str] = "order_gate"

    teacher: Checkpoint
    importance: dict[str, Tensor]
    ordering: Ordering
    windows: Windows
    compute: Compute
    batch_size: int

    @classmethod
    def of(cls, materials: Materials, importance: dict[str, Tensor], ordering: Ordering) -> Self:
        """Declare the check of an order."""
        measurement, text = materials.measurement, materials.windows("selection")
        return cls(
            teacher=materials.teacher,
            importance=importance,
            ordering=ordering,
            windows=replace(text, count=min(measurement.elimination, text.count)),
            compute=materials.compute,
            batch_size=measurement.batch_size,
        )

    def run(self, work: Work) -> list[Gate]:
        """Measure every axis by itself, all else whole."""
        started = time.perf_counter()
        ordered = open_ordered(self.teacher.folder, self.ordering, importance_of(self.importance))
        native = open_ordered(self.teacher.folder, Ordering(ordering="native"))
        of_axes = gate_costs.order_gate_costs(self.teacher.architecture, self.windows.extent)
        first, last = self._losses(ordered, (first_half, last_half), list(of_axes))
        (own,) = self._losses(native, (first_half,), list(of_axes))
        seconds = (time.perf_counter() - started) / len(of_axes)
        return [
            Gate(
                name=f"{self.ordering.ordering} order of {axis} against its reverse and the teacher's own",
                # On tensors: Python's `max` passes over NaN.
                value=float(torch.stack([first[axis] - last[axis], first[axis] - own[axis] - TIE]).max()),
                limit=0.0,
                unit="nats",
                cost=cost.after(seconds),
            )
            for axis, cost in of_axes.items()
        ]

    def _losses(
        self,
        teacher: OrderedTeacher,
        halves: Sequence[Callable[[Architecture, gate_costs.HalvedAxis], Selection]],
        axes: Sequence[gate_costs.HalvedAxis],
    ) -> list[dict[gate_costs.HalvedAxis, Tensor]]:
        """Return the mean loss of every half of every axis."""
        teacher, windows = teacher.materialise(self.compute), self.windows.read()

        def loss(selection: Selection) -> Tensor:
            return sequence_losses(extract_child(teacher, selection), windows, batch_size=self.batch_size).mean()

        return [{axis: loss(half(teacher.ranked, axis)) for axis in axes} for half in halves]


def first_half(teacher: Architecture, axis: gate_costs.HalvedAxis) -> Selection:
    """Return the first half of an axis of a teacher, its layers by rank, and the whole of all others."""
    return Selection.prefix(gate_costs.halved(teacher, axis))


def last_half(teacher: Architecture, axis: gate_costs.HalvedAxis) -> Selection:
    """Return the last half of an axis, and the whole of all others."""
    half, whole = first_half(teacher, axis), Selection.prefix(teacher)
    if axis == "layers":
        return replace(whole, layers=whole.layers[-len(half.layers) :])
    layers = [
        replace(layer, groups=_last(layer.groups, all_.groups), neurons=_last(layer.neurons, all_.neurons))
        for layer, all_ in zip(half.layers, whole.layers, strict=True)
    ]
    return Selection(hidden=_last(half.hidden, whole.hidden), layers=tuple(layers))


def _last(kept: Indices, whole: Indices) -> Indices:
    """Return as many indices from the end of an axis."""
    return whole if len(kept) == len(whole) else tuple(whole[-len(kept) :])


@dataclass(frozen=True, kw_only=True)
class CheckStart(Stage[list[Gate]]):
    """Compare a student's loss at step 0 with the loss that its certificate records."""

    name: ClassVar[str] = "start_gate"

    start: Checkpoint
    certificate: str
    """Fingerprint of the recorded prompts."""
    compute: Compute

    @classmethod
    def of(cls, start: Checkpoint, compute: Compute) -> Self | None:
        """Declare the check of a start; None where no certificate records a loss."""
        file = start.folder / PROMPTS
        if not file.is_file():
            return None
        return cls(start=start, certificate=hash_file(file), compute=compute)

    def run(self, work: Work) -> list[Gate]:
        """Take the loss as training takes it, in float32."""
        started = time.perf_counter()
        (_, *prompts) = read_prompts(self.start.folder)
        student = Student(self.compute.place(load_model(self.start.folder, torch.float32)), Objective())
        differences = [_loss(student, prompt, self.compute) + fmean(prompt.logprobs) for prompt in prompts]
        lengths = [len(prompt.logprobs) for prompt in prompts]
        model = self.start.architecture
        cost = gate_costs.start_gate_cost(
            {length: forward_flops_per_token(model, context=length) for length in lengths}
        )
        gate = Gate(
            name="loss at step 0 against the certificate's",
            value=float(torch.tensor(differences).abs().max()),
            limit=START_TOLERANCE,
            unit="nats",
            cost=cost.after(time.perf_counter() - started),
            once=True,
        )
        return [gate]


@torch.no_grad()
def _loss(student: Student, prompt: Prompt, compute: Compute) -> float:
    ids = torch.tensor([prompt.input_ids], device=compute.device)
    return float(student.eval()(input_ids=ids[:, :-1], shift_labels=ids[:, 1:])["loss"])


@dataclass(frozen=True, kw_only=True)
class OverfitBatch(Stage[list[Gate]]):
    """Train a student on the first batch of its run alone, over and over, as the run would."""

    name: ClassVar[str] = "overfit_gate"

    run_facts: str
    """What decides the run, in JSON form."""
    student: Architecture
    job: TrainingJob = field(metadata=NOT_DECIDING)
    """Of the run."""

    def run(self, work: Work) -> list[Gate]:
        """Train, and compare the last loss with the first."""
        started, brief = time.perf_counter(), gate_costs.overfit_schedule(self.job.schedule)
        job = self.job.brief(brief, work.folder / "run", frozen_batch=True)
        run_job(job, no_tracking, {})
        losses = [row["train_loss"] for row in read_curve(job.output_folder) if "train_loss" in row]
        shutil.rmtree(job.output_folder)
        cost = gate_costs.overfit_cost(self.student, teacher_beside(self.job), self.job.schedule)
        gate = Gate(
            name="loss on one batch, seen over and over, against its first",
            value=losses[-1] / losses[0],
            limit=OVERFIT_SHARE,
            unit="of the first",
            cost=cost.after(time.perf_counter() - started),
        )
        return [gate]
