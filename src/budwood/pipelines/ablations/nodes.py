"""Train what an ablation compares, and report how it compares."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from budwood.corpus.packing import PackedCorpus
from budwood.models.checkpoint import Checkpoint
from budwood.models.settings import TeacherSettings
from budwood.pipelines.ablations.datasets import model_datasets, start_and_teacher
from budwood.pipelines.tracking import open_workspace, run_of
from budwood.pipelines.wiring import project_root
from budwood.reporting.ablations import (
    ablation_curves,
    ablation_figures,
    ablation_page,
    ablation_table,
    setting_importances,
)
from budwood.study.ablation import train_compared
from budwood.study.comparison import Ablation, AblationSettings
from budwood.study.settings import Conditions
from budwood.study.teacher import fetch_further
from budwood.study.training import Start, TrainArm


def ablate(
    tokens: PackedCorpus,
    ablations: AblationSettings,
    conditions: Conditions,
    workspace: Path,
    *models: Checkpoint,
    ablation: Ablation,
) -> tuple[Any, ...]:
    """Train everything that is compared alike; return table, curves, figures and page, and the importance of settings.

    Args:
        tokens: the text.
        ablations: on how many tokens.
        conditions: how everything is trained.
        workspace: keeps the runs.
        models: the study's teacher, then all that the comparisons name.
        ablation: what is compared.
    """
    brief = conditions.model_copy(update={"schedule": conditions.schedule.of_length(ablations.tokens)})
    by_name = dict(zip(model_datasets(ablation), models, strict=True))
    runs = []
    for each in ablation.comparisons:
        start, teacher = (by_name[name] for name in start_and_teacher(each))
        begun = Start(initialisation="checkpoint", checkpoint=start)
        stage = TrainArm.of(f"{ablation.name} {each.name}", begun, (teacher, tokens), brief, each.arm)
        with run_of(each.name):
            runs.append(train_compared(each, stage, brief, open_workspace(workspace)))
    table, curves = ablation_table(runs), ablation_curves(runs)
    importances = [setting_importances(table, ablation.grid_settings)] if ablation.grid_settings else []
    figures = ablation_figures(ablation.title, table, curves, ablation.grid_settings)
    return table, curves, *figures, ablation_page(ablation.title, ablation.about, table, *importances), *importances


def fetch_teachers(
    teacher: Checkpoint, conditions: Conditions, workspace: Path, *, sources: Sequence[TeacherSettings]
) -> tuple[Checkpoint, ...]:
    """Return the teachers that are neither the study's own nor sub-networks of it.

    Raises:
        ValueError: one cannot be fetched, is of an unsupported kind, sees less than a sequence, or has other tokens.
    """
    found, length = open_workspace(workspace), conditions.schedule.sequence_length
    return tuple(fetch_further(source, teacher, length, found, project_root()) for source in sources)
