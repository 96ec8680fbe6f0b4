"""The winner of a variant as a checkpoint folder that other tools open."""

import json
import shutil
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import ClassVar

import torch

from budwood.corpus.settings import CorpusSettings
from budwood.models.card import Card, CardSource, Measurement
from budwood.models.certificate import Origin, certify
from budwood.models.chat import describe_chat
from budwood.models.checkpoint import Checkpoint
from budwood.models.engines import open_everywhere
from budwood.models.export import CARD, CERTIFICATE
from budwood.models.prompts import record_prompts, write_check
from budwood.models.settings import ServingSettings
from budwood.records.certificate import Certificate
from budwood.records.files import link_large, write_atomically
from budwood.records.search import Winner
from budwood.records.teacher import TeacherRecord
from budwood.study.stage import Stage, Work
from budwood.subnet.settings import SpaceSettings


@dataclass(frozen=True, slots=True)
class Exported:
    """A sub-network with its proof."""

    subnet: Checkpoint
    certificate: Certificate


@dataclass(frozen=True, kw_only=True)
class ExportSubnet(Stage[Exported]):
    """Certify the winner's folder, and describe it for those who take it home."""

    name: ClassVar[str] = "export"
    result: ClassVar[type] = Exported

    cut: Checkpoint
    teacher_record: TeacherRecord
    corpus_fingerprint: str
    winner: Winner
    space: SpaceSettings
    sources: Sequence[CardSource]
    """Licences and attributions of all texts."""
    serving: ServingSettings = field(default_factory=ServingSettings)

    def run(self, work: Work) -> Exported:
        """Copy, certify and describe."""
        folder = work.folder / "subnet"
        shutil.rmtree(folder, ignore_errors=True)
        shutil.copytree(self.cut.folder, folder, copy_function=link_large)
        origin = Origin(
            teacher=self.teacher_record.name,
            teacher_revision=self.teacher_record.revision,
            teacher_fingerprint=self.teacher_record.fingerprint,
            corpus_fingerprint=self.corpus_fingerprint,
            ordering=self.space.ordering,
            rope=self.space.rope,
            compensation=self.space.corrections,
            channels=self.winner.kept_channels,
            layers=self.winner.kept_layers,
        )
        architecture = self.cut.architecture
        certificate = certify(self.winner.proof, folder, origin)
        child = self.cut.load_model(torch.float32)
        write_check(folder, record_prompts(child))
        opens_in = open_everywhere(folder, self.serving)
        certificate = certificate.model_copy(update={"opens_in": opens_in})
        card = Card(
            architecture=architecture,
            teacher=self.teacher_record,
            sources=self.sources,
            cut=_story(self.winner, self.space, origin),
            measured=[_measured(self.winner)],
            native=certificate.native,
            opens_in=opens_in,
            chat=describe_chat(child, self.cut.load_tokenizer()),
        )
        write_atomically(folder / CARD, card.text())
        write_atomically(folder / CERTIFICATE, json.dumps(certificate.to_dict(), indent=1))
        return Exported(Checkpoint.open(folder), certificate)


def text_sources(corpus: CorpusSettings) -> list[CardSource]:
    """Return licences and attributions of all texts, for a card."""
    return [
        CardSource(name=name, license=source.license, attribution=source.attribution, dataset=source.dataset)
        for name, source in corpus.sources.items()
    ]


def _story(winner: Winner, space: SpaceSettings, origin: Origin) -> dict[str, str]:
    """Return how a winner was found and cut, for its card."""
    layers = "layer-wise" if space.layerwise else "equal"
    looked = f"{winner.num_evaluations:,} {space.granularity} sub-networks of {layers} layers"
    return {
        "Search": looked if winner.num_evaluations else "none, chosen by hand",
        "Order of the teacher's components": space.ordering,
        "Rotary embeddings": space.rope,
        "Kept layers of the teacher": ", ".join(map(str, origin.layers)),
        "Corrections": ", ".join(origin.compensation) or "none",
    }


def _measured(winner: Winner) -> Measurement:
    """Return what was measured of a winner, for its card."""
    tokens = winner.finalist_tokens
    return Measurement(
        metric="loss",
        value=winner.choice_loss,
        unit="nats per token",
        data="text kept for the choice among candidates",
        when=f"after {tokens:,} tokens of training" if tokens else "before any training",
    )
