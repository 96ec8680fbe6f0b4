"""Losses of models on held-out text, sequence by sequence, so that arms can be compared in pairs."""

import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from budwood.corpus.packing import PackedCorpus
from budwood.evaluation.bytes import ByteCounter
from budwood.models.losses import sequence_losses


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
        ValueError: a source has too few sequences.
    """
    length, count = windows
    losses = {}
    for source in corpus.sources(split):
        sequences = torch.from_numpy(corpus.windows(split, length, source=source, limit=count))
        losses[source] = sequence_losses(model, sequences, progress=f"{name} on {split}/{source}").tolist()
    return losses


def source_bytes(
    tokenizer: PreTrainedTokenizerBase, corpus: PackedCorpus, split: str, windows: tuple[int, int]
) -> dict[str, list[int]]:
    """Return the bytes of the text that is predicted in every sequence of `source_losses`, by source.

    Args:
        tokenizer: the one that the corpus was packed with.
        corpus: where the text is.
        split: which part of it.
        windows: tokens predicted per sequence, and sequences of each source.

    Raises:
        ValueError: a source has too few sequences, or the tokens have no bytes of their own.
    """
    length, count = windows
    counter = ByteCounter.of(tokenizer)
    starts = {
        source: corpus.window_starts(split, length, source=source, limit=count) for source in corpus.sources(split)
    }
    return {source: counter.count(corpus.read_packed(where, length)).tolist() for source, where in starts.items()}
