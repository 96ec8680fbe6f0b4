"""Plan a study from its parameters alone."""

import logging
import shutil
from dataclasses import replace
from pathlib import Path

import pandas as pd

from budwood.arch.bins import require_disjoint
from budwood.arch.count import forward_flops_per_token
from budwood.arch.spec import Architecture
from budwood.models.device import choose_compute, memory_bytes
from budwood.models.settings import TeacherSettings
from budwood.models.teacher import count_positions, count_token_ids, describe_teacher
from budwood.parameters import AblationTeacher, PlanSettings, ProjectParameters
from budwood.pipelines.ablations.comparison import Ablation, Comparison, ablations_of
from budwood.pipelines.wiring import project_root
from budwood.records.cost import Cost
from budwood.records.form import read_records
from budwood.records.names import Variant
from budwood.reporting.accelerator import ACCELERATORS, Accelerator, paces_of
from budwood.reporting.quote import markdown_plan
from budwood.study.ablation import PlannedAblation, plan_ablations
from budwood.study.forecast import Forecast, forecast
from budwood.study.limits import warnings_of
from budwood.study.plan import plan
from budwood.study.planned import PlannedStudy
from budwood.study.settings import MeasurementSettings
from budwood.study.space import check_reference
from budwood.subnet.probe import probe_machine
from budwood.training.teacher import with_tail

logger = logging.getLogger(__name__)

_GIGABYTE = 10**9


def plan_study(study: ProjectParameters, workspace: Path) -> tuple[pd.DataFrame, str]:
    """Return what every stage of the study will cost, and the page that reports it; print the page.

    Raises:
        ValueError: the teacher is not known, a bin cannot be reached, or two overlap; nothing has been spent yet.
    """
    parameters, settings = study, study.plan
    accelerator, speed = _accelerator(settings, parameters.measurement)
    described = describe_study(parameters, accelerator)
    planned = plan(described, accelerator, settings.mfu)
    free = settings.disk_gb * _GIGABYTE if settings.disk_gb else shutil.disk_usage(workspace).free
    warnings = warnings_of(described, planned, accelerator, settings.num_devices, free)
    compared = None
    if parameters.ablations is not None:
        ablations = [_planned(each, parameters, described) for each in ablations_of(parameters)]
        compared = plan_ablations(ablations, accelerator, settings.mfu)
    name = "this machine" if settings.accelerator == "here" else settings.accelerator
    page = markdown_plan(planned, (name, settings.num_devices), speed, warnings, compared)
    (logger.warning if warnings else logger.info)("The plan\n\n%s", page)
    return planned, page


def _accelerator(settings: PlanSettings, measurement: MeasurementSettings) -> tuple[Accelerator, str]:
    """Return what a study would run on, and how fast that is taken to be.

    Raises:
        ValueError: there is no ledger where one is named, or no device.
    """
    if settings.accelerator == "here":
        compute = choose_compute(*measurement.hardware)
        speed = probe_machine(compute)
        accelerator = Accelerator(
            flops_per_second=speed.passes,
            memory_bytes=memory_bytes(compute.device),
            precision=compute.precision,
            speed=speed,
        )
    else:
        accelerator = ACCELERATORS[settings.accelerator]
    if settings.ledger is None:
        peak = "the speed of its matrix products" if accelerator.speed else "its peak"
        return accelerator, f"at {settings.mfu:.0%} of {peak}"
    file = project_root() / settings.ledger
    spent = read_records(file) if file.is_file() else None
    if not (isinstance(spent, list) and spent and all(isinstance(cost, Cost) for cost in spent)):
        raise ValueError(f"plan.ledger={settings.ledger!r} must be the ledger.json of a run: {file} is none")
    return replace(accelerator, paces=paces_of(spent, settings.num_devices)), f"at the pace of {settings.ledger}"


def describe_study(parameters: ProjectParameters, accelerator: Accelerator) -> PlannedStudy:
    """Return a study as the plan counts it.

    Raises:
        ValueError: the teacher is not known or does not fit, a bin cannot be reached, two overlap, or the reference of
            one cannot be trained.
    """
    precision, root = parameters.measurement.precision, project_root()
    longest = max(parameters.schedule.sequence_length, parameters.measurement.longest)
    teacher = describe_teacher(parameters.teacher, root, longest)
    used = {name: parameters.bins[name] for name in parameters.grid}
    num_token_ids = count_token_ids(parameters.teacher, root) if any(bin_.reference for bin_ in used.values()) else None
    for name, bin_ in used.items():
        check_reference(name, bin_, teacher.family, num_token_ids and min(num_token_ids, teacher.vocab_size))
    require_disjoint({name: bin_.parameter_bin(teacher) for name, bin_ in used.items()})
    return PlannedStudy(
        teacher=teacher,
        teacher_bytes_per_parameter=parameters.teacher.bytes_per_parameter,
        forecasts=tuple(
            forecast(teacher, variant, parameters.bins[variant.bin], parameters.spaces[variant.space])
            for variant in parameters.searched
        ),
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


def _planned(ablation: Ablation, parameters: ProjectParameters, study: PlannedStudy) -> PlannedAblation:
    """Return what an ablation searches and trains."""
    ablations = parameters.ablations
    assert ablations is not None, "only called where something is compared"
    forecasts = {variant: _forecast(variant, parameters, study) for variant in ablation.searched}
    searches = [(study, each) for each in forecasts.values()]
    student = forecasts.get(ablations.student(ablation.bin))
    if ablation.name == "metric":
        student = _forecast(ablations.metric_variant(ablation.bin), parameters, study)
        searches = [(replace(study, search=search), student) for search in parameters.searches.values()]
    trained = [student] * len(ablation.comparisons) if ablation.name != "spaces" else list(forecasts.values())
    runs = [
        (each, _teacher_flops(comparison, parameters, study))
        for comparison, each in zip(ablation.comparisons, trained, strict=True)
        if each is not None
    ]
    return PlannedAblation(
        name=ablation.name,
        bin=ablation.bin,
        tokens=ablations.tokens,
        searches=tuple(searches),
        runs=tuple(runs),
    )


def _forecast(variant: Variant, parameters: ProjectParameters, study: PlannedStudy) -> Forecast:
    return forecast(study.teacher, variant, parameters.bins[variant.bin], parameters.spaces[variant.space])


def _teacher_flops(comparison: Comparison, parameters: ProjectParameters, study: PlannedStudy) -> float:
    """Return the FLOPs of a forward pass of the teacher of a comparison, per token; 0 without one."""
    if comparison.arm.distillation is None:
        return 0.0
    context = study.schedule.sequence_length
    teachers = parameters.ablations.teachers if parameters.ablations else {}
    teacher = teachers.get(comparison.name, AblationTeacher()) if comparison.teacher != "teacher" else AblationTeacher()
    if teacher.subnet is not None:
        return _forecast(teacher.subnet.variant, parameters, study).forward(context)
    if teacher.source is None:
        own = with_tail(study.teacher, comparison.arm.distillation, study.num_dropped_ids)
    else:
        own = describe_teacher(teacher.source, project_root(), context)
    return float(forward_flops_per_token(own, context=context))
