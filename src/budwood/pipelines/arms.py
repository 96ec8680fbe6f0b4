"""One training arm as a node: used by pretraining and distillation."""

from pathlib import Path
from typing import Any

import pandas as pd

from budwood.corpus.packing import PackedCorpus
from budwood.parameters import ArmParameters, MeasurementParameters
from budwood.pipelines.tracking import track
from budwood.pipelines.work import claim
from budwood.subnet.teacher import fingerprint
from budwood.training.job import Initialisation, Schedule, TrainingJob
from budwood.training.run import MODEL, read_curve, train

ArmOutputs = tuple[Path, dict[str, Any], pd.DataFrame]
"""The trained checkpoint, the run's record, and its curve."""


def train_arm(
    arm: tuple[str, Initialisation, ArmParameters],
    folders: tuple[Path, Path],
    tokens: PackedCorpus,
    schedule: Schedule,
    measurement: MeasurementParameters,
    workspace: Path,
) -> ArmOutputs:
    """Train an arm, or take up what an interrupted or finished run of the same arm left.

    Args:
        arm: its name, how it begins, its parameters.
        folders: the exported sub-network and the teacher.
        tokens: the packed text.
        schedule: shared by all arms.
        measurement: held-out sequences, device and precision.
        workspace: where unfinished and finished runs are found again.
    """
    (name, initialisation, parameters), (subnet, teacher) = arm, folders
    compute = measurement.compute()
    facts = {
        "initialisation": initialisation,
        "subnet": fingerprint(subnet),
        "teacher": fingerprint(teacher) if parameters.distillation else None,
        "tokens": tokens.fingerprint,
        "arm": parameters,
        "schedule": schedule,
        "heldout": measurement.heldout,
        "precision": compute.precision,
    }
    job = TrainingJob(
        arm=name,
        model_folder=subnet,
        initialisation=initialisation,
        teacher_folder=teacher,
        corpus_folder=tokens.directory,
        output_folder=claim(workspace, name, facts),
        learning_rate=parameters.learning_rate,
        schedule=schedule,
        distillation=parameters.distillation,
        heldout_windows=measurement.heldout,
        device=measurement.device,
        precision=measurement.precision,
    )
    record = train(job, track)
    return job.output_folder / MODEL, record, curve_table(record, read_curve(job.output_folder))


def curve_table(record: dict[str, Any], rows: list[dict[str, float]]) -> pd.DataFrame:
    """Return a run's losses by step, with the tokens and FLOPs spent until then."""
    flops = (record["student_flops"] + record["teacher_flops"]) / record["steps"]
    table = pd.DataFrame(rows).reindex(columns=["step", "train_loss", "heldout_loss", "learning_rate"])
    return table.assign(tokens=table["step"] * record["tokens_per_step"], flops=table["step"] * flops)
