"""Cut the winner of a variant out of the teacher."""

import json
import time
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from budwood.arch.bins import ParameterBin
from budwood.arch.count import forward_flops_per_token
from budwood.arch.selection import Selection
from budwood.arch.spec import Architecture
from budwood.corpus.packing import PackedCorpus
from budwood.models.card import Card, CardSource, Measurement
from budwood.models.certificate import Origin, certify
from budwood.models.chat import describe_chat
from budwood.models.checkpoint import load_tokenizer
from budwood.models.engines import open_everywhere
from budwood.models.export import CARD, CERTIFICATE, write_checkpoint
from budwood.models.prompts import record_prompts, write_check
from budwood.models.settings import ServingSettings
from budwood.parameters import CorpusParameters, MeasurementParameters, SpaceParameters
from budwood.pipelines.work import claim
from budwood.records.files import write_atomically
from budwood.records.teacher import TeacherRecord
from budwood.subnet.compensate import compensation_flops, cut_out
from budwood.subnet.extract import own_weights, resolve


def export_subnet(
    teacher: Path,
    teacher_record: dict[str, Any],
    importance: dict[str, Tensor],
    tokens: PackedCorpus,
    best: dict[str, Any],
    space: SpaceParameters,
    corpus: CorpusParameters,
    measurement: MeasurementParameters,
    workspace: Path,
) -> tuple[Path, dict[str, Any], list[dict[str, Any]]]:
    """Write the winner as a checkpoint folder with card and certificate; return them and the cost of its corrections.

    Raises:
        ValueError: the folder does not compute what the searched child computes.
    """
    started = time.perf_counter()
    ordered = space.ordered_teacher(teacher, importance)
    selection = Selection.from_dict(best["selection"])
    facts = {
        "teacher": teacher_record["fingerprint"],
        "tokens": tokens.fingerprint,
        "best": best["selection"],
        "space": space,
        "calibration": [measurement.calibration, measurement.length],
    }
    cut = resolve(ordered, selection)
    windows = tokens.windows("calibration", measurement.length, limit=measurement.calibration)[:, :-1]
    child = cut_out(
        ordered, selection, torch.from_numpy(windows), space.compensation, batch_size=measurement.batch_size
    )
    seconds = time.perf_counter() - started
    folder = write_checkpoint(own_weights(child), teacher, claim(workspace, "export", facts) / "subnet")
    origin = Origin(
        teacher=teacher_record["name"],
        teacher_revision=teacher_record["revision"],
        teacher_fingerprint=teacher_record["fingerprint"],
        corpus_fingerprint=tokens.fingerprint,
        ordering=space.ordering,
        rope=space.rope,
        compensation=space.compensation.steps if space.compensation else (),
        channels=[ordered.channels[channel] for channel in selection.hidden],
        layers=[layer.teacher_layer for layer in cut.layers],
    )
    certificate = certify(child, folder, cut.architecture, ParameterBin(*best["parameter_bin"]), origin)
    write_check(folder, record_prompts(child))
    card = Card(
        architecture=cut.architecture,
        teacher=TeacherRecord.model_validate(teacher_record),
        sources=_sources(corpus),
        cut=_story(best, space, origin),
        measured=[_measured(best)],
        native=bool(certificate["native"]),
        opens_in=open_everywhere(folder, ServingSettings()),
        chat=describe_chat(child, load_tokenizer(folder)),
    )
    write_atomically(folder / CARD, card.text())
    write_atomically(folder / CERTIFICATE, json.dumps(certificate, indent=1))
    costs = []
    if space.compensation and space.compensation.steps:
        flops = compensation_flops(ordered.architecture, cut, space.compensation, *windows.shape)
        costs = [{"stage": "compensation", "flops": flops, "tokens": int(windows.size), "seconds": seconds}]
    return folder, certificate, [*costs, _certificate_cost(cut.architecture, certificate)]


def _story(best: dict[str, Any], space: SpaceParameters, origin: Origin) -> dict[str, str]:
    """Return how a winner was found and cut, for its card."""
    layers = "layer-wise" if space.layerwise else "equal"
    return {
        "Search": f"{best['num_evaluations']:,} {space.granularity} sub-networks of {layers} layers",
        "Order of the teacher's components": space.ordering,
        "Rotary embeddings": space.rope,
        "Kept layers of the teacher": ", ".join(map(str, origin.layers)),
        "Corrections": ", ".join(origin.compensation) or "none",
    }


def _sources(corpus: CorpusParameters) -> list[CardSource]:
    """Return licences and attributions of all texts, for a card."""
    return [
        CardSource(name=name, license=source.license, attribution=source.attribution, dataset=source.dataset)
        for name, source in corpus.sources.items()
        if source
    ]


def _measured(best: dict[str, Any]) -> Measurement:
    """Return what was measured of a winner, for its card."""
    tokens = best["finalist_tokens"]
    return Measurement(
        metric="loss",
        value=best["choice_loss"],
        unit="nats per token",
        data="text kept for the choice among candidates",
        when=f"after {tokens:,} tokens of training" if tokens else "before any training",
    )


def _certificate_cost(child: Architecture, certificate: dict[str, Any]) -> dict[str, Any]:
    """Return what a certificate cost: its probe runs through the child in memory and the one loaded anew."""
    length = len(certificate["probe"]["input_ids"])
    flops = 2 * length * forward_flops_per_token(child, context=length)
    return {"stage": "evaluation", "flops": float(flops), "tokens": 2 * length, "seconds": 0.0}
