"""Fetch the teacher, describe it, measure it."""

from collections.abc import Sequence
from pathlib import Path

from torch import Tensor

from budwood.corpus.packing import PackedCorpus
from budwood.corpus.settings import CorpusSettings
from budwood.models.checkpoint import Checkpoint
from budwood.models.settings import TeacherSettings
from budwood.pipelines.tracking import open_workspace
from budwood.pipelines.wiring import project_root
from budwood.records.cost import Cost
from budwood.records.gate import Gate
from budwood.records.teacher import TeacherEvaluation, TeacherRecord
from budwood.study.evaluation import EvaluateTeacher, warn_of_guessing
from budwood.study.gates import CheckOrder, require_passed
from budwood.study.settings import Conditions
from budwood.study.teacher import RankComponents, Ranked, fetch_source, teacher_record
from budwood.study.text import Materials
from budwood.study.vocabulary import trim
from budwood.subnet.settings import Ordering


def fetch_teacher(
    teacher: TeacherSettings, corpus: CorpusSettings, workspace: Path
) -> tuple[Checkpoint, TeacherRecord]:
    """Return the teacher as a checkpoint, and what it is.

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
    orderings: Sequence[Ordering],
) -> tuple[dict[str, Tensor], list[Cost], list[Gate]]:
    """Return the importance of the teacher's components on calibration text, what that cost, and the gate of the order.

    Args:
        teacher: the teacher.
        tokens: the text.
        conditions: how much of it.
        workspace: keeps every trial.
        statistics: whether any space orders or scores by what is measured; without, nothing is.
        elimination: whether any space ranks layers by leaving them out.
        orderings: what spaces order the teacher by.

    Raises:
        ValueError: an order is no better than its reverse or the teacher's own, and that may not be.
    """
    found, materials = open_workspace(workspace), Materials(teacher, tokens, conditions.measurement)
    ranked = found.finish(RankComponents.of(materials, eliminates=elimination)) if statistics else Ranked({}, [])
    checks = [CheckOrder.of(materials, ranked.importance, ordering) for ordering in orderings]
    gates = [gate for check in checks for gate in found.finish(check)]
    require_passed(gates, conditions.protocol.failed_gate)
    return ranked.importance, [*ranked.costs, *(gate.cost for gate in gates)], gates


def evaluate_teacher(
    teacher: Checkpoint, tokens: PackedCorpus, conditions: Conditions, workspace: Path
) -> TeacherEvaluation:
    """Return the teacher's loss on every split and source; warn if it only guesses."""
    stage = EvaluateTeacher.of(Materials(teacher, tokens, conditions.measurement))
    found = open_workspace(workspace).finish(stage)
    warn_of_guessing(found.perplexity, teacher.architecture.vocab_size)
    return found
