"""How training proceeds; imports no torch."""

import math
import os
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.util import find_spec
from itertools import pairwise
from typing import Annotated, Any, Literal, Self

from pydantic import Field, field_validator, model_validator

from budwood.records.strict import HOW, Strict

Divergence = Literal["forward", "reverse", "jensen_shannon"]
DistillationLoss = Literal["full", "topk_renorm", "topk_tail", "sampled"]
OptimizerName = Literal["adamw", "muon"]
Shape = Literal["cosine", "warmup_stable_decay"]
ArmName = Literal["random_init", "subnet_init", "distilled", "reference_init"]
Tracker = Literal["wandb", "trackio", "tensorboard"]
Rate = Annotated[float, Field(gt=0, allow_inf_nan=False)]

_PAPER = {
    "tokens": 10_000_000_000,
    "sequence_length": 2048,
    "global_batch": 1056,
    "micro_batch": 8,
    "peak_learning_rate": 3e-4,
}
SCHEDULES: dict[str, dict[str, Any]] = {
    "quickstart": {
        "tokens": 4096,
        "sequence_length": 256,
        "global_batch": 2,
        "micro_batch": 2,
        "warmup_steps": 2,
        "num_evaluations": 3,
        "checkpoint_steps": 4,
    },
    "where_to_begin_410m": _PAPER,
    "where_to_begin_1b": _PAPER,
    "where_to_begin_2.8b": _PAPER | {"micro_batch": 16, "peak_learning_rate": 1.6e-4, "warmup_steps": 238},
}
"""Schedules by name: the quickstart's, and those of the paper's three bins (tables 3 to 8: micro batches are those of
pretraining, distillation took 2 to 6; the 10B tokens are the text's, tables 3 and 4 print 50B)."""


@dataclass(frozen=True, slots=True)
class DistillationWeights:
    """Weights of `alpha * CE + beta * T^2 * D(teacher, student)` (paper, equation 2)."""

    alpha: float
    """Weight of the cross-entropy with the text."""
    beta: float
    """Weight of the divergence from the teacher."""
    temperature: float
    divergence: Divergence = "forward"


PRETRAINING = DistillationWeights(1.0, 0.0, 1.0)
"""The loss of plain pretraining."""


class Schedule(Strict):
    """How many tokens are trained, in which portions, and how learning proceeds (paper, tables 3 to 8)."""

    preset: Annotated[str | None, HOW] = None
    """`quickstart`, or one of the paper's: `where_to_begin_410m`, `where_to_begin_1b`, `where_to_begin_2.8b`. It gives
    every value that is not set here."""
    tokens: int = Field(gt=0)
    """Tokens predicted in the whole run; rounded up to whole optimiser steps."""
    sequence_length: int = Field(gt=0)
    """Tokens predicted per sequence."""
    global_batch: int = Field(gt=0)
    """Sequences of one optimiser step, over all devices."""
    micro_batch: Annotated[int, HOW] = Field(gt=0)
    """Sequences that fit through the model of one device at once; divides the global batch."""
    peak_learning_rate: float | None = Field(default=None, gt=0)
    """Of every arm without one of its own."""
    shape: Shape = "cosine"
    """`warmup_stable_decay` keeps the peak until the decay begins, so that a longer run can continue a shorter one."""
    warmup_steps: int = Field(default=0, ge=0)
    """Optimiser steps in which the learning rate rises."""
    warmup_ratio: float = Field(default=0.0, ge=0, lt=1)
    """The same as a share of the steps; give one of the two."""
    decay_ratio: float = Field(default=0.2, gt=0, le=1)
    """Share of the steps in which `warmup_stable_decay` decays, by 1 - sqrt (Hägele et al., 2024)."""
    final_learning_rate_ratio: float = Field(default=0.1, ge=0, le=1)
    """Where the learning rate ends, relative to the peak."""
    optimizer: OptimizerName = "adamw"
    """`muon` orthogonalises the updates of the matrices in decoder layers, at AdamW's root mean square (so with its
    learning rate); all else is AdamW's."""
    weight_decay: float = Field(default=0.01, ge=0)
    """Of everything but norms and biases."""
    betas: tuple[float, float] = (0.9, 0.95)
    """Of AdamW."""
    max_grad_norm: float = Field(default=1.0, gt=0)
    """Longer gradients are shortened to this norm."""
    num_evaluations: int = Field(default=4, ge=1)
    """Held-out losses taken on the way, the last one at the end; one more is taken at step 0."""
    checkpoint_steps: Annotated[int, HOW] = Field(default=500, gt=0)
    """Optimiser steps between checkpoints."""
    seed: int = 42
    """Of random weights and of the order of the text."""

    @model_validator(mode="before")
    @classmethod
    def _fill_from_preset(cls, data: Any) -> Any:
        name = data.get("preset") if isinstance(data, dict) else None
        if name is None:
            return data
        if name not in SCHEDULES:
            raise ValueError(f"preset={name!r} is unknown; there are {', '.join(SCHEDULES)}")
        return SCHEDULES[name] | data

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if self.global_batch % self.micro_batch:
            raise ValueError(f"micro_batch={self.micro_batch} must divide global_batch={self.global_batch}")
        if self.warmup_steps and self.warmup_ratio:
            raise ValueError(f"give warmup_steps={self.warmup_steps} or warmup_ratio={self.warmup_ratio}, not both")
        if self.shape == "warmup_stable_decay":
            if self.warmup_ratio:
                raise ValueError(
                    "shape=warmup_stable_decay takes warmup_steps, not warmup_ratio: "
                    "a longer run that continues this one must have warmed up alike"
                )
            if self.num_warmup_steps > self.decay_start:
                raise ValueError(
                    f"warmup_steps={self.warmup_steps} must end before the decay begins, at step {self.decay_start}"
                )
        elif self.num_warmup_steps >= self.num_steps and self.num_warmup_steps:
            raise ValueError(f"warmup_steps={self.num_warmup_steps} must be fewer than the run's {self.num_steps}")
        return self

    def num_checkpoints(self, kept: int) -> int:
        """Return how many checkpoints of a run there are at once: the kept ones and the next, or all that it writes."""
        return min(kept + 1, math.ceil(self.num_steps / self.checkpoint_steps))

    def of_length(self, tokens: int) -> Self:
        """Return a schedule of another length.

        Raises:
            ValueError: it does not allow for that length.
        """
        return self.changed({"tokens": tokens})

    def brief(self, tokens: int) -> Self:
        """Return the schedule of a short run: a cosine whose warm-up takes no more than a quarter of its steps.

        It does not depend on how long this one is.
        """
        num_steps = -(-tokens // self.tokens_per_step)
        rising = self.warmup_steps or math.ceil(self.warmup_ratio * num_steps)
        warmup = {"warmup_steps": min(rising, num_steps // 4), "warmup_ratio": 0.0}
        return self.model_copy(update={"tokens": tokens, "shape": "cosine", "num_evaluations": 1, **warmup})

    def require_shared_by(self, num_processes: int) -> None:
        """Check that every process gets as many sequences of a batch, in whole portions.

        Raises:
            ValueError: it does not.
        """
        if self.global_batch % (self.micro_batch * num_processes):
            raise ValueError(
                f"global_batch={self.global_batch} must be a multiple of micro_batch={self.micro_batch} times the "
                f"{num_processes} processes"
            )

    @property
    def tokens_per_step(self) -> int:
        """Tokens predicted per optimiser step."""
        return self.global_batch * self.sequence_length

    @property
    def num_steps(self) -> int:
        """Optimiser steps of the run."""
        return -(-self.tokens // self.tokens_per_step)

    @property
    def num_warmup_steps(self) -> int:
        """Optimiser steps in which the learning rate rises."""
        return self.warmup_steps or math.ceil(self.warmup_ratio * self.num_steps)

    @property
    def evaluation_steps(self) -> tuple[int, ...]:
        """Optimiser steps after which a held-out loss is taken, 0 included."""
        ends = {round(self.num_steps * (place + 1) / self.num_evaluations) for place in range(self.num_evaluations)}
        return tuple(sorted({0, *ends}))

    @property
    def decay_start(self) -> int:
        """Optimiser steps before the decay of `warmup_stable_decay`."""
        return self.num_steps - math.ceil(self.decay_ratio * self.num_steps)

    @property
    def num_sequences(self) -> int:
        """Sequences that the run reads."""
        return self.num_steps * self.global_batch

    @property
    def num_tokens(self) -> int:
        """Tokens that the run predicts: `tokens` in whole steps."""
        return self.num_steps * self.tokens_per_step


class DistillationSettings(Strict):
    """`alpha * CE + beta * T^2 * D(teacher, student)` (paper, equation 2; section 4: 0.2, 0.8, 0.9, top 1024)."""

    alpha: float = Field(default=0.2, ge=0)
    """Weight of the cross-entropy with the text."""
    beta: float = Field(default=0.8, ge=0)
    """Weight of the divergence from the teacher."""
    temperature: float = Field(default=1.0, gt=0)
    """Divides the logits of both."""
    loss: DistillationLoss = "full"
    """Which part of the teacher's distribution the student learns, see `budwood.training.teacher`: all of it (`full`),
    its top `top_k` entries and one bucket for all others (`topk_tail`), tokens drawn from it (`sampled`), or its top
    `top_k` renormalised (`topk_renorm`: the paper's way; biased). Of ids that `teacher.vocabulary` dropped, `topk_tail`
    has the probability in the bucket; for the others the teacher has kept ids only."""
    divergence: Divergence = "forward"
    """`reverse` and `jensen_shannon` need every entry of both sides: `loss: full`."""
    top_k: int = Field(default=1024, ge=1)
    """Entries of the teacher that `topk_renorm` and `topk_tail` keep per token."""
    num_samples: int = Field(default=64, ge=1, le=255)
    """Draws per token, with replacement."""
    sampling_seed: int = 42
    """Of the draws; not the schedule's, so that runs in other orders can read one cache."""
    teacher: Literal["live", "cached"] = "live"
    """`cached` runs the teacher once for all students that read the same sequences."""
    teacher_device: str = "same"
    """`same` as the student's, or a device of the teacher's own, such as `cuda:1`."""
    compile_teacher: bool = False
    """Compile the teacher with torch.compile."""

    @model_validator(mode="after")
    def _sensible(self) -> Self:
        if self.divergence != "forward" and self.loss != "full":
            raise ValueError(f"divergence={self.divergence!r} needs loss='full', got {self.loss!r}: it has all entries")
        if self.teacher == "cached" and self.loss == "full":
            raise ValueError(
                "teacher='cached' needs a loss of few entries (topk_tail, sampled, topk_renorm), got 'full'"
            )
        return self

    @property
    def weights(self) -> DistillationWeights:
        """The settings as the loss takes them."""
        return DistillationWeights(self.alpha, self.beta, self.temperature, self.divergence)


class Engine(Strict):
    """How training runs; nothing here changes the result beyond rounding."""

    launcher: str | None = None
    """Command that starts one process for every device, such as `torchrun --standalone --nproc-per-node auto
    --max-restarts 3`; null trains in this process, on one device. Variables of the environment are expanded."""
    sharding: bool = False
    """Shard weights, gradients and optimiser state among the devices (FSDP2); otherwise each has them all (DDP)."""
    compile: bool = False
    """Compile every decoder layer; costs a minute and pays in long runs."""
    compile_loss: Literal["auto", "on", "off"] = "auto"
    """Whether the loss is compiled; `auto` does so where that works, and logs why where it does not."""
    activation_checkpointing: bool = False
    """Compute activations again in the backward pass: a third more work, room for larger micro-batches."""
    kept_checkpoints: int = Field(default=2, ge=1)
    """Newest checkpoints that stay on disk while a run lasts."""
    report_to: Annotated[tuple[Tracker, ...], HOW] = ()
    """Trackers that get every step's losses beside MLflow; they are set up by their own variables, such as
    `WANDB_PROJECT` or `TENSORBOARD_LOGGING_DIR`."""

    @field_validator("report_to")
    @classmethod
    def _installed(cls, trackers: tuple[Tracker, ...]) -> tuple[Tracker, ...]:
        for tracker in trackers:
            if find_spec(tracker) is None:
                raise ValueError(f"report_to: {tracker} is not installed; pip install {tracker}")
        if "tensorboard" in trackers and not os.environ.get("TENSORBOARD_LOGGING_DIR"):
            # The Trainer's default is a folder among the checkpoints, which are removed at the end.
            raise ValueError("report_to: tensorboard needs TENSORBOARD_LOGGING_DIR, the folder that it reads")
        return trackers


class RateSweep(Strict):
    """Short runs that choose a peak learning rate, by their losses on the text of the choice."""

    tokens: int = Field(gt=0)
    """Training tokens of every short run, which is a cosine with the schedule's batch."""
    rates: tuple[Rate, ...] = (1e-4, 3e-4, 1e-3)
    """Peaks that are tried. While the lowest or the highest is best, one beyond it is tried as well, at most three."""

    @field_validator("rates")
    @classmethod
    def _several(cls, rates: tuple[float, ...]) -> tuple[float, ...]:
        if not rates[1:] or any(low >= high for low, high in pairwise(rates)):
            raise ValueError(f"rates={list(rates)} must be two or more that rise")
        return rates


class ArmSettings(Strict):
    """One training arm."""

    learning_rate: Rate | RateSweep | None = None
    """Peak, chosen for the arm's initialisation, or short runs that choose it; without either it is
    `schedule.peak_learning_rate`."""
    micro_batch: Annotated[int | None, HOW] = Field(default=None, gt=0)
    """In place of `schedule.micro_batch`: a teacher leaves less room for the student's sequences."""
    distillation: DistillationSettings | None = None
    """How the arm learns from the teacher; null: from the text alone."""

    def rate(self, schedule: Schedule) -> float | RateSweep:
        """Return the peak learning rate under a schedule, or how it is chosen.

        Raises:
            ValueError: neither names one, or a sweep is as long as the training.
        """
        rate = self.learning_rate or schedule.peak_learning_rate
        if isinstance(rate, RateSweep) and rate.tokens >= schedule.tokens:
            raise ValueError(
                f"learning_rate.tokens={rate.tokens} must be fewer than tokens={schedule.tokens} of training"
            )
        if rate is None:
            raise ValueError("give it a learning_rate, or all arms schedule.peak_learning_rate")
        return rate

    def fitted(self, schedule: Schedule) -> Schedule:
        """Return a schedule with the arm's own micro batch, where it has one.

        Raises:
            ValueError: it does not divide the global batch.
        """
        return schedule if self.micro_batch is None else schedule.changed({"micro_batch": self.micro_batch})

    def with_distillation(self, changes: dict[str, Any]) -> Self:
        """Return an arm with other settings of distillation, under a live teacher.

        Raises:
            ValueError: a setting is unknown or does not go with the others.
        """
        assert self.distillation is not None, "the parameters give this arm a teacher"
        return self.model_copy(update={"distillation": self.distillation.changed({"teacher": "live"} | changes)})


class Arms(Strict):
    """The arms of every variant."""

    random_init: ArmSettings
    """The sub-network's architecture from its family's own initialisation: the baseline."""
    subnet_init: ArmSettings
    """The sub-network with the weights that it was cut with."""
    distilled: ArmSettings
    """The sub-network with its weights, under the teacher."""
    reference_init: ArmSettings
    """The reference architecture of the bin from its family's own initialisation, where the bin names one."""

    @property
    def caches_teacher(self) -> bool:
        """Whether the arm under the teacher reads what the teacher has said once."""
        distillation = self.distilled.distillation
        return distillation is not None and distillation.teacher == "cached"

    def finalist_rate(self, schedule: Schedule) -> float:
        """Return the peak learning rate at which finalists of a search are trained.

        Raises:
            ValueError: it would be chosen by short runs, of which every finalist would need its own.
        """
        rate = self.subnet_init.rate(schedule)
        if isinstance(rate, RateSweep):
            message = "search.finalist_tokens needs a number in arms.subnet_init.learning_rate, not a sweep"
            raise ValueError(message)  # noqa: TRY004 - the combination is wrong
        return rate

    def with_arms(self, changes: Mapping[ArmName, Mapping[str, Any]]) -> Self:
        """Return the arms with other values of some; of `distillation` too, only those that are given change.

        Raises:
            ValueError: a value is unknown, not allowed, or does not go with the others.
        """
        arms = self.model_dump()
        for name, values in changes.items():
            arms[name] |= values
            own = getattr(self, name).distillation
            if own is not None and values.get("distillation") is not None:
                arms[name]["distillation"] = own.model_dump() | values["distillation"]
        return self.changed(arms)

    @model_validator(mode="after")
    def _distilled_has_a_teacher(self) -> Self:
        if self.distilled.distillation is None:
            raise ValueError("arms.distilled: give `distillation` its weights")
        for name in ("random_init", "subnet_init", "reference_init"):
            distillation = getattr(self, name).distillation
            if distillation is not None and distillation.teacher == "cached":
                raise ValueError(f"arms.{name}: teacher must be live, only `distilled` reads a cache")
        return self
