"""Search one variant, and choose its winner."""

from pathlib import Path

from torch import Tensor

from budwood.corpus.packing import PackedCorpus
from budwood.models.checkpoint import Checkpoint
from budwood.pipelines.tracking import open_workspace
from budwood.records.search import Finalists
from budwood.search.settings import SearchSettings
from budwood.study.choice import BriefTraining, ChooseWinner, Chosen
from budwood.study.search import EvolveSubnets, Found
from budwood.study.settings import BinSettings, Conditions
from budwood.study.text import Materials
from budwood.subnet.settings import SpaceSettings


def evolve(
    teacher: Checkpoint,
    importance: dict[str, Tensor],
    tokens: PackedCorpus,
    bin_: BinSettings,
    space: SpaceSettings,
    search: SearchSettings,
    conditions: Conditions,
    workspace: Path,
) -> Found:
    """Evolve sub-networks inside a bin; return all that were evaluated, and the best with what they cost."""
    materials = Materials(teacher, tokens, conditions.measurement)
    return open_workspace(workspace).finish(EvolveSubnets.of(materials, importance, bin_, space, search))


def choose_winner(
    teacher: Checkpoint,
    importance: dict[str, Tensor],
    tokens: PackedCorpus,
    finalists: Finalists,
    space: SpaceSettings,
    search: SearchSettings,
    conditions: Conditions,
    workspace: Path,
) -> Chosen:
    """Return the finalist that is best on text of its own, and its cut as it will be exported."""
    materials = Materials(teacher, tokens, conditions.measurement)
    candidates = finalists.candidates[: search.num_finalists]
    training = BriefTraining.of(search.finalist_tokens, conditions)
    stage = ChooseWinner.of(materials, importance, candidates, finalists.searched, space, training)
    return open_workspace(workspace).finish(stage)
