"""Fetch the teacher, describe it, measure it."""

import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from budwood.arch.count import forward_flops_per_token, num_parameters
from budwood.corpus.packing import PackedCorpus
from budwood.evaluation.perplexity import source_bytes, source_losses
from budwood.models.checkpoint import load_config, load_model, load_tokenizer, read_architecture, read_config
from budwood.models.kind import check_lengths
from budwood.models.teacher import FetchedTeacher, fingerprint
from budwood.models.teacher import fetch_teacher as fetch
from budwood.parameters import MeasurementParameters, TeacherParameters
from budwood.pipelines.work import claim
from budwood.reporting.tables import summarise
from budwood.subnet.elimination import leave_layers_out
from budwood.subnet.importance import measure_importance

Record = dict[str, Any]


def fetch_teacher(teacher: TeacherParameters, workspace: Path) -> tuple[Path, Record]:
    """Return the teacher as a checkpoint folder, and who it is.

    Raises:
        ValueError: it cannot be fetched, or is not what the parameters say it is.
    """
    fetched = fetch_source(teacher, workspace)
    architecture = read_architecture(fetched.folder)
    if teacher.architecture and (stated := teacher.architecture.architecture()) != architecture:
        raise ValueError(
            f"teacher.architecture: {fetched.name} is {architecture.describe()}, vocabulary "
            f"{architecture.vocab_size:,}; stated is {stated.describe()}, vocabulary {stated.vocab_size:,}"
        )
    record = {
        "name": fetched.name,
        "revision": fetched.revision,
        "model_type": read_config(fetched.folder)["model_type"],
        "num_parameters": num_parameters(architecture),
        "fingerprint": fingerprint(fetched.folder),
        "license": teacher.license,
        "attribution": teacher.attribution,
        "num_token_ids": len(load_tokenizer(fetched.folder)),
        "architecture": architecture.to_dict(),
    }
    return fetched.folder, record


def fetch_source(teacher: TeacherParameters, workspace: Path) -> FetchedTeacher:
    """Return a teacher's checkpoint, made anew only where its source has changed."""
    source = teacher.model_dump(exclude={"architecture"})
    return fetch(teacher, claim(workspace, "teacher", {"teacher": source}))


def rank_components(
    teacher: Path, tokens: PackedCorpus, measurement: MeasurementParameters
) -> tuple[dict[str, Tensor], list[Record]]:
    """Return the importance of the teacher's components on calibration text, and what that cost.

    One pass scores what layers are made of; layers are then left out one by one.
    """
    started = time.perf_counter()
    check_lengths(teacher, load_config(teacher), measurement.length)
    compute, architecture = measurement.compute(), read_architecture(teacher)
    windows = torch.from_numpy(tokens.windows("calibration", measurement.length, limit=measurement.calibration))
    text = windows[:, :-1]
    model = compute.place(load_model(teacher, compute.dtype)).eval()
    importance = measure_importance(model, architecture, text, batch_size=measurement.batch_size)
    del model
    flops = float(text.numel() * forward_flops_per_token(architecture, context=measurement.length))
    passed = time.perf_counter()
    compared = windows[: measurement.elimination]
    elimination = leave_layers_out(teacher, compared, compute, batch_size=measurement.batch_size)
    costs: list[Record] = [
        {"stage": "calibration", "flops": flops, "tokens": text.numel(), "seconds": passed - started},
        {
            "stage": "elimination",
            "flops": elimination.flops,
            "tokens": elimination.tokens,
            "seconds": time.perf_counter() - passed,
        },
    ]
    return replace(importance, eliminated=elimination.order).to_tensors(), costs


def evaluate_teacher(teacher: Path, tokens: PackedCorpus, measurement: MeasurementParameters) -> dict[str, Any]:
    """Return the teacher's loss on every split and source, its validation losses by sequence, and the cost.

    Validation is measured on the sequences that the arms are; a few of every other split show that they are alike.
    """
    started = time.perf_counter()
    compute, length = measurement.compute(), measurement.length
    tokenizer = load_tokenizer(teacher)
    num_bytes = {
        split: source_bytes(tokenizer, tokens, split, (length, count)) for split, count in measurement.reported.items()
    }
    model = compute.place(load_model(teacher, compute.dtype))
    losses = {
        split: source_losses(model, tokens, split, (length, count), "teacher")
        for split, count in measurement.reported.items()
    }
    perplexity: list[Record] = [
        {"split": split, "source": source, "tokens": len(values) * length}
        | summarise(values, num_bytes[split][source], length)
        for split, by_source in losses.items()
        for source, values in by_source.items()
    ]
    total = sum(row["tokens"] for row in perplexity)
    flops = total * forward_flops_per_token(read_architecture(teacher), context=length)
    return {
        "perplexity": perplexity,
        "losses": losses["validation"],
        "text": {"tokens_per_sequence": length, "bytes": num_bytes["validation"]},
        "costs": [
            {
                "stage": "evaluation",
                "flops": float(flops),
                "tokens": total,
                "seconds": time.perf_counter() - started,
            }
        ],
    }
