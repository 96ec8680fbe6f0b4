"""The teacher: taken in, and its components ranked."""

import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import ClassVar

from torch import Tensor

from budwood.arch.count import forward_flops_per_token, num_parameters
from budwood.arch.spec import Architecture
from budwood.models.checkpoint import Checkpoint
from budwood.models.device import Compute
from budwood.models.settings import TeacherSettings
from budwood.models.teacher import FetchedTeacher
from budwood.records.cost import Cost
from budwood.records.teacher import TeacherRecord
from budwood.study.stage import Stage, Work
from budwood.study.text import Windows
from budwood.subnet.elimination import leave_layers_out
from budwood.subnet.importance import Importance, measure_importance

TRIALS = "trials.jsonl"
_TRIALS_PER_LAYER = 5
"""Layers that are left out on trial, about, for every one that is left out: 4.7 of 30 in SmolLM2-135M."""


@dataclass(frozen=True, slots=True)
class Ranked:
    """The importance of a teacher's components, and what it cost to find."""

    importance: dict[str, Tensor]
    """`budwood.subnet.importance.Importance` as tensors; empty where nothing was measured."""
    costs: list[Cost]


@dataclass(frozen=True, kw_only=True)
class RankComponents(Stage[Ranked]):
    """Score what layers are made of in one pass over calibration text, then leave layers out one by one."""

    name: ClassVar[str] = "importance"
    result: ClassVar[type] = Ranked

    teacher: Checkpoint
    calibration: Windows
    elimination: int
    """The most of these sequences on which layers are left out; 0: layers are not left out."""
    compute: Compute
    batch_size: int

    def run(self, work: Work) -> Ranked:
        """Measure; a killed run continues after the last trial of its elimination."""
        started = time.perf_counter()
        windows, architecture = self.calibration.read(), self.teacher.architecture
        text = windows[:, :-1]
        model = self.compute.place(self.teacher.load_model(self.compute.dtype)).eval()
        importance = measure_importance(model, architecture, text, batch_size=self.batch_size)
        del model
        passed = time.perf_counter()
        costs = [calibration_cost(architecture, self.calibration).after(passed - started)]
        if self.elimination:
            compared = windows[: self.elimination]
            found = leave_layers_out(
                self.teacher.folder, compared, self.compute, work.folder / TRIALS, batch_size=self.batch_size
            )
            importance = replace(importance, eliminated=found.order)
            cost = Cost(stage="elimination", flops=found.flops, tokens=found.tokens)
            costs.append(cost.after(time.perf_counter() - passed))
        return Ranked(importance.to_tensors(), costs)


def importance_of(tensors: dict[str, Tensor]) -> Importance | None:
    """Return the importance that a stage has measured; None where it measured nothing."""
    return Importance.from_tensors(tensors) if tensors else None


def teacher_record(fetched: FetchedTeacher, settings: TeacherSettings) -> TeacherRecord:
    """Return what a teacher is.

    Raises:
        ValueError: it is not what the settings say it is.
    """
    teacher = fetched.checkpoint
    stated = settings.architecture.architecture() if settings.architecture else teacher.architecture
    if stated != teacher.architecture:
        raise ValueError(
            f"teacher.architecture: {fetched.name} is {teacher.architecture.describe()}, vocabulary "
            f"{teacher.architecture.vocab_size:,}; stated is {stated.describe()}, vocabulary {stated.vocab_size:,}"
        )
    return TeacherRecord(
        name=fetched.name,
        revision=fetched.revision,
        model_type=str(teacher.config["model_type"]),
        num_parameters=num_parameters(teacher.architecture),
        fingerprint=teacher.fingerprint,
        license=settings.license,
        attribution=settings.attribution,
        num_token_ids=len(teacher.load_tokenizer()),
        architecture=teacher.architecture,
    )


def calibration_cost(teacher: Architecture, calibration: Windows) -> Cost:
    """Return what one pass of the teacher over calibration text costs."""
    return Cost.of("calibration", calibration.num_tokens, forward_flops_per_token(teacher, context=calibration.length))


def elimination_cost(teacher: Architecture, num_tokens: int, context: int, trials: Sequence[int] | None = None) -> Cost:
    """Return what it costs to leave layers out one by one.

    Args:
        teacher: all layers.
        num_tokens: that are read in each trial.
        context: tokens of a sequence.
        trials: layers that were kept in each trial; an estimate where that is not known.
    """
    depth = teacher.num_hidden_layers
    if trials is None:
        trials = [(depth + 1) // 2] * min(_TRIALS_PER_LAYER * depth, depth * (depth + 1) // 2)
    flops = sum(
        num_tokens * forward_flops_per_token(teacher.with_layers(teacher.layers[:kept]), context=context)
        for kept in trials
    )
    return Cost(stage="elimination", tokens=len(trials) * num_tokens, flops=float(flops))
