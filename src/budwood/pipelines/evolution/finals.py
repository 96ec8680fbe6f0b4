"""The last stage of a search: finalists as they would be exported, perhaps trained briefly, on text of their own."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter
from typing import Any

import torch
from transformers import PreTrainedModel

from budwood.arch.count import forward_flops_per_token
from budwood.arch.selection import Selection
from budwood.corpus.packing import PackedCorpus
from budwood.models.checkpoint import load_model
from budwood.models.export import write_checkpoint
from budwood.models.losses import sequence_losses
from budwood.parameters import ArmParameters, MeasurementParameters, SpaceParameters
from budwood.pipelines.evolution.evaluators import windows_of
from budwood.search.candidate import canonical_key
from budwood.search.settings import SearchSettings
from budwood.subnet.compensate import compensation_flops, cut_out
from budwood.subnet.extract import own_weights, resolve
from budwood.subnet.ordering import OrderedTeacher
from budwood.training.job import TrainingJob
from budwood.training.launch import run_job
from budwood.training.run import MODEL
from budwood.training.settings import Engine, Schedule


def untold(metrics: Mapping[str, float], step: int) -> None:
    """Tell nobody how a finalist trains: its curve stays in its folder."""
    del metrics, step


def brief(schedule: Schedule, tokens: int) -> Schedule:
    """Return the schedule of a short run: a cosine whose warm-up takes no more than a quarter of its steps."""
    num_steps = -(-tokens // schedule.tokens_per_step)
    warmup = {"warmup_steps": min(schedule.num_warmup_steps, num_steps // 4), "warmup_ratio": 0.0}
    return schedule.model_copy(update={"tokens": tokens, "shape": "cosine", "num_evaluations": 1, **warmup})


@dataclass(frozen=True, slots=True, kw_only=True)
class Look:
    """What a finalist is worth."""

    losses: list[float]
    """On every sequence of the choice, nats per token."""
    flops: float
    tokens: int
    seconds: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Finals:
    """Everything that finalists are judged with."""

    teacher: Path
    ordered: OrderedTeacher
    """With its weights in memory."""
    tokens: PackedCorpus
    space: SpaceParameters
    search: SearchSettings
    measurement: MeasurementParameters
    schedule: Schedule
    arm: ArmParameters
    engine: Engine
    folder: Path
    """For the training of finalists."""

    def look(self, finalist: Selection) -> Look:
        """Cut a finalist out as it would be exported, train it where that is wanted, and return its losses."""
        started = perf_counter()
        calibration = windows_of(self.tokens, "calibration", self.measurement)[:, :-1]
        settings, batch_size = self.space.compensation, self.measurement.batch_size
        child = cut_out(self.ordered, finalist, calibration, settings, batch_size=batch_size)
        flops, tokens = 0.0, 0
        if settings and settings.steps:
            tokens += calibration.numel()
            cut = resolve(self.ordered, finalist)
            flops += compensation_flops(self.ordered.architecture, cut, settings, *calibration.shape)
        if self.search.finalist_tokens:
            child, record = self._train(child, self.folder / canonical_key(finalist))
            tokens += record["tokens"]
            flops += record["student_flops"]
        windows = windows_of(self.tokens, "choice", self.measurement)
        losses = sequence_losses(self.measurement.compute().place(child), windows, batch_size=batch_size)
        architecture, length = finalist.architecture(self.ordered.architecture), windows.shape[1] - 1
        return Look(
            losses=losses.tolist(),
            flops=flops + len(windows) * length * forward_flops_per_token(architecture, context=length),
            tokens=tokens + len(windows) * length,
            seconds=perf_counter() - started,
        )

    def _train(self, child: PreTrainedModel, folder: Path) -> tuple[PreTrainedModel, Mapping[str, Any]]:
        learning_rate = self.arm.learning_rate or self.schedule.peak_learning_rate
        assert learning_rate is not None, "the parameters were validated together"
        folder.mkdir(parents=True, exist_ok=True)
        cut = write_checkpoint(own_weights(child), self.teacher, folder / "cut")
        job = TrainingJob(
            arm="finalist",
            model_folder=cut,
            initialisation="checkpoint",
            teacher_folder=self.teacher,
            corpus_folder=self.tokens.directory,
            output_folder=folder,
            learning_rate=learning_rate,
            schedule=brief(self.schedule, self.search.finalist_tokens),
            heldout_windows=self.measurement.heldout,
            device=self.measurement.device,
            precision=self.measurement.precision,
            engine=self.engine,
        )
        record = run_job(job, untold, {})
        return load_model(folder / MODEL, torch.float32), record
