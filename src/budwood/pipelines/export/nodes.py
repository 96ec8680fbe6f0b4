"""Certify and describe the winner of a variant."""

from pathlib import Path

from budwood.corpus.packing import PackedCorpus
from budwood.corpus.settings import CorpusSettings
from budwood.models.checkpoint import Checkpoint
from budwood.models.settings import ServingSettings
from budwood.pipelines.tracking import open_workspace
from budwood.records.search import Winner
from budwood.records.teacher import TeacherRecord
from budwood.study.export import Exported, ExportSubnet, text_sources
from budwood.subnet.settings import SpaceSettings


def export_subnet(
    cut: Checkpoint,
    winner: Winner,
    teacher_record: TeacherRecord,
    tokens: PackedCorpus,
    space: SpaceSettings,
    corpus: CorpusSettings,
    serving: ServingSettings,
    workspace: Path,
) -> Exported:
    """Return the winner as a folder with card and certificate."""
    stage = ExportSubnet(
        cut=cut,
        teacher_record=teacher_record,
        corpus_fingerprint=tokens.fingerprint,
        winner=winner,
        space=space,
        sources=text_sources(corpus),
        serving=serving,
    )
    return open_workspace(workspace).finish(stage)
