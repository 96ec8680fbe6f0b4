"""Losses of models on held-out text, sequence by sequence, so that arms can be compared in pairs."""

from collections.abc import Sequence
from statistics import fmean, stdev
from typing import Any

import torch
from transformers import PreTrainedModel

from budwood.corpus.packing import PackedCorpus
from budwood.subnet.evaluate import sequence_losses


def source_losses(
    model: PreTrainedModel, corpus: PackedCorpus, split: str, windows: tuple[int, int], name: str
) -> dict[str, list[float]]:
    """Return a model's mean loss per token of every sequence, by source, in nats.

    Args:
        model: any causal language model, where it is to run.
        corpus: where the text is.
        split: which part of it.
        windows: tokens predicted per sequence, and sequences of each source.
        name: names the model in the progress bar.

    Raises:
        ValueError: a source holds too few sequences.
    """
    length, count = windows
    losses = {}
    for source in corpus.sources(split):
        sequences = torch.from_numpy(corpus.windows(split, length, source=source, limit=count))
        losses[source] = sequence_losses(model, sequences, progress=f"{name} on {split}/{source}").tolist()
    return losses


def summarise(losses: Sequence[float], length: int) -> dict[str, Any]:
    """Return the mean of sequence losses, its standard error and the number of tokens behind it."""
    error = stdev(losses) / len(losses) ** 0.5 if len(losses) > 1 else float("nan")
    return {"loss": fmean(losses), "standard_error": error, "tokens": len(losses) * length}
