"""Plan a study from its parameters alone."""

import logging
import shutil
from collections.abc import Iterable
from functools import cache
from pathlib import Path
from typing import Any

import pandas as pd

from budwood.arch.bins import require_disjoint
from budwood.arch.count import num_parameters
from budwood.arch.spec import Architecture
from budwood.models.teacher import describe_teacher
from budwood.parameters import (
    AblationParameters,
    Arms,
    BinParameters,
    Bins,
    CorpusParameters,
    EvaluationParameters,
    Grid,
    MeasurementParameters,
    PlanParameters,
    ProtocolParameters,
    SpaceParameters,
    Spaces,
    TeacherParameters,
)
from budwood.pipelines.plan.ablations import planned_ablations
from budwood.reporting.accelerator import ACCELERATORS
from budwood.reporting.plan import plan, plan_ablations, warnings_of
from budwood.reporting.quote import markdown_plan
from budwood.reporting.records import ARMS
from budwood.reporting.study import Reading, Study, Variant, draw_members, in_small
from budwood.search.fitness import FROM_SCORES
from budwood.search.settings import SearchSettings
from budwood.subnet.fitness import fitness_flops_per_token
from budwood.training.cache import bytes_of_sequence
from budwood.training.settings import DistillationSettings, Schedule
from budwood.training.teacher import cache_shape

logger = logging.getLogger(__name__)

_GIGABYTE = 10**9


def plan_study(
    teacher: TeacherParameters,
    bins: dict[str, Any],
    spaces: dict[str, Any],
    grid: Grid,
    corpus: CorpusParameters,
    measurement: MeasurementParameters,
    search: SearchSettings,
    protocol: ProtocolParameters,
    schedule: Schedule,
    arms: dict[str, Any],
    plan_: PlanParameters,
    evaluation: EvaluationParameters,
    ablations: AblationParameters | None,
    workspace: Path,
) -> tuple[pd.DataFrame, str]:
    """Return what every stage of the study will cost, and the page that tells it; print the page.

    Kedro types one bin, space or arm at a time; the dictionaries of all of them are typed here.

    Raises:
        ValueError: the teacher is not known, a bin cannot be reached, or two overlap; nothing has been spent yet.
    """
    accelerator, architecture = ACCELERATORS[plan_.accelerator], describe_teacher(teacher)
    all_bins, all_spaces = Bins.model_validate(bins), Spaces.model_validate(spaces)
    require_disjoint({name: all_bins.root[name].parameter_bin(num_parameters(architecture)) for name in grid.root})
    distilled = {name: arm.distillation for name, arm in Arms.model_validate(arms) if name in ARMS}

    @cache
    def find(bin_name: str, space: str) -> Variant:
        return _variant(architecture, (bin_name, all_bins.root[bin_name]), (space, all_spaces.root[space]))

    def study_by(way: SearchSettings) -> Study:
        return Study(
            teacher=architecture,
            teacher_bytes_per_parameter=teacher.bytes_per_parameter,
            variants=tuple(find(*names) for names in grid.variants()),
            num_evaluations=way.num_evaluations,
            num_finalists=way.num_finalists,
            finalist_tokens=way.finalist_tokens,
            reading=_reading(corpus, measurement, way, evaluation),
            schedule=schedule,
            arms={name: settings is not None and settings.teacher == "live" for name, settings in distilled.items()},
            cached_sequence_bytes=_cached_bytes(distilled.values(), schedule, architecture),
            num_seeds=protocol.num_seeds,
            probe_schedule=protocol.probe_schedule(schedule),
            precision=accelerator.precision if measurement.precision == "auto" else measurement.precision,
            fitness_flops_per_token=fitness_flops_per_token(way.fitness, architecture),
        )

    study = study_by(search)
    planned = plan(study, accelerator, plan_.mfu)
    warnings = warnings_of(study, planned, accelerator, plan_.num_devices, _free_bytes(plan_, workspace))
    compared = None
    if ablations:
        changed = planned_ablations(ablations, study, find, lambda metric: study_by(search.guided_by(metric)))
        compared = plan_ablations(changed, accelerator, plan_.mfu)
    page = markdown_plan(planned, (plan_.accelerator, plan_.num_devices), plan_.mfu, warnings, compared)
    (logger.warning if warnings else logger.info)("The plan\n\n%s", page)
    return planned, page


def _free_bytes(plan_: PlanParameters, workspace: Path) -> float:
    return plan_.disk_gb * _GIGABYTE if plan_.disk_gb else shutil.disk_usage(workspace).free


def _cached_bytes(distilled: Iterable[DistillationSettings | None], schedule: Schedule, teacher: Architecture) -> int:
    """Return what a cached teacher's words on a training sequence take, of all arms that read them."""
    return sum(
        bytes_of_sequence(cache_shape(settings, schedule.sequence_length, teacher.vocab_size))
        for settings in distilled
        if settings is not None and settings.teacher == "cached"
    )


def _variant(teacher: Architecture, bin_: tuple[str, BinParameters], space: tuple[str, SpaceParameters]) -> Variant:
    (bin_name, of_bin), (space_name, of_space) = bin_, space
    parameter_bin = of_bin.parameter_bin(num_parameters(teacher))
    try:
        members, genes_bytes = draw_members(of_space.search_space(teacher), parameter_bin)
    except ValueError as error:
        raise ValueError(f"bins.{bin_name} in spaces.{space_name}: {error}") from None
    reference = of_bin.reference.architecture() if of_bin.reference else None
    return Variant(
        bin=bin_name,
        space=space_name,
        members=members,
        center=reference or in_small(teacher, (parameter_bin.low + parameter_bin.high) / 2),
        compensation=of_space.compensation,
        reference=reference,
        genes_bytes=genes_bytes,
    )


def _reading(
    corpus: CorpusParameters,
    measurement: MeasurementParameters,
    search: SearchSettings,
    evaluation: EvaluationParameters,
) -> Reading:
    sources = [source.splits for source in corpus.sources.values() if source]
    having = {split: sum(splits.get(split, 0) > 0 for splits in sources) for split in measurement.reported}
    return Reading(
        length=measurement.length,
        batch_size=measurement.batch_size,
        calibration=measurement.calibration,
        elimination=min(measurement.elimination, measurement.calibration),
        selection=0 if search.fitness in FROM_SCORES else measurement.selection,
        choice=measurement.choice,
        teacher=sum(count * having[split] for split, count in measurement.reported.items()),
        validation=measurement.validation * having["validation"],
        heldout=measurement.heldout,
        question_tokens=evaluation.question_tokens(having["validation"]),
        timed_tokens=evaluation.efficiency.num_tokens if evaluation.efficiency else 0,
    )
