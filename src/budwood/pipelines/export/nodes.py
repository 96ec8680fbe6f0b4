"""Cut the winner of a variant out of the teacher."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

from torch import Tensor

from budwood.arch.bins import ParameterBin
from budwood.arch.spec import Architecture
from budwood.corpus.packing import PackedCorpus
from budwood.parameters import CorpusParameters, SpaceParameters
from budwood.pipelines.work import claim
from budwood.subnet.certificate import Origin, certify
from budwood.subnet.export import CARD, CERTIFICATE, model_card, write_checkpoint
from budwood.subnet.extract import extract_child, own_weights, select


def export_subnet(
    teacher: Path,
    teacher_record: dict[str, Any],
    importance: dict[str, Tensor],
    tokens: PackedCorpus,
    best: dict[str, Any],
    space: SpaceParameters,
    corpus: CorpusParameters,
    workspace: Path,
) -> tuple[Path, dict[str, Any]]:
    """Write the winner as a checkpoint folder with card and certificate.

    Raises:
        ValueError: the folder does not compute what the searched child computes.
    """
    ordered = space.ordered_teacher(teacher, importance)
    architecture = Architecture.from_dict(best["architecture"])
    selection = select(ordered, architecture)
    facts = {
        "teacher": teacher_record["fingerprint"],
        "tokens": tokens.fingerprint,
        "best": best["architecture"],
        "space": space,
    }
    child = own_weights(extract_child(ordered, architecture))
    folder = write_checkpoint(child, teacher, claim(workspace, "export", facts) / "subnet")
    in_depth_order = replace(architecture, layers=selection.layer_specs)
    origin = Origin(
        teacher=teacher_record["name"],
        teacher_revision=teacher_record["revision"],
        teacher_fingerprint=teacher_record["fingerprint"],
        corpus_fingerprint=tokens.fingerprint,
        ordering=space.ordering,
        rope=space.rope,
    )
    certificate = certify(child, folder, in_depth_order, ParameterBin(*best["parameter_bin"]), origin)
    sources = [
        {"name": name, "license": source.license, "attribution": source.attribution}
        for name, source in corpus.sources.items()
        if source
    ]
    cut = {
        "Search": f"{best['num_evaluations']:,} sub-networks of {'layer-wise' if space.layerwise else 'equal'} layers",
        "Order of the teacher's components": space.ordering,
        "Rotary embeddings": space.rope,
        "Kept layers of the teacher": ", ".join(str(i.teacher_layer) for i in selection.layers),
    }
    figures = {"Loss before any training": f"{best['choice_loss']:.3f} nats per token on text kept for the choice"}
    (folder / CARD).write_text(model_card(in_depth_order, teacher_record, sources, cut, figures))
    (folder / CERTIFICATE).write_text(json.dumps(certificate, indent=1))
    return folder, certificate
