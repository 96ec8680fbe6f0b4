"""Sub-networks, cut or trained, as checkpoint folders that other tools open: certified, tried and described."""

import filecmp
import shutil
from collections.abc import Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from statistics import fmean
from typing import ClassVar, NamedTuple

import torch
from torch import Tensor

from budwood.arch.bins import ParameterBin
from budwood.arch.family import family_of
from budwood.corpus.settings import CorpusSettings
from budwood.models.card import Card, CardSource, Measurement
from budwood.models.certificate import Expected, expect, prove
from budwood.models.chat import ask_question
from budwood.models.checkpoint import Checkpoint, build_empty
from budwood.models.engines import GGUF, open_everywhere, serving_commands
from budwood.models.export import CARD, CERTIFICATE
from budwood.models.fingerprint import fingerprint
from budwood.models.offload import offloaded
from budwood.models.prompts import PROMPTS, record_prompts, write_check
from budwood.models.settings import ServingSettings
from budwood.models.stream import parts_of
from budwood.records.certificate import Certificate, Lessons
from budwood.records.cost import Cost
from budwood.records.evaluation import Downstream
from budwood.records.files import link_large, write_atomically
from budwood.records.search import Winner
from budwood.records.serving import CHECK
from budwood.records.strict import naming
from budwood.records.teacher import TeacherRecord
from budwood.records.training import Score, TrainingRecord
from budwood.study.costs import check_cost, forward_of, proof_cost
from budwood.study.stage import Stage, Work
from budwood.study.text import Windows
from budwood.subnet.settings import SpaceSettings

PAPERS = (CARD, CERTIFICATE, CHECK, PROMPTS, GGUF)
"""What is beside a model without being a part of it."""


class Exported(NamedTuple):
    """A sub-network with its proof."""

    subnet: Checkpoint
    certificate: Certificate


@dataclass(frozen=True, kw_only=True)
class ExportSubnet(Stage[Exported]):
    """Certify the winner's folder, and describe it for those who take it home."""

    name: ClassVar[str] = "export"

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
        subnet = Checkpoint.open(folder)
        certificate = Certificate(
            **dict(self.winner.proof),
            fingerprint=subnet.fingerprint,
            teacher=self.teacher_record.name,
            teacher_revision=self.teacher_record.revision,
            teacher_fingerprint=self.teacher_record.fingerprint,
            corpus_fingerprint=self.corpus_fingerprint,
            search=_searched(self.winner, self.space),
            ordering=self.space.ordering,
            rope=self.space.rope,
            compensation=self.winner.corrections,
            kept_channels=self.winner.kept_channels,
            kept_layers=self.winner.kept_layers,
        )
        text = "text kept for the choice among candidates"
        measured = [measured_loss(self.winner.choice_loss, text, self.winner.finalist_tokens)]
        return Exported(subnet, _describe(self, subnet, certificate, measured))


@dataclass(frozen=True, kw_only=True)
class CertifyTrained(Stage[Certificate]):
    """Certify a trained sub-network, and describe it for those who take it home, in its own folder."""

    name: ClassVar[str] = "certificate"

    model: Checkpoint
    record: TrainingRecord
    subnet: Certificate
    """Of what was trained."""
    proven_on: Windows
    teacher_record: TeacherRecord
    sources: Sequence[CardSource]
    measured: Sequence[Measurement]
    serving: ServingSettings = field(default_factory=ServingSettings)

    def run(self, work: Work) -> Certificate:
        """Compare the folder as plain transformers loads it with the model as budwood loads it, and describe it."""
        record, text, within = self.record, self.proven_on.read()[0], ParameterBin(*self.subnet.parameter_bin)
        proof = prove(_computed(self.model, text), self.model.folder, self.model.architecture, within, text)
        lessons = Lessons(
            arm=record.arm,
            start=record.made_with.start,
            tokens=record.tokens,
            learning_rate=record.learning_rate,
            distilled=record.made_with.teacher is not None,
        )
        cost = proof_cost(forward_of(self.model.architecture), proof.probe_lengths)
        own = {"fingerprint": fingerprint(self.model.folder), "training": lessons, "costs": (cost,)}
        certificate = self.subnet.model_copy(update=dict(proof) | own)
        certificate = _describe(self, self.model, certificate, self.measured)
        _copy_papers(self.model.folder, work.folder)
        return certificate

    def report(self, result: Certificate, work: Work) -> None:
        """Put card, certificate and check beside the model again, whose folder may have been written again."""
        _copy_papers(work.folder, self.model.folder)


def read_certificate(folder: Path) -> Certificate:
    """Return the certificate of an export.

    Raises:
        ValueError: the folder has none, or it is damaged.
    """
    file = folder / CERTIFICATE
    if not file.is_file():
        raise ValueError(f"{folder} has no {CERTIFICATE}, so it is no export of budwood")
    with naming(f"{file} is damaged, export the sub-network again"):
        return Certificate.model_validate_json(file.read_bytes())


def text_sources(corpus: CorpusSettings) -> list[CardSource]:
    """Return licences, attributions and languages of all texts that a model may come from, for a card."""
    shown = {each.name for each in fields(CardSource)}
    return [
        CardSource(**source.model_dump(include=shown)) for source in corpus.sources.values() if not source.is_foreign
    ]


def measured_of(score: Score, answers: Downstream) -> list[Measurement]:
    """Return what was measured of a trained model, for its card: its losses by source, and its answers by task."""
    losses = [
        measured_loss(fmean(values), f"{source}, held out", score.tokens) for source, values in score.losses.items()
    ]
    tasks = [
        Measurement(
            metric=task.metric,
            value=task.value,
            unit=f"over {task.num_questions:,} questions with {task.num_fewshot} shots",
            data=task.task,
            when=_after(score.tokens),
        )
        for task in answers.tasks
    ]
    return [*losses, *tasks]


def measured_loss(loss: float, data: str, tokens: int) -> Measurement:
    """Return a loss for a card: in nats per token, on which text, and after how many tokens of training."""
    return Measurement(metric="loss", value=loss, unit="nats per token", data=data, when=_after(tokens))


def _describe(
    stage: ExportSubnet | CertifyTrained,
    checkpoint: Checkpoint,
    certificate: Certificate,
    measured: Sequence[Measurement],
) -> Certificate:
    """Try a model in engines and with a question, write what came of it into its folder, and return the certificate."""
    folder = checkpoint.folder
    with offloaded(checkpoint) as child:
        prompts = record_prompts(child)
    # An answer reads all weights for every token: they are mapped, as they are.
    chat = ask_question(checkpoint.load_model(checkpoint.stored_dtype), checkpoint.load_tokenizer())
    write_check(folder, prompts)
    lengths = [len(prompt.input_ids) for prompt in prompts]
    checked = check_cost(forward_of(checkpoint.architecture), lengths, chat.num_tokens)
    costs: tuple[Cost, ...] = (*certificate.costs, checked)
    certificate = certificate.model_copy(update={"opens_in": open_everywhere(folder, stage.serving), "costs": costs})
    card = Card(
        architecture=checkpoint.architecture,
        teacher=stage.teacher_record,
        sources=stage.sources,
        cut=_story(certificate),
        training=_training(certificate.training) if certificate.training else None,
        measured=measured,
        native=certificate.native,
        opens_in=certificate.opens_in,
        commands=serving_commands(folder, certificate.opens_in),
        chat=chat.description,
    )
    write_atomically(folder / CARD, card.text())
    write_atomically(folder / CERTIFICATE, certificate.model_dump_json(by_alias=True, indent=1))
    return certificate


def _computed(model: Checkpoint, text: Tensor) -> Expected:
    """Return what a model computes as budwood loads it; see `budwood.models.certificate.expect`."""
    loaded, decoder = model.load_model(torch.float32), family_of(model.architecture.family).decoder
    parts = parts_of(loaded, decoder, consume=True)
    return expect(build_empty(loaded.config, type(loaded)), parts, decoder, text, loaded.device)


def _copy_papers(source: Path, target: Path) -> None:
    """Copy papers that are there, with their times, unless they are the same already."""
    papers = [name for name in PAPERS if (source / name).is_file()]
    _, differing, missing = filecmp.cmpfiles(source, target, papers)
    for name in (*differing, *missing):
        shutil.copy2(source / name, target / name)


def _searched(winner: Winner, space: SpaceSettings) -> str:
    if not winner.num_evaluations:
        return "none, chosen by hand"
    layers = "layer-wise" if space.layerwise else "equal"
    return f"{winner.num_evaluations:,} {space.granularity} sub-networks of {layers} layers"


def _story(certificate: Certificate) -> dict[str, str]:
    """Return how a sub-network was found and cut, for its card."""
    return {
        "Search": certificate.search,
        "Order of the teacher's components": certificate.ordering,
        "Rotary embeddings": certificate.rope,
        "Kept layers of the teacher": ", ".join(map(str, certificate.kept_layers)),
        "Corrections": ", ".join(certificate.compensation) or "none",
    }


def _training(lessons: Lessons) -> str:
    how = "distilled from its teacher" if lessons.distilled else "pretrained"
    return f"{how} on {lessons.tokens:,} tokens, peak learning rate {lessons.learning_rate:g} (arm `{lessons.arm}`)"


def _after(tokens: int) -> str:
    return f"after {tokens:,} tokens of training" if tokens else "before any training"
