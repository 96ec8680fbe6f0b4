"""The winner of a variant as a checkpoint folder that other tools open."""

import json
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from budwood.arch.bins import ParameterBin
from budwood.arch.count import forward_flops_per_token
from budwood.arch.spec import Architecture
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
from budwood.records.cost import Cost
from budwood.records.files import write_atomically
from budwood.records.search import Winner
from budwood.records.teacher import TeacherRecord
from budwood.study.stage import Stage, Work
from budwood.study.teacher import importance_of
from budwood.subnet.extract import resolve
from budwood.subnet.ordering import open_ordered
from budwood.subnet.settings import SpaceSettings


@dataclass(frozen=True, slots=True)
class Exported:
    """A sub-network with its proof."""

    subnet: Checkpoint
    certificate: Certificate
    costs: list[Cost]


@dataclass(frozen=True, kw_only=True)
class ExportSubnet(Stage[Exported]):
    """Prove that the winner's folder is what the search found, and describe it for those who take it home."""

    name: ClassVar[str] = "export"
    result: ClassVar[type] = Exported

    cut: Checkpoint
    teacher: Checkpoint
    teacher_record: TeacherRecord
    importance: dict[str, Tensor]
    corpus_fingerprint: str
    winner: Winner
    space: SpaceSettings
    sources: Sequence[CardSource]
    """Licences and attributions of all texts."""

    def run(self, work: Work) -> Exported:
        """Copy, certify and describe.

        Raises:
            ValueError: the folder does not compute what the searched child computes.
        """
        folder = work.folder / "subnet"
        shutil.rmtree(folder, ignore_errors=True)
        shutil.copytree(self.cut.folder, folder)
        ordered = open_ordered(self.teacher.folder, self.space, importance_of(self.importance))
        cut = resolve(ordered, self.winner.selection)
        origin = Origin(
            teacher=self.teacher_record.name,
            teacher_revision=self.teacher_record.revision,
            teacher_fingerprint=self.teacher.fingerprint,
            corpus_fingerprint=self.corpus_fingerprint,
            ordering=self.space.ordering,
            rope=self.space.rope,
            compensation=self.space.compensation.steps if self.space.compensation else (),
            channels=[ordered.channels[channel] for channel in self.winner.selection.hidden],
            layers=[layer.teacher_layer for layer in cut.layers],
        )
        child = self.cut.load_model(torch.float32)
        certificate = certify(child, folder, cut.architecture, ParameterBin(*self.winner.parameter_bin), origin)
        write_check(folder, record_prompts(child))
        card = Card(
            architecture=cut.architecture,
            teacher=self.teacher_record,
            sources=self.sources,
            cut=_story(self.winner, self.space, origin),
            measured=[_measured(self.winner)],
            native=certificate.native,
            opens_in=open_everywhere(folder, ServingSettings()),
            chat=describe_chat(child, self.cut.load_tokenizer()),
        )
        write_atomically(folder / CARD, card.text())
        write_atomically(folder / CERTIFICATE, json.dumps(certificate.to_dict(), indent=1))
        return Exported(Checkpoint.open(folder), certificate, [certificate_cost(cut.architecture, certificate)])


def certificate_cost(child: Architecture, certificate: Certificate) -> Cost:
    """Return what a certificate cost: its probes run through the child in memory and the one loaded anew."""
    lengths = [len(probe.input_ids) for probe in certificate.probes]
    flops = sum(2 * length * forward_flops_per_token(child, context=length) for length in lengths)
    return Cost(stage="evaluation", flops=float(flops), tokens=2 * sum(lengths))


def text_sources(corpus: CorpusSettings) -> list[CardSource]:
    """Return licences and attributions of all texts, for a card."""
    return [
        CardSource(name=name, license=source.license, attribution=source.attribution, dataset=source.dataset)
        for name, source in corpus.sources.items()
        if source
    ]


def _story(winner: Winner, space: SpaceSettings, origin: Origin) -> dict[str, str]:
    """Return how a winner was found and cut, for its card."""
    layers = "layer-wise" if space.layerwise else "equal"
    return {
        "Search": f"{winner.num_evaluations:,} {space.granularity} sub-networks of {layers} layers",
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
