"""Plan a study from its parameters alone."""

import logging
import shutil
from collections.abc import Iterable
from pathlib import Path

import pandas as pd

from budwood.arch.spec import Architecture
from budwood.evaluation.tasks import check_names
from budwood.models.settings import TeacherSettings
from budwood.models.teacher import count_positions, count_token_ids, describe_teacher
from budwood.parameters import ProjectParameters
from budwood.pipelines.wiring import project_root
from budwood.records.cost import Cost
from budwood.records.names import Variant
from budwood.reporting.accelerator import Accelerator
from budwood.reporting.quote import markdown_plan
from budwood.study.ablation import ablation_costs, plan_ablations
from budwood.study.comparison import Ablation
from budwood.study.forecast import Forecast, forecast
from budwood.study.limits import warnings_of
from budwood.study.machine import planned_machine
from budwood.study.plan import plan
from budwood.study.planned import PlannedStudy
from budwood.study.space import check_bins

logger = logging.getLogger(__name__)

_GIGABYTE = 10**9


def plan_study(study: ProjectParameters, workspace: Path) -> tuple[pd.DataFrame, str]:
    """Return what every stage of the study will cost, and the page that reports it; print the page.

    Raises:
        ValueError: the teacher or a task is not known, a bin cannot be reached, or two overlap; nothing has been spent
            yet.
    """
    check_names(study.evaluation)
    settings = study.plan
    accelerator, speed = planned_machine(settings, study.measurement, project_root())
    described = describe_study(study, accelerator)
    planned = plan(described, accelerator, settings.mfu)
    free = settings.disk_gb * _GIGABYTE if settings.disk_gb else shutil.disk_usage(workspace).free
    warnings = warnings_of(described, planned, accelerator, settings.num_devices, free)
    ablations = _ablations(study, described)
    compared = plan_ablations(ablations, accelerator, settings.mfu) if ablations else None
    name = "this machine" if settings.accelerator == "here" else settings.accelerator
    page = markdown_plan(planned, (name, settings.num_devices), speed, warnings, compared)
    (logger.warning if warnings else logger.info)("The plan\n\n%s", page)
    return planned, page


def describe_study(parameters: ProjectParameters, accelerator: Accelerator) -> PlannedStudy:
    """Return a study as the plan counts it.

    Raises:
        ValueError: the teacher is not known or does not fit, a bin cannot be reached, two overlap, or the reference of
            one cannot be trained.
    """
    precision, root = parameters.measurement.precision, project_root()
    teacher = describe_teacher(parameters.teacher, root, parameters.conditions.lengths)
    used = {name: parameters.bins[name] for name in parameters.grid}
    num_token_ids = count_token_ids(parameters.teacher, root) if any(bin_.reference for bin_ in used.values()) else None
    check_bins(used, teacher, num_token_ids and min(num_token_ids, teacher.vocab_size))
    return PlannedStudy(
        teacher=teacher,
        teacher_bytes_per_parameter=parameters.teacher.bytes_per_parameter,
        forecasts=tuple(_forecasts(parameters, teacher, parameters.searched).values()),
        search=parameters.search,
        conditions=parameters.conditions,
        bins=parameters.conditions_by_bin,
        evaluation=parameters.evaluation,
        num_sources={split: parameters.corpus.num_sources(split) for split in parameters.measurement.reported},
        precision=accelerator.precision if precision == "auto" else precision,
        needs_statistics=parameters.needs_statistics,
        needs_elimination=parameters.needs_elimination,
        num_orderings=len(parameters.orderings),
        num_dropped_ids=_num_dropped_ids(parameters.teacher, teacher),
        positions=count_positions(parameters.teacher, root),
        chats=parameters.teacher.random is None,
    )


def _num_dropped_ids(settings: TeacherSettings, cut: Architecture) -> int:
    if settings.vocabulary is None:
        return 0
    return describe_teacher(settings.changed({"vocabulary": None}), project_root()).vocab_size - cut.vocab_size


def _ablations(parameters: ProjectParameters, study: PlannedStudy) -> list[tuple[Ablation, list[Cost]]]:
    if (settings := parameters.ablations) is None:
        return []
    forecasts, root = _forecasts(parameters, study.teacher, settings.places()), project_root()
    return [(each, ablation_costs(each, settings.tokens, study, forecasts, root)) for each in parameters.compared]


def _forecasts(
    parameters: ProjectParameters, teacher: Architecture, variants: Iterable[Variant]
) -> dict[Variant, Forecast]:
    return {
        variant: forecast(teacher, variant, parameters.bins[variant.bin], parameters.spaces[variant.space])
        for variant in dict.fromkeys(variants)
    }
