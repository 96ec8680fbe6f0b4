"""Training as nodes: arms and probes differ in what they begin with, and in how long they run."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import wraps
from pathlib import Path
from typing import Any

import pandas as pd

from budwood.arch.count import forward_flops_per_token
from budwood.arch.spec import Architecture
from budwood.corpus.packing import PackedCorpus
from budwood.models.checkpoint import read_architecture
from budwood.models.teacher import fingerprint
from budwood.parameters import ArmParameters, MeasurementParameters
from budwood.pipelines.tracking import active_run_environment, track
from budwood.pipelines.work import claim
from budwood.training.cache import TeacherCache
from budwood.training.curve import read_curve
from budwood.training.job import Initialisation, TrainingJob
from budwood.training.launch import run_job
from budwood.training.run import MODEL
from budwood.training.settings import Engine, Schedule

ArmOutputs = tuple[Path, dict[str, Any], pd.DataFrame]
"""The trained checkpoint, the run's record, and its curve."""

_HOW = {"preset", "micro_batch", "checkpoint_steps"}
"""Fields of a schedule that decide how a run proceeds, not what it learns."""
_LENGTH = {"tokens", "decay_ratio", "num_evaluations"}
"""Fields in which runs may differ that share all steps before their decay."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Start:
    """What a run begins with: a checkpoint, or random weights of a checkpoint's or a named architecture."""

    initialisation: Initialisation
    folder: Path | None = None
    named: Architecture | None = None

    @property
    def architecture(self) -> Architecture:
        """What is trained."""
        assert self.folder is not None or self.named is not None
        return self.named or read_architecture(Path(str(self.folder)))

    def facts(self) -> dict[str, Any]:
        """Return what tells one start from another."""
        if self.named is not None:
            return {"initialisation": self.initialisation, "architecture": self.named.to_dict()}
        return {"initialisation": self.initialisation, "subnet": fingerprint(Path(str(self.folder)))}


@dataclass(frozen=True, slots=True, kw_only=True)
class Training:
    """What all runs of a study share."""

    teacher: Path
    tokens: PackedCorpus
    schedule: Schedule
    measurement: MeasurementParameters
    engine: Engine
    workspace: Path
    teacher_cache: TeacherCache | None = None

    def run_seed(self, name: str, start: Start, arm: ArmParameters, place: int) -> ArmOutputs:
        """Train an arm with the seed in a place of the study's: `schedule.seed`, and those after it.

        Args:
            name: of the arm; the runs after the first add their seed to it.
            start: what it begins with.
            arm: how it learns.
            place: of the seed.
        """
        seed = self.schedule.seed + place
        own = replace(self, schedule=self.schedule.model_copy(update={"seed": seed}))
        model, record, curve = own.run(f"{name}_seed_{seed}" if place else name, start, arm)
        return model, record | {"arm": name}, curve

    def run(self, name: str, start: Start, arm: ArmParameters, *, continued_by: str = "") -> ArmOutputs:
        """Train, or take up what an earlier run with the same facts has left.

        Args:
            name: of the run; its metrics carry it.
            start: what it begins with.
            arm: how it learns.
            continued_by: name of the run that takes this one's steps over where the schedule lets it; its own without.
        """
        schedule, cache = self.schedule, self.teacher_cache
        facts = start.facts() | {
            # Of a named architecture the teacher gives all that is no size.
            "teacher": fingerprint(self.teacher) if arm.distillation or start.named else None,
            "teacher_cache": cache.fingerprint if cache else None,
            "tokens": self.tokens.fingerprint,
            "arm": arm,
            "schedule": schedule.model_dump(exclude=_HOW),
            "heldout": self.measurement.heldout,
            "precision": self.measurement.compute().precision,
        }
        steady = facts | {"schedule": schedule.model_dump(exclude=_HOW | _LENGTH)}
        branches = schedule.shape == "warmup_stable_decay"
        learning_rate = arm.learning_rate or schedule.peak_learning_rate
        assert learning_rate is not None  # the parameters were validated together
        job = TrainingJob(
            arm=name,
            model_folder=start.folder,
            architecture=start.named.to_dict() if start.named else None,
            initialisation=start.initialisation,
            teacher_folder=self.teacher,
            corpus_folder=self.tokens.directory,
            output_folder=claim(self.workspace, name, facts),
            branch_folder=claim(self.workspace, f"{continued_by or name}-steady", steady) if branches else None,
            learning_rate=learning_rate,
            schedule=schedule,
            distillation=arm.distillation,
            cache_folder=cache.folder if cache else None,
            heldout_windows=self.measurement.heldout,
            device=self.measurement.device,
            precision=self.measurement.precision,
            engine=self.engine,
        )
        record = run_job(job, track, active_run_environment())
        curve = curve_table(record, read_curve(job.output_folder))
        record |= {"steady_steps": schedule.decay_start if branches else 0, "seed": schedule.seed}
        return job.output_folder / MODEL, record | heldout_cost(job, start.architecture, curve), curve


def of_seed(function: Callable[..., ArmOutputs], place: int) -> Callable[..., ArmOutputs]:
    """Return a training node for the seed in a place of the study's; the first is the schedule's own."""

    @wraps(function)
    def node(*inputs: Any) -> ArmOutputs:
        return function(*inputs, place=place)

    return node


def arm_node(name: str, initialisation: Initialisation, description: str) -> Callable[..., ArmOutputs]:
    """Return the node that trains one arm, or takes up what an earlier run of the same arm left."""

    def node(  # noqa: PLR0913, PLR0917 - a node's arguments are its edges in the graph
        subnet: Path,
        teacher: Path,
        tokens: PackedCorpus,
        arm: ArmParameters,
        schedule: Schedule,
        measurement: MeasurementParameters,
        engine: Engine,
        workspace: Path,
        teacher_cache: TeacherCache | None = None,
        *,
        place: int = 0,
    ) -> ArmOutputs:
        training = Training(
            teacher=teacher,
            tokens=tokens,
            schedule=schedule,
            measurement=measurement,
            engine=engine,
            workspace=workspace,
            teacher_cache=teacher_cache,
        )
        return training.run_seed(name, Start(initialisation=initialisation, folder=subnet), arm, place)

    node.__name__ = f"train_{name}"
    node.__doc__ = description
    return node


def curve_table(record: dict[str, Any], rows: list[dict[str, Any]]) -> pd.DataFrame:
    """Return a run's losses by step, with the tokens and FLOPs spent until then."""
    flops = (record["student_flops"] + record["teacher_flops"]) / record["steps"]
    columns = ["step", "train_loss", "heldout_loss", "heldout_losses", "learning_rate"]
    table = pd.DataFrame(rows).reindex(columns=columns)
    return table.assign(tokens=table["step"] * record["tokens_per_step"], flops=table["step"] * flops)


def heldout_cost(job: TrainingJob, architecture: Architecture, curve: pd.DataFrame) -> dict[str, Any]:
    """Return what the held-out losses on the way cost: every sequence is read at each of their points."""
    length = job.schedule.sequence_length
    # Losses by sequence stand there even where their mean is no number.
    tokens = int(curve["heldout_losses"].notna().sum()) * job.heldout_windows * length
    flops = tokens * forward_flops_per_token(architecture, context=length)
    return {"heldout_tokens": tokens, "heldout_flops": float(flops)}
