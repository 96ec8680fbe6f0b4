"""Ablations: variants that differ in one thing, trained under equal conditions."""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import pandas as pd

from budwood.arch.count import num_parameters
from budwood.reporting.ablations import Outcome, Setting
from budwood.reporting.accelerator import Accelerator
from budwood.reporting.quote import ABLATION_COLUMNS
from budwood.study.costs import training_costs
from budwood.study.evaluation import ScoreRun
from budwood.study.forecast import Forecast
from budwood.study.plan import search_costs
from budwood.study.planned import PlannedStudy
from budwood.study.settings import Conditions
from budwood.study.stage import Workspace
from budwood.study.training import TrainArm

logger = logging.getLogger(__name__)


def train_compared(
    variant: str, settings: Mapping[str, Setting], stage: TrainArm, conditions: Conditions, workspace: Workspace
) -> Outcome:
    """Train one of the things that are compared, all on the same sequences, and measure it on the validation sequences.

    A training that diverges is reported as such.
    """
    outcome = Outcome(variant=variant, settings=settings, num_parameters=num_parameters(stage.start.architecture))
    try:
        trained = workspace.finish(stage)
    except FloatingPointError as error:
        logger.warning("Ablation %s: %s", variant, error)
        return replace(outcome, status="its training diverged")
    score = ScoreRun.of(stage.arm, (trained.model, trained.record), stage.tokens, conditions.measurement)
    scored = workspace.finish(score)
    record, losses = trained.record, scored.score.losses
    return replace(
        outcome,
        tokens=record.tokens,
        student_flops=record.student_flops,
        teacher_flops=record.teacher_flops,
        losses=[loss for source in sorted(losses) for loss in losses[source]],
        curve=trained.curve,
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class PlannedAblation:
    """Searches, and trainings of what they find, that are run by the name of their pipeline alone."""

    name: str
    bin: str
    tokens: int
    """Of each training."""
    searches: tuple[tuple[PlannedStudy, Forecast], ...]
    """How each is searched, and what."""
    runs: tuple[tuple[Forecast, float], ...]
    """What is trained, and the FLOPs of its teacher's forward pass, per token; 0 without a teacher."""


def plan_ablations(ablations: Sequence[PlannedAblation], accelerator: Accelerator, mfu: float) -> pd.DataFrame:
    """Return what every ablation will cost by itself, beside the text and what is measured of the teacher.

    Args:
        ablations: in the order of the rows.
        accelerator: runs them.
        mfu: share of the accelerator's peak that is reached, in stages of which it has no pace.

    Returns:
        `ABLATION_COLUMNS`: `ablation`, `bin`; `searches` and `runs`, their numbers; `search_flops` with corrections,
        `training_flops`, `teacher_flops`, and `device_hours` of all.
    """
    rows = []
    for ablation in ablations:
        searches = [cost for study, each in ablation.searches for cost in search_costs(study, each)]
        runs = []
        for each, teacher in ablation.runs:
            (study, _) = ablation.searches[0]
            schedule = study.within(each.variant.bin).schedule.of_length(ablation.tokens)
            runs += training_costs(each.forward(schedule.sequence_length), teacher, schedule)
        flops = {
            "search_flops": sum(cost.flops for cost in searches),
            "training_flops": sum(cost.flops for cost in runs if cost.stage == "training"),
            "teacher_flops": sum(cost.flops for cost in runs if cost.stage == "teacher"),
        }
        stages = zip(("search", "training", "teacher"), flops.values(), strict=True)
        hours = {"device_hours": sum(accelerator.hours(*cost, mfu) for cost in stages)}
        counts = {"searches": len(ablation.searches), "runs": len(ablation.runs)}
        rows.append({"ablation": ablation.name, "bin": ablation.bin, **counts, **flops, **hours})
    return pd.DataFrame(rows, columns=ABLATION_COLUMNS)
