"""Tokenised text in one memory-mapped file: written once, read by position."""

import hashlib
import json
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from budwood.corpus.shards import ShardWriter, SourceState, merge
from budwood.corpus.split import SPLITS, text_digest
from budwood.corpus.tokenization import Encoder, describe_tokenizer
from budwood.records.files import write_atomically

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

TOKENS_FILE = "tokens.bin"
INDEX_FILE = "index.json"

_BATCH_DOCUMENTS = 64


@dataclass(frozen=True, slots=True, kw_only=True)
class Segment:
    """The tokens of one source in one split: `tokens[start:stop]`."""

    split: str
    source: str
    start: int
    stop: int
    documents: int

    @property
    def num_tokens(self) -> int:
        """Tokens of the segment, end-of-document tokens included."""
        return self.stop - self.start

    def num_windows(self, length: int) -> int:
        """Windows of `length` inputs that still have a target for their last input."""
        return max(0, self.num_tokens - 1) // length


@dataclass(frozen=True, eq=False, kw_only=True)
class PackedCorpus:
    """A folder of tokens, opened."""

    directory: Path
    segments: tuple[Segment, ...]
    tokens: NDArray[np.unsignedinteger[Any]]
    """[num_tokens], memory-mapped, `uint16` or `uint32`."""
    vocab_size: int
    eos_token_id: int
    seed: int
    tokenizer_fingerprint: str
    fingerprint: str
    """SHA-256 over the token bytes and the facts of the index; equal corpora have equal ones."""
    weights: Mapping[str, float] = field(default_factory=dict)
    """Share of each source in a mixture, relative to the others; without any, sources count by their size."""

    @classmethod
    def open(cls, directory: Path) -> Self:
        """Open a folder that `pack` wrote.

        Args:
            directory: The folder with `tokens.bin` and `index.json`.

        Returns:
            The corpus; its tokens stay on disk until they are read.

        Raises:
            ValueError: the token file does not have the size that the index states.
        """
        index = json.loads((directory / INDEX_FILE).read_text(encoding="utf-8"))
        segments = tuple(
            Segment(split=split, source=source, **facts)
            for split, sources in index["segments"].items()
            for source, facts in sources.items()
        )
        dtype = np.dtype(index["dtype"])
        tokens_path = directory / TOKENS_FILE
        expected_bytes = segments[-1].stop * dtype.itemsize
        actual_bytes = tokens_path.stat().st_size
        if actual_bytes != expected_bytes:
            raise ValueError(f"{tokens_path} has {actual_bytes} bytes, its index states {expected_bytes}: pack it anew")
        return cls(
            directory=directory,
            segments=segments,
            tokens=np.memmap(tokens_path, dtype=dtype, mode="r"),
            vocab_size=index["vocab_size"],
            eos_token_id=index["eos_token_id"],
            seed=index["seed"],
            tokenizer_fingerprint=index["tokenizer_fingerprint"],
            fingerprint=index["fingerprint"],
            weights=index.get("weights", {}),
        )

    def counts(self) -> pd.DataFrame:
        """Count what each source gives to each split.

        Returns:
            One row per segment: `split`, `source`, `documents`, `tokens`.
        """
        rows = [(part.split, part.source, part.documents, part.num_tokens) for part in self.segments]
        return pd.DataFrame(rows, columns=["split", "source", "documents", "tokens"])

    def sources(self, split: str) -> list[str]:
        """Return the sources that a split has; none where there is no such split."""
        return [part.source for part in self.segments if part.split == split]

    def num_tokens(self, split: str, source: str | None = None) -> int:
        """Count the tokens of a split, of all its sources or of one.

        Raises:
            ValueError: the corpus has no such split, or no such source in it.
        """
        return sum(part.num_tokens for part in self._select(split, source))

    def windows(
        self, split: str, length: int, *, source: str | None = None, limit: int | None = None
    ) -> NDArray[np.int64]:
        """Cut consecutive windows with one token more than `length`, so that each of their inputs has a target.

        Args and errors as `window_starts`.

        Returns:
            [num_windows, length + 1]: inputs are `[:, :-1]`, targets `[:, 1:]`.
        """
        starts = self.window_starts(split, length, source=source, limit=limit)
        return self.read(starts[:, None] + np.arange(length + 1))

    def read(self, positions: NDArray[np.integer[Any]]) -> NDArray[np.int64]:
        """Return the token ids at some positions, in the shape of `positions`."""
        ids: NDArray[np.int64] = self.tokens[positions].astype(np.int64)
        return ids

    def window_starts(
        self, split: str, length: int, *, source: str | None = None, limit: int | None = None
    ) -> NDArray[np.int64]:
        """Return where the windows of a split begin in the token file.

        The stride is `length`: the last token of a window is the first of the next. No window crosses sources. Without
        `source`, the sources take turns while they last, in proportion to their weights, so that a `limit` keeps the
        mixture. The training split has as many windows with weights as without: a source whose share is larger than
        its text is read again, of one whose share is smaller the rest is left out.

        Args:
            split: Name of the split.
            length: Inputs per window, in tokens.
            source: Take this source only.
            limit: Take the first `limit` windows; all without it.

        Returns:
            [num_windows] positions.

        Raises:
            ValueError: there are fewer windows than `limit`, or none, or none of a weighted source of the training
                split; the split or source is unknown; `length` or `limit` is not positive.
        """
        if length < 1 or (limit is not None and limit < 1):
            raise ValueError(f"length and limit must be at least 1, got length={length}, limit={limit}")
        segments = self._select(split, source)
        present = np.array([part.num_windows(length) for part in segments])
        weights = np.array([self.weights.get(part.source, 1.0) for part in segments])
        mixed = split == "train" and source is None and self.weights
        taken = _mixture(present, weights, [part.source for part in segments]) if mixed else present
        if taken.sum() < (limit or 1):
            raise ValueError(
                f"split {split!r} has {taken.sum()} windows of length={length} "
                f"({self.num_tokens(split, source)} tokens, source={source!r}), asked for {limit or 'all of them'}"
            )
        turns = np.concatenate([np.arange(count) for count in taken])
        order = np.argsort((turns + 1) / np.repeat(weights, taken), kind="stable")[:limit]
        origins = np.repeat([part.start for part in segments], taken)
        starts: NDArray[np.int64] = (origins + turns % np.repeat(present, taken) * length)[order]
        return starts

    def _select(self, split: str, source: str | None) -> list[Segment]:
        """The segments of a split, or the one of a source in it."""
        inside = [part for part in self.segments if part.split == split]
        if not inside:
            present = list(dict.fromkeys(part.split for part in self.segments))
            raise ValueError(f"split={split!r} is not in the corpus, which has {present}")
        chosen = [part for part in inside if source in (None, part.source)]
        if not chosen:
            raise ValueError(f"source={source!r} is not in split {split!r}, which has {[s.source for s in inside]}")
        return chosen


def _mixture(present: NDArray[np.int64], weights: NDArray[np.float64], sources: list[str]) -> NDArray[np.int64]:
    """Windows of each source that make a mixture by weight as large as one by size."""
    for source, count in zip(sources, present, strict=True):
        if not count:
            raise ValueError(f"source {source!r} has a weight but no window in the training split; it needs more text")
    taken: NDArray[np.int64] = np.maximum(1, np.rint(present.sum() * weights / weights.sum())).astype(np.int64)
    return taken


def tokenize_and_pack(
    documents: pd.DataFrame,
    tokenizer: "PreTrainedTokenizerBase",
    *,
    seed: int,
    directory: Path,
    progress: bool = True,
) -> PackedCorpus:
    """Pack texts that are in memory and divided into splits already; `budwood.corpus.ingestion` reads sources.

    Args:
        documents: The columns `source`, `split` and `text`; a text that occurs again is dropped.
        tokenizer: Its `eos_token_id` ends a document; special tokens are not added otherwise.
        seed: Seed of the order of the documents.
        directory: The folder to write; a corpus that is there is replaced.
        progress: Whether to show a progress bar.

    Returns:
        The corpus, opened.

    Raises:
        ValueError: the tokenizer has no end-of-document token, there are no documents, a split is unknown, or the
            folder holds other files.
    """
    encoder = Encoder.of(tokenizer)
    facts = describe_tokenizer(tokenizer) | {"seed": seed}
    if documents.empty:
        raise ValueError("documents must hold at least one document")
    unknown = sorted(set(documents["split"]) - set(SPLITS))
    if unknown:
        raise ValueError(f"documents has the splits {unknown}; allowed are {list(SPLITS)}")
    shards = shards_folder(directory)
    shutil.rmtree(shards, ignore_errors=True)
    sources = dict.fromkeys(documents["source"])
    for number, source in enumerate(sources):
        writer = ShardWriter(shards, number)
        rows = documents[documents["source"] == source]
        for first in range(0, len(rows), _BATCH_DOCUMENTS):
            batch = rows.iloc[first : first + _BATCH_DOCUMENTS]
            tokens = encoder.encode(batch["text"].tolist())
            for text, split, ids in zip(batch["text"], batch["split"], tokens, strict=True):
                writer.add(text_digest(text, seed), split, ids)
        writer.flush(SourceState(finished=True))
    return pack(shards, sources, directory, facts, progress=progress)


def shards_folder(directory: Path) -> Path:
    """Return where the shards of a corpus stand until it is packed, which only a folder of a corpus may have.

    Raises:
        ValueError: the folder of the corpus holds other files.
    """
    if directory.exists() and {path.name for path in directory.iterdir()} - {TOKENS_FILE, INDEX_FILE}:
        raise ValueError(f"directory={directory} holds files that are no packed corpus; name another one")
    return directory.with_name(f"{directory.name}.shards")


def pack(
    shards: Path, sources: Mapping[str, float | None], directory: Path, facts: Mapping[str, Any], *, progress: bool
) -> PackedCorpus:
    """Make one corpus of all shards (see `budwood.corpus.shards.merge`), which are deleted.

    A kill leaves the shards, and the folder as it was before or none.

    Args:
        shards: Folder of the shards.
        sources: Weight of each source, by name, in the order of their numbers.
        directory: The folder to write; a corpus that is there is replaced.
        facts: What the index tells besides: of the tokenizer (`describe_tokenizer`), the seed, and `origin`, which is
            kept out of the fingerprint.
        progress: Whether to show a progress bar.

    Returns:
        The corpus, opened.
    """
    partial = directory.with_name(f"{directory.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    counts = merge(shards, len(sources), partial / TOKENS_FILE, np.dtype(facts["dtype"]), progress=progress)
    with (partial / TOKENS_FILE).open("rb") as file:
        tokens_sha256 = hashlib.file_digest(file, "sha256").hexdigest()
    segments = _segments(counts, list(sources))
    write_index(partial, {**facts, "segments": segments, "tokens_sha256": tokens_sha256}, sources)
    if directory.exists():
        # Without its index a half-deleted corpus cannot be taken for a whole one.
        (directory / INDEX_FILE).unlink(missing_ok=True)
        shutil.rmtree(directory)
    partial.replace(directory)
    shutil.rmtree(shards)
    return PackedCorpus.open(directory)


def _segments(counts: NDArray[np.int64], sources: Sequence[str]) -> dict[str, dict[str, dict[str, int]]]:
    """Begin, end and documents of each part of the file that is not empty, by split and source."""
    segments: dict[str, dict[str, dict[str, int]]] = {}
    stop = 0
    for split, by_source in zip(SPLITS, counts.tolist(), strict=True):
        for source, (num_tokens, documents) in zip(sources, by_source, strict=True):
            start, stop = stop, stop + num_tokens
            if documents:
                segments.setdefault(split, {})[source] = {"start": start, "stop": stop, "documents": documents}
    return segments


def write_index(directory: Path, facts: Mapping[str, Any], sources: Mapping[str, float | None]) -> None:
    """Write or replace the index of a corpus: its facts, the weights of its sources, and the fingerprint of both."""
    weights = {source: weight for source, weight in sources.items() if weight is not None}
    origin = facts.get("origin", {})
    content = {name: value for name, value in facts.items() if name not in {"origin", "fingerprint"}}
    content |= {"weights": weights}
    fingerprint = hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()
    index = {**content, "fingerprint": fingerprint, "origin": origin}
    write_atomically(directory / INDEX_FILE, json.dumps(index, indent=2))
