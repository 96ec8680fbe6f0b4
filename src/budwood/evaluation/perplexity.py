"""Losses of checkpoints on held-out text, sequence by sequence, so that arms can be compared in pairs."""

from collections.abc import Sequence
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

import torch

from budwood.corpus.packing import PackedCorpus
from budwood.subnet.checkpoint import load_model
from budwood.subnet.device import Compute
from budwood.subnet.evaluate import sequence_losses


def source_losses(
    folder: Path, corpus: PackedCorpus, split: str, windows: tuple[int, int], compute: Compute
) -> dict[str, list[float]]:
    """Return a checkpoint's mean loss per token of every sequence, by source, in nats.

    Args:
        folder: the checkpoint.
        corpus: where the text is.
        split: which part of it.
        windows: tokens predicted per sequence, and sequences of each source.
        compute: device and precision.

    Raises:
        ValueError: a source holds too few sequences.
    """
    length, count = windows
    model = compute.place(load_model(folder, compute.dtype))
    losses = {}
    for source in sources_of(corpus, split):
        sequences = torch.from_numpy(corpus.windows(split, length, source=source, limit=count))
        losses[source] = sequence_losses(model, sequences, progress=f"{folder.name} on {split}/{source}").tolist()
    return losses


def sources_of(corpus: PackedCorpus, split: str) -> list[str]:
    """Return the sources that a split holds."""
    return [segment.source for segment in corpus.segments if segment.split == split and segment.num_tokens]


def summarise(losses: Sequence[float], length: int) -> dict[str, Any]:
    """Return the mean of sequence losses, its standard error and the number of tokens behind it."""
    error = stdev(losses) / len(losses) ** 0.5 if len(losses) > 1 else float("nan")
    return {"loss": fmean(losses), "standard_error": error, "tokens": len(losses) * length}
