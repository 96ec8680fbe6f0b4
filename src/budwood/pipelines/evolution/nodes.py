"""Search one variant, and choose its winner."""

from pathlib import Path

import pandas as pd
from torch import Tensor

from budwood.corpus.packing import PackedCorpus
from budwood.models.checkpoint import Checkpoint
from budwood.models.device import choose_compute
from budwood.pipelines.tracking import open_workspace
from budwood.records.search import Finalists, Winner
from budwood.search.genes import Genes
from budwood.search.settings import SearchSettings
from budwood.study.search import BriefTraining, ChooseWinner, EvolveSubnets
from budwood.study.settings import BinSettings, Conditions
from budwood.study.text import Windows
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
) -> tuple[pd.DataFrame, Genes, Finalists]:
    """Evolve sub-networks inside a bin; return all that were evaluated, and the best with what they cost."""
    needed = importance if space.needs_statistics or search.needs_statistics else {}
    stage = EvolveSubnets.of(teacher, needed, tokens, (bin_, space), search, conditions.measurement)
    found = open_workspace(workspace).finish(stage)
    return found.history, found.genes, found.finalists


def choose_winner(
    teacher: Checkpoint,
    importance: dict[str, Tensor],
    tokens: PackedCorpus,
    finalists: Finalists,
    space: SpaceSettings,
    search: SearchSettings,
    conditions: Conditions,
    workspace: Path,
) -> tuple[Winner, Checkpoint]:
    """Return the finalist that is best on text of its own, and its cut as it will be exported."""
    measurement = conditions.measurement
    stage = ChooseWinner(
        teacher=teacher,
        importance=importance if space.needs_statistics else {},
        calibration=Windows.searched(tokens, "calibration", measurement),
        choice=Windows.searched(tokens, "choice", measurement),
        finalists=finalists.candidates[: search.num_finalists],
        space=space,
        training=BriefTraining.of(search.finalist_tokens, conditions),
        compute=choose_compute(measurement.device, measurement.precision),
        batch_size=measurement.batch_size,
        searched=finalists.searched,
    )
    chosen = open_workspace(workspace).finish(stage)
    return chosen.winner, chosen.cut
