"""Fetch the teacher, describe it, measure it."""

from pathlib import Path

from torch import Tensor

from budwood.corpus.packing import PackedCorpus
from budwood.corpus.settings import CorpusSettings
from budwood.models.checkpoint import Checkpoint
from budwood.models.device import choose_compute
from budwood.models.settings import TeacherSettings
from budwood.pipelines.tracking import open_workspace
from budwood.pipelines.wiring import project_root
from budwood.records.cost import Cost
from budwood.records.teacher import TeacherEvaluation, TeacherRecord
from budwood.study.evaluation import EvaluateTeacher
from budwood.study.settings import Conditions
from budwood.study.teacher import RankComponents, fetch_source, teacher_record
from budwood.study.text import Windows
from budwood.study.vocabulary import trim


def fetch_teacher(
    teacher: TeacherSettings, corpus: CorpusSettings, workspace: Path
) -> tuple[Checkpoint, TeacherRecord]:
    """Return the teacher as a checkpoint, and what it is.

    Args:
        teacher: where it comes from.
        corpus: its text decides which tokens stay, where not all do.
        workspace: keeps what has to be converted.

    Raises:
        ValueError: it cannot be fetched, or is not what the parameters say it is.
    """
    found, root = open_workspace(workspace), project_root()
    fetched = trim(fetch_source(teacher, found, root), teacher.vocabulary, corpus, found, root)
    return fetched.checkpoint, teacher_record(fetched, teacher, found)


def rank_components(
    teacher: Checkpoint,
    tokens: PackedCorpus,
    conditions: Conditions,
    workspace: Path,
    *,
    statistics: bool,
    elimination: bool,
) -> tuple[dict[str, Tensor], list[Cost]]:
    """Return the importance of the teacher's components on calibration text, and what that cost.

    Args:
        teacher: the teacher.
        tokens: the text.
        conditions: how much of it.
        workspace: keeps every trial.
        statistics: whether any space orders or scores by what is measured; without, nothing is.
        elimination: whether any space ranks layers by leaving them out.
    """
    if not statistics:
        return {}, []
    measurement = conditions.measurement
    stage = RankComponents(
        teacher=teacher,
        calibration=Windows.searched(tokens, "calibration", measurement),
        elimination=measurement.elimination if elimination else 0,
        compute=choose_compute(measurement.device, measurement.precision),
        batch_size=measurement.batch_size,
    )
    ranked = open_workspace(workspace).finish(stage)
    return ranked.importance, ranked.costs


def evaluate_teacher(
    teacher: Checkpoint, tokens: PackedCorpus, conditions: Conditions, workspace: Path
) -> TeacherEvaluation:
    """Return the teacher's loss on every split and source."""
    measurement = conditions.measurement
    stage = EvaluateTeacher(
        teacher=teacher,
        tokens=tokens,
        length=measurement.final_length,
        reported=measurement.reported,
        compute=choose_compute(measurement.device, measurement.precision),
    )
    return open_workspace(workspace).finish(stage).evaluation
