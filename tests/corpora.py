"""Corpora of numbered texts under a tokenizer of words: text 7 is `w8` four times, and its tokens are four eights."""

import json
import shutil
from collections.abc import Iterable, Sequence
from pathlib import Path

import pandas as pd
from documents import NOWHERE
from transformers import PreTrainedTokenizerBase

from budwood.corpus import ingestion, shards
from budwood.corpus.ingestion import tokenize_sources
from budwood.corpus.packing import PackedCorpus, pack, shards_folder
from budwood.corpus.settings import Bos, CorpusSettings, SourceSettings
from budwood.corpus.shards import ShardWriter, SourceState
from budwood.corpus.split import SPLITS, near_digest, text_digest
from budwood.corpus.tokenization import Encoder, describe_tokenizer, first_token

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
    folder: Path,
    *,
    vocab_size: int | None = None,
    progress: bool = False,
    **settings: object,
) -> PackedCorpus:
    """Pack sources into a folder."""
    return tokenize_sources(
        corpus_of(sources, **settings),
        tokenizer,
        folder=folder,
        root=NOWHERE,
        vocab_size=vocab_size,
        progress=progress,
    )


def tokenize_and_pack(
    documents: pd.DataFrame,
    tokenizer: PreTrainedTokenizerBase,
    *,
    seed: int,
    folder: Path,
    bos: Bos = "auto",
    progress: bool = True,
) -> PackedCorpus:
    """Pack texts that are in memory and divided into splits already.

    Args:
        documents: The columns `source`, `split` and `text`; a text that occurs again is dropped, as is one that differs
            only in case, spacing or punctuation from one of another split.
        tokenizer: Its `eos_token_id` ends a document; special tokens are not added otherwise.
        seed: Seed of the order of the documents.
        folder: The folder to write; a corpus that is there is replaced.
        bos: See `budwood.corpus.settings.CorpusSettings`.
        progress: Whether to show a progress bar.

    Returns:
        The corpus, opened.

    Raises:
        ValueError: the tokenizer has no end-of-document token, there are no documents, a split is unknown, or the
            folder holds other files.
    """
    encoder = Encoder.of(tokenizer)
    facts = describe_tokenizer(tokenizer) | {"seed": seed, "bos_token_id": first_token(tokenizer, bos)}
    if documents.empty:
        raise ValueError("documents must hold at least one document")
    unknown = sorted(set(documents["split"]) - set(SPLITS))
    if unknown:
        raise ValueError(f"documents has the splits {unknown}; allowed are {list(SPLITS)}")
    shards = shards_folder(folder)
    shutil.rmtree(shards, ignore_errors=True)
    sources = dict.fromkeys(documents["source"])
    for number, source in enumerate(sources):
        writer = ShardWriter(shards, number)
        rows = documents[documents["source"] == source]
        for text, split, ids in zip(rows["text"], rows["split"], encoder.encode(rows["text"].tolist()), strict=True):
            writer.add((text_digest(text, seed), near_digest(text)), split, ids)
        writer.flush(SourceState(finished=True))
    return pack(shards, sources, folder, facts, progress=progress)
