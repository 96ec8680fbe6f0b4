"""Plan a study from its parameters alone."""

import logging
import shutil
from pathlib import Path
from typing import Any

import pandas as pd

from budwood.arch.bins import require_disjoint
from budwood.arch.count import num_parameters
from budwood.arch.spec import Architecture
from budwood.parameters import (
    Arms,
    Bins,
    CorpusParameters,
    Grid,
    MeasurementParameters,
    PlanParameters,
    ProtocolParameters,
    SearchParameters,
    Spaces,
    TeacherParameters,
)
from budwood.reporting.accelerator import ACCELERATORS
from budwood.reporting.plan import Reading, Study, Variant, draw_members, in_small, plan, warnings_of
from budwood.reporting.quote import markdown_plan
from budwood.reporting.records import ARMS
from budwood.subnet.fitness import FROM_SCORES
from budwood.training.job import Schedule

logger = logging.getLogger(__name__)

_GIGABYTE = 10**9


def plan_study(
    teacher: TeacherParameters,
    bins: dict[str, Any],
    spaces: dict[str, Any],
    grid: Grid,
    corpus: CorpusParameters,
    measurement: MeasurementParameters,
    search: SearchParameters,
    protocol: ProtocolParameters,
    schedule: Schedule,
    arms: dict[str, Any],
    plan_: PlanParameters,
    workspace: Path,
) -> tuple[pd.DataFrame, str]:
    """Return what every stage of the study will cost, and the page that tells it; print the page.

    Kedro types one bin, space or arm at a time; the dictionaries of all of them are typed here.

    Raises:
        ValueError: the teacher is not known, a bin cannot be reached, or two overlap; nothing has been spent yet.
    """
    accelerator, architecture = ACCELERATORS[plan_.accelerator], teacher.describe()
    study = Study(
        teacher=architecture,
        teacher_bytes_per_parameter=teacher.bytes_per_parameter,
        variants=_variants(architecture, Bins.model_validate(bins), Spaces.model_validate(spaces), grid),
        num_evaluations=search.settings().num_evaluations,
        num_finalists=search.num_finalists,
        finalist_tokens=search.finalist_tokens,
        reading=_reading(corpus, measurement, search),
        schedule=schedule,
        arms={name: getattr(Arms.model_validate(arms), name).distillation is not None for name in ARMS},
        num_seeds=protocol.num_seeds,
        probe_schedule=protocol.probe_schedule(schedule),
        precision=accelerator.precision if measurement.precision == "auto" else measurement.precision,
    )
    planned = plan(study, accelerator, plan_.mfu)
    free = plan_.disk_gb * _GIGABYTE if plan_.disk_gb else shutil.disk_usage(workspace).free
    warnings = warnings_of(study, planned, accelerator, plan_.num_devices, free)
    page = markdown_plan(planned, (plan_.accelerator, plan_.num_devices), plan_.mfu, warnings)
    (logger.warning if warnings else logger.info)("The plan\n\n%s", page)
    return planned, page


def _variants(teacher: Architecture, bins: Bins, spaces: Spaces, grid: Grid) -> tuple[Variant, ...]:
    count = num_parameters(teacher)
    require_disjoint({name: bins.root[name].parameter_bin(count) for name in grid.root})
    variants = []
    for bin_name, space_name in grid.variants():
        bin_, settings = bins.root[bin_name], spaces.root[space_name]
        parameter_bin = bin_.parameter_bin(count)
        try:
            members, genes_bytes = draw_members(settings.search_space(teacher), parameter_bin)
        except ValueError as error:
            raise ValueError(f"bins.{bin_name} in spaces.{space_name}: {error}") from None
        middle = in_small(teacher, (parameter_bin.low + parameter_bin.high) / 2)
        variants.append(
            Variant(
                bin=bin_name,
                space=space_name,
                members=members,
                center=bin_.reference.architecture() if bin_.reference else middle,
                compensation=settings.compensation,
                reference=bin_.reference.architecture() if bin_.reference else None,
                genes_bytes=genes_bytes,
            )
        )
    return tuple(variants)


def _reading(corpus: CorpusParameters, measurement: MeasurementParameters, search: SearchParameters) -> Reading:
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
    )
