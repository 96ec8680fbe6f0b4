"""Ablations: variants that differ in one thing, trained under equal conditions."""

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import pandas as pd

from budwood.arch.count import num_parameters
from budwood.corpus.packing import PackedCorpus
from budwood.models.checkpoint import Checkpoint
from budwood.reporting.ablations import TRAINED, Ran, Trained
from budwood.study.evaluation import ScoreRun
from budwood.study.settings import Conditions
from budwood.study.stage import Workspace
from budwood.study.training import Start, TrainArm
from budwood.training.settings import ArmSettings

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class Compared:
    """One thing that is compared."""

    name: str
    subnet: Checkpoint
    """The sub-network that training begins with."""
    teacher: Checkpoint
    arm: ArmSettings
    settings: Mapping[str, Any]
    """What was changed, for the table."""


def train_compared(
    run: str, compared: Compared, tokens: PackedCorpus, conditions: Conditions, workspace: Workspace
) -> Ran:
    """Train one of the things that are compared, all on the same sequences, and measure it on the validation sequences.

    A training that diverges is reported as such.

    Args:
        run: names the training.
        compared: what is trained.
        tokens: the text.
        conditions: how everything is trained.
        workspace: keeps the training.
    """
    start = Start(initialisation="checkpoint", checkpoint=compared.subnet)
    stage = TrainArm.with_settings(run, start, (compared.teacher, tokens), compared.arm, conditions)
    row: Trained = {
        "variant": compared.name,
        "settings": dict(compared.settings),
        "status": TRAINED,
        "num_parameters": num_parameters(start.architecture),
        "tokens": 0,
        "student_flops": 0.0,
        "teacher_flops": 0.0,
        "losses": [],
    }
    try:
        trained = workspace.finish(stage)
    except FloatingPointError as error:
        logger.warning("Ablation %s: %s", compared.name, error)
        return Ran(row | {"status": "its training diverged"}, pd.DataFrame())
    scored = workspace.finish(
        ScoreRun(
            run_name=run,
            model=trained.model,
            record=trained.record,
            tokens=tokens,
            length=conditions.measurement.final_length,
            validation=conditions.measurement.validation,
            compute=stage.compute,
        )
    )
    losses = [loss for source in sorted(scored.score.losses) for loss in scored.score.losses[source]]
    record = trained.record
    spent: Trained = row | {"tokens": record.tokens, "student_flops": record.student_flops}
    return Ran(spent | {"teacher_flops": record.teacher_flops, "losses": losses}, trained.curve)
