"""Training arms as nodes: pretraining and distillation differ in what an arm begins with and in its parameters."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd

from budwood.arch.count import forward_flops_per_token
from budwood.corpus.packing import PackedCorpus
from budwood.parameters import ArmParameters, MeasurementParameters
from budwood.pipelines.tracking import active_run_environment, track
from budwood.pipelines.work import claim
from budwood.subnet.checkpoint import read_architecture
from budwood.subnet.teacher import fingerprint
from budwood.training.cache import TeacherCache
from budwood.training.curve import read_curve
from budwood.training.job import Engine, Initialisation, Schedule, TrainingJob
from budwood.training.launch import run_job
from budwood.training.run import MODEL

ArmOutputs = tuple[Path, dict[str, Any], pd.DataFrame]
"""The trained checkpoint, the run's record, and its curve."""

_HOW = {"preset", "micro_batch", "checkpoint_steps"}
"""Fields of a schedule that decide how a run proceeds, not what it learns."""
_LENGTH = {"tokens", "decay_ratio", "num_evaluations"}
"""Fields in which runs may differ that share all steps before their decay."""


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
    ) -> ArmOutputs:
        facts = {
            "initialisation": initialisation,
            "subnet": fingerprint(subnet),
            "teacher": fingerprint(teacher) if arm.distillation else None,
            "teacher_cache": teacher_cache.fingerprint if teacher_cache else None,
            "tokens": tokens.fingerprint,
            "arm": arm,
            "schedule": schedule.model_dump(exclude=_HOW),
            "heldout": measurement.heldout,
            "precision": measurement.compute().precision,
        }
        steady = facts | {"schedule": schedule.model_dump(exclude=_HOW | _LENGTH)}
        branches = schedule.shape == "warmup_stable_decay"
        learning_rate = arm.learning_rate or schedule.peak_learning_rate
        assert learning_rate is not None  # the parameters were validated together
        job = TrainingJob(
            arm=name,
            model_folder=subnet,
            initialisation=initialisation,
            teacher_folder=teacher,
            corpus_folder=tokens.directory,
            output_folder=claim(workspace, name, facts),
            branch_folder=claim(workspace, f"{name}-steady", steady) if branches else None,
            learning_rate=learning_rate,
            schedule=schedule,
            distillation=arm.distillation,
            cache_folder=teacher_cache.folder if teacher_cache else None,
            heldout_windows=measurement.heldout,
            device=measurement.device,
            precision=measurement.precision,
            engine=engine,
        )
        record = run_job(job, track, active_run_environment())
        curve = curve_table(record, read_curve(job.output_folder))
        return job.output_folder / MODEL, record | heldout_cost(job, curve), curve

    node.__name__ = f"train_{name}"
    node.__doc__ = description
    return node


def curve_table(record: dict[str, Any], rows: list[dict[str, Any]]) -> pd.DataFrame:
    """Return a run's losses by step, with the tokens and FLOPs spent until then."""
    flops = (record["student_flops"] + record["teacher_flops"]) / record["steps"]
    columns = ["step", "train_loss", "heldout_loss", "heldout_losses", "learning_rate"]
    table = pd.DataFrame(rows).reindex(columns=columns)
    return table.assign(tokens=table["step"] * record["tokens_per_step"], flops=table["step"] * flops)


def heldout_cost(job: TrainingJob, curve: pd.DataFrame) -> dict[str, Any]:
    """Return what the held-out losses on the way cost: every sequence is read at each of their points."""
    length = job.schedule.sequence_length
    # Losses by sequence stand there even where their mean is no number.
    assert job.model_folder is not None, "arms start from exports"
    tokens = int(curve["heldout_losses"].notna().sum()) * job.heldout_windows * length
    flops = tokens * forward_flops_per_token(read_architecture(job.model_folder), context=length)
    return {"heldout_tokens": tokens, "heldout_flops": float(flops)}
