"""Corpora of numbered texts under a tokenizer of words: text 7 is `w8` four times, and its tokens are four eights."""

import json
from collections.abc import Iterable, Sequence
from pathlib import Path

from documents import NOWHERE
from transformers import PreTrainedTokenizerBase

from budwood.corpus import ingestion, shards
from budwood.corpus.ingestion import tokenize_sources
from budwood.corpus.packing import PackedCorpus
from budwood.corpus.settings import CorpusSettings, SourceSettings

HALVES = {"train": 0.5, "validation": 0.5}
NUM_WORDS = 40_000
SMALL = ((ingestion, "_BATCH_DOCUMENTS", 10), (shards, "SHARD_BYTES", 2500))
"""Ten documents in a batch and in a shard, so that a few texts are many portions."""


def text(number: int) -> str:
    """Return a text of 1 to 4 words that no other number has."""
    return " ".join([f"w{number + 1}"] * (number % 4 + 1))


def words(number: int) -> tuple[int, ...]:
    """Return the tokens of a text."""
    return (number + 1,) * (number % 4 + 1)


def write(path: Path, numbers: Iterable[int]) -> str:
    """Write numbered texts, and return the path."""
    path.write_text("".join(json.dumps({"text": text(number)}) + "\n" for number in numbers))
    return str(path)


def source(path: Path | str, **changes: object) -> SourceSettings:
    """Return settings of a source that is split in halves."""
    return SourceSettings(**{"name": "s", "splits": HALVES, "path": str(path), "format": "jsonl"} | changes)


def corpus_of(sources: Sequence[SourceSettings], **settings: object) -> CorpusSettings:
    """Return settings of a corpus."""
    return CorpusSettings(sources={source.name: source for source in sources}, **{"seed": 0} | settings)


def tokenize(
    sources: Sequence[SourceSettings],
    tokenizer: PreTrainedTokenizerBase,
    directory: Path,
    *,
    vocab_size: int | None = None,
    progress: bool = False,
    **settings: object,
) -> PackedCorpus:
    """Pack sources into a folder."""
    return tokenize_sources(
        corpus_of(sources, **settings),
        tokenizer,
        directory=directory,
        root=NOWHERE,
        vocab_size=vocab_size,
        progress=progress,
    )
