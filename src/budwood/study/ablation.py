"""Ablations: variants that differ in one thing, trained under equal conditions."""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import pandas as pd

from budwood.arch.count import forward_flops_per_token, num_parameters
from budwood.models.teacher import describe_teacher
from budwood.records.cost import Cost
from budwood.records.names import Variant
from budwood.reporting.ablations import Outcome
from budwood.reporting.accelerator import Accelerator
from budwood.study.comparison import Ablation, Comparison
from budwood.study.costs import training_costs
from budwood.study.evaluation import ScoreRun
from budwood.study.forecast import Forecast
from budwood.study.plan import gathering_costs, search_costs
from budwood.study.planned import PlannedStudy
from budwood.study.settings import Conditions
from budwood.study.stage import Workspace
from budwood.study.training import TrainArm
from budwood.training.teacher import with_tail

logger = logging.getLogger(__name__)


def train_compared(comparison: Comparison, stage: TrainArm, conditions: Conditions, workspace: Workspace) -> Outcome:
    """Train one of the things that are compared, all on the same sequences, and measure it on the validation sequences.

    A training that diverges is reported as such.
    """
    count = num_parameters(stage.start.architecture)
    outcome = Outcome(variant=comparison.name, settings=comparison.settings, num_parameters=count)
    try:
        trained = workspace.finish(stage)
    except FloatingPointError as error:
        logger.warning("Ablation %s: %s", comparison.name, error)
        return replace(outcome, status="its training diverged")
    score = ScoreRun.of(stage.arm, (trained.model, trained.record), stage.tokens, conditions.measurement)
    record, losses = trained.record, workspace.finish(score).score.losses
    return replace(
        outcome,
        tokens=record.tokens,
        student_flops=record.student_flops,
        teacher_flops=record.teacher_flops,
        losses=[loss for source in sorted(losses) for loss in losses[source]],
        curve=trained.curve,
    )


def plan_ablations(
    ablations: Sequence[tuple[Ablation, Sequence[Cost]]], accelerator: Accelerator, mfu: float
) -> pd.DataFrame:
    """Return what every ablation will cost by itself, beside the text and what is measured of the teacher.

    Args:
        ablations: in the order of the rows, with their costs.
        accelerator: runs them.
        mfu: share of the accelerator's peak that is reached, in stages of which it has no pace.

    Returns:
        Columns `ablation`, `bin`; `searches` and `runs`, their numbers; `search_flops` with corrections,
        `training_flops`, `teacher_flops`, and `device_hours` of all.
    """
    rows = []
    for ablation, costs in ablations:
        counts = {"searches": len(ablation.searches), "runs": len(ablation.comparisons)}
        flops = {"search": 0.0, "training": 0.0, "teacher": 0.0}
        for cost in costs:
            flops["search" if cost.stage == "compensation" else cost.stage] += cost.flops
        of_stages = {f"{stage}_flops": spent for stage, spent in flops.items()}
        hours = sum(accelerator.hours(stage, spent, mfu) for stage, spent in flops.items())
        rows.append({"ablation": ablation.name, "bin": ablation.bin, **counts, **of_stages, "device_hours": hours})
    return pd.DataFrame(rows)


def ablation_costs(
    ablation: Ablation, tokens: int, study: PlannedStudy, forecasts: Mapping[Variant, Forecast], root: Path
) -> list[Cost]:
    """Return what the searches and trainings of an ablation will cost.

    Args:
        ablation: what is compared.
        tokens: of each training.
        study: how everything is searched and trained.
        forecasts: of every bin and space that is searched.
        root: where relative paths of further teachers begin.
    """
    costs, wanted, schedule = [], [], study.within(ablation.bin).schedule.of_length(tokens)
    for search in ablation.searches:
        guided = study.search.guided_by(search.metric) if search.metric else study.search
        costs += search_costs(replace(study, search=guided), forecasts[search.searched])
        wanted += [forecasts[search.searched].moments] if guided.compares_corrected else []
    costs += (cost for cost, _ in gathering_costs(study, wanted))
    for each in ablation.comparisons:
        forward = forecasts[each.start.searched].forward(schedule.sequence_length)
        costs += training_costs(forward, _teacher_flops(each, study, forecasts, root), schedule)
    return costs


def _teacher_flops(
    comparison: Comparison, study: PlannedStudy, forecasts: Mapping[Variant, Forecast], root: Path
) -> float:
    """Return the FLOPs of a forward pass of the teacher of a comparison, per token; 0 without one."""
    teacher, settings, context = comparison.teacher, comparison.arm.distillation, study.schedule.sequence_length
    if settings is None:
        return 0.0
    if teacher.subnet is not None:
        return forecasts[teacher.subnet.variant].forward(context)
    described = (
        with_tail(study.teacher, settings, study.num_dropped_ids)
        if teacher.source is None
        else describe_teacher(teacher.source, root, {"schedule.sequence_length": context})
    )
    return float(forward_flops_per_token(described, context=context))
