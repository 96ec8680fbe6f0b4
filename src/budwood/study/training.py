"""Training of arms and probes, and the teacher's words that they share."""

import json
from dataclasses import dataclass, field, replace
from functools import cache
from pathlib import Path
from typing import Any, ClassVar, NamedTuple, Self

import pandas as pd

from budwood.arch.spec import Architecture
from budwood.corpus.packing import PackedCorpus
from budwood.models.checkpoint import Checkpoint
from budwood.models.device import Compute, choose_compute
from budwood.records.cost import Cost
from budwood.records.gate import Gate
from budwood.records.training import MadeWith, Run, SweptRates, TrainingRecord
from budwood.study.costs import cache_cost, heldout_cost
from budwood.study.devices import require_devices
from budwood.study.gate_costs import is_long
from budwood.study.gates import CheckStart, OverfitBatch, require_passed
from budwood.study.settings import Conditions, OnFailure
from budwood.study.stage import NOT_DECIDING, Stage, Work, identity
from budwood.study.sweep import SweepRates, SweepText
from budwood.study.text import Materials, Windows
from budwood.training.cache import CacheFacts, TeacherCache, write_cache
from budwood.training.curve import CurveRow, read_curve
from budwood.training.job import Initialisation, TrainingJob
from budwood.training.launch import run_job
from budwood.training.order import training_order
from budwood.training.run import MODEL
from budwood.training.settings import ArmSettings, DistillationSettings, Engine, RateSweep, Schedule
from budwood.training.teacher import LiveTeacher, asked_architecture, cache_facts, open_live_teacher

_LENGTH = ("tokens", "decay_ratio", "num_evaluations")
"""Settings of a schedule in which runs may differ that share all steps before their decay."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Start:
    """What a run begins with: a checkpoint, or random weights of a checkpoint's or a named architecture."""

    initialisation: Initialisation
    checkpoint: Checkpoint | None = None
    named: Architecture | None = None

    @property
    def architecture(self) -> Architecture:
        """What is trained."""
        if self.named is not None:
            return self.named
        assert self.checkpoint is not None, "a start has a checkpoint or an architecture"
        return self.checkpoint.architecture

    @property
    def origin(self) -> str:
        """Fingerprint of the checkpoint that gives the weights or the architecture; the sizes of a named one."""
        return self.checkpoint.fingerprint if self.checkpoint else self.architecture.describe()

    @property
    def fingerprint(self) -> str:
        """What distinguishes one start from another."""
        return f"{self.initialisation} {identity(self.named or self.checkpoint)}"


class Trained(NamedTuple):
    """A trained model, its run and its curve."""

    model: Checkpoint
    record: TrainingRecord
    curve: pd.DataFrame
    """A row for every loss: `step`, `train_loss`, `heldout_loss`, `heldout_losses`, `learning_rate`, and the `tokens`
    and `flops` spent until then."""


@dataclass(frozen=True, kw_only=True)
class TrainArm(Stage[Trained]):
    """One training run."""

    name: ClassVar[str] = "training"
    answers: ClassVar[bool] = False

    arm: str
    start: Start
    settings: ArmSettings
    schedule: Schedule
    tokens: PackedCorpus
    heldout: int
    """Validation sequences behind the curve."""
    teacher: Checkpoint
    """Teaches where the settings distill; gives a named architecture all that is no size."""
    cache: TeacherCache | None = None
    sweep: SweepText | None = None
    """What short runs are made on where the settings choose the learning rate by them; of all seeds."""
    compute: Compute
    continued_by: str | None = field(default=None, metadata=NOT_DECIDING)
    """Arm that takes over this one's steps where the schedule allows it; its own without."""
    engine: Engine = field(metadata=NOT_DECIDING)
    on_failure: OnFailure = field(default="stop", metadata=NOT_DECIDING)
    """What a failed gate does."""

    @classmethod
    def of(
        cls,
        arm: str,
        start: Start,
        materials: tuple[Checkpoint, PackedCorpus],
        conditions: Conditions,
        settings: ArmSettings | None = None,
    ) -> Self:
        """Declare a run under the conditions of a study.

        Args:
            arm: its name; one of the conditions' arms where it has no settings of its own.
            start: what it begins with.
            materials: teacher and text.
            conditions: how arms are trained.
            settings: of the arm.

        Raises:
            ValueError: it has a launcher, and this machine no accelerator.
        """
        settings = settings or getattr(conditions.arms, arm)
        teacher, tokens = materials
        measurement = conditions.measurement
        require_devices(conditions.engine, measurement)
        schedule = settings.fitted(conditions.schedule)
        rate, choice = settings.rate(schedule), Windows.searched(tokens, "choice", measurement)
        return cls(
            arm=arm,
            start=start,
            settings=settings,
            schedule=schedule,
            tokens=tokens,
            heldout=measurement.heldout,
            teacher=teacher,
            sweep=SweepText(schedule=schedule.brief(rate.tokens), choice=choice)
            if isinstance(rate, RateSweep)
            else None,
            compute=choose_compute(*measurement.hardware),
            engine=conditions.engine,
            on_failure=conditions.protocol.failed_gate,
        )

    def seeded(self, seed: int) -> Self:
        """Return the run with another seed, of random weights and of the order of the text."""
        return replace(self, schedule=self.schedule.model_copy(update={"seed": seed}))

    def facts(self) -> dict[str, Any]:
        """Return what decides the result; a teacher that takes no part does not."""
        needed = self.settings.distillation or self.start.initialisation == "random"
        return super().facts() | {"teacher": self.teacher.fingerprint if needed else None}

    def run(self, work: Work) -> Trained:
        """Check the start, choose the learning rate, and check before a long run that the student learns; then train.

        A killed run continues from its newest undamaged checkpoint, a finished one only reports its curve.

        Raises:
            ValueError: a gate has failed and none may.
        """
        branch = work.workspace.claim("steady", self._steady()) if self._branches else None
        begun = self._start_gates(work)
        require_passed(begun, self.on_failure)
        rate, swept = self._rate(work)
        job = self.job(work.folder / "run", rate, branch)
        learned = self._learning_gates(job, work)
        require_passed(learned, self.on_failure)
        ran = run_job(job, work.track, work.workspace.environment or {})
        curve = _curve_table(ran, read_curve(job.output_folder))
        record = self._record(ran, curve, [*begun, *learned]).model_copy(update={"sweep": swept})
        return Trained(Checkpoint.open(job.output_folder / MODEL), record, curve)

    def _start_gates(self, work: Work) -> list[Gate]:
        if self.start.initialisation != "checkpoint" or self.start.checkpoint is None:
            return []
        check = CheckStart.of(self.start.checkpoint, self.compute)
        return work.workspace.finish(check) if check else []

    def _learning_gates(self, job: TrainingJob, work: Work) -> list[Gate]:
        if not is_long(self.schedule):
            return []
        run_facts = json.dumps(self.facts(), sort_keys=True)
        return work.workspace.finish(OverfitBatch(run_facts=run_facts, student=self.start.architecture, job=job))

    def _rate(self, work: Work) -> tuple[float, SweptRates | None]:
        """Return the peak learning rate, and what short runs found where they choose it."""
        rate = self.settings.rate(self.schedule)
        if not isinstance(rate, RateSweep):
            return rate, None
        assert self.sweep is not None, "declared with what short runs are made on"
        alike = {name: fact for name, fact in self.facts().items() if name not in {"arm", "schedule", "heldout"}}
        from_weights = self.start.initialisation == "checkpoint"
        sweep = SweepRates(
            run_facts=json.dumps(alike, sort_keys=True),
            settings=rate,
            text=self.sweep,
            start=self.start.checkpoint if from_weights else None,
            student=self.start.architecture,
            compute=self.compute,
            job=self.job(work.folder / "run", rate.rates[0]),
        )
        swept = work.workspace.finish(sweep)
        return swept.best, swept

    def job(self, folder: Path, learning_rate: float, branch: Path | None = None) -> TrainingJob:
        """Return the run as a job.

        Args:
            folder: belongs to the run alone.
            learning_rate: its peak.
            branch: keeps the checkpoint with which a longer run starts.
        """
        return TrainingJob(
            arm=self.arm,
            model_folder=self.start.checkpoint.folder if self.start.checkpoint else None,
            architecture=self.start.named,
            initialisation=self.start.initialisation,
            teacher_folder=self.teacher.folder,
            corpus_folder=self.tokens.folder,
            output_folder=folder,
            branch_folder=branch,
            learning_rate=learning_rate,
            schedule=self.schedule,
            distillation=self.settings.distillation,
            cache_folder=self.cache.folder if self.cache else None,
            heldout_windows=self.heldout,
            device=self.compute.name,
            precision=self.compute.precision,
            engine=self.engine,
        )

    @property
    def _branches(self) -> bool:
        """Whether a longer run can take over the steps before the decay."""
        return self.schedule.shape == "warmup_stable_decay"

    def _steady(self) -> dict[str, Any]:
        """Return what decides the steps before the decay."""
        alike = {name: value for name, value in self.facts()["schedule"].items() if name not in _LENGTH}
        return self.facts() | {"arm": self.continued_by or self.arm, "schedule": alike}

    def _record(self, ran: Run, curve: pd.DataFrame, gates: list[Gate]) -> TrainingRecord:
        points = int(curve["heldout_losses"].notna().sum())
        heldout = heldout_cost(self.start.architecture, self.schedule, self.heldout, points)
        taught = self.settings.distillation is not None
        return TrainingRecord(
            **dict(ran),
            seed=self.schedule.seed,
            steady_steps=self.schedule.decay_start if self._branches else 0,
            heldout_flops=heldout.flops,
            heldout_tokens=heldout.tokens,
            gates=tuple(gates),
            made_with=MadeWith(
                schedule=identity(self.schedule),
                corpus=self.tokens.fingerprint,
                start=self.start.origin,
                teacher=self.teacher.fingerprint if taught else None,
                heldout=self.heldout,
                code=self.code(),
            ),
        )


def _curve_table(ran: Run, rows: list[CurveRow]) -> pd.DataFrame:
    """Return a run's losses by step, with the tokens and FLOPs spent until then.

    A teacher beside the student is paid for step by step, a cache before the first.
    """
    cached = ran.teacher_flops if ran.teacher_cached else 0.0
    flops = (ran.student_flops + ran.teacher_flops - cached) / ran.steps
    columns = ["step", "train_loss", "heldout_loss", "heldout_losses", "learning_rate"]
    table = pd.DataFrame(rows).reindex(columns=columns)
    # What a file gives back for no losses.
    heldout = table["heldout_losses"].astype(object).where(table["heldout_losses"].notna(), None)
    table = table.assign(heldout_losses=heldout)
    return table.assign(tokens=table["step"] * ran.tokens_per_step, flops=cached + table["step"] * flops)


class Cached(NamedTuple):
    """What the teacher has said, and what that cost."""

    cache: TeacherCache
    costs: list[Cost]


@dataclass(frozen=True, kw_only=True)
class CacheTeacher(Stage[Cached]):
    """Ask the teacher about all training sequences once, for every variant."""

    name: ClassVar[str] = "teacher_cache"

    teacher: Checkpoint
    tokens: PackedCorpus
    settings: DistillationSettings
    schedule: Schedule
    """Its sequences are asked about."""
    compute: Compute
    batch_size: int = field(metadata=NOT_DECIDING)

    @classmethod
    def of(cls, materials: Materials, settings: DistillationSettings, schedule: Schedule) -> Self:
        """Declare the cache of a schedule's sequences."""
        return cls(
            teacher=materials.teacher,
            tokens=materials.tokens,
            settings=settings,
            schedule=schedule,
            compute=materials.compute,
            batch_size=materials.measurement.batch_size,
        )

    def facts(self) -> dict[str, Any]:
        """Return what decides the entries: the order of training does not, nor what the loss does with them."""
        sequences = self.schedule.model_dump(include={"tokens", "sequence_length", "global_batch", "seed"})
        return super().facts() | {"schedule": sequences, "settings": self._entries().model_dump(mode="json")}

    def run(self, work: Work) -> Cached:
        """Ask; a killed run continues after its last whole batch."""

        @cache
        def live() -> LiveTeacher:
            # Not before it is needed: a finished cache asks nothing.
            return open_live_teacher(self.teacher.folder, self.settings, self.compute)

        said = write_cache(
            work.folder / "cache",
            lambda input_ids, starts: live().entries(input_ids, starts),
            self.tokens,
            training_order(self.tokens, self.schedule),
            self._entries(),
            self.batch_size,
        )
        asked = asked_architecture(self.teacher.folder, self.settings)
        cost = cache_cost(asked, self.schedule.sequence_length, said.record.tokens)
        return Cached(said, [cost.after(said.record.seconds)])

    def _entries(self) -> CacheFacts:
        return cache_facts(self.teacher.folder, self.tokens, self.schedule.sequence_length, self.settings)
