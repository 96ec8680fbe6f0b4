"""Tokenised text in one memory-mapped file: written once, read by position."""

import hashlib
import json
import shutil
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from budwood.corpus.shards import Merged, merge
from budwood.corpus.split import SPLITS
from budwood.records.files import write_atomically, write_folder_atomically
from budwood.records.hashes import MEMORY, hash_file, hash_files

TOKENS_FILE = "tokens.bin"
INDEX_FILE = "index.json"

OMITTED = "omitted"
"""In a table of counts, the split of documents that are in none."""
_OUTSIDE_FINGERPRINT = {"origin", "omitted", "fingerprint"}


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

    folder: Path
    segments: tuple[Segment, ...]
    tokens: NDArray[np.unsignedinteger[Any]]
    """[num_tokens], memory-mapped, `uint16` or `uint32`."""
    tokens_sha256: str
    vocab_size: int
    """All token ids are below it."""
    eos_token_id: int
    """Ends every document."""
    bos_token_id: int | None
    """Begins every window, if the tokenizer or the settings want one; it is not in the file."""
    seed: int
    tokenizer_fingerprint: str
    fingerprint: str
    """SHA-256 over the token bytes and the facts of the index; equal corpora have equal ones."""
    weights: Mapping[str, float] = field(default_factory=dict)
    """Share of each source in a mixture, relative to the others; without any, sources count by their size."""
    omitted: Mapping[str, int] = field(default_factory=dict)
    """What was left out: `skipped_rows`, `empty_rows`, and `equal_documents`, `near_documents` (see
    `budwood.corpus.shards.Merged`)."""

    @classmethod
    def open(cls, folder: Path) -> Self:
        """Open a folder that `pack` wrote.

        Tokens are hashed unless they were before and their file was not touched since.

        Returns:
            The corpus; its tokens stay on disk until they are read.

        Raises:
            ValueError: a file is missing or damaged.
        """
        index = read_index(folder)
        try:
            segments = tuple(
                Segment(split=split, source=source, **facts)
                for split, sources in index["segments"].items()
                for source, facts in sources.items()
            )
            names = cls.__dataclass_fields__.keys() - {"folder", "segments", "tokens"}
            facts = {name: index[name] for name in names}
            tokens = np.memmap(folder / TOKENS_FILE, np.dtype(index["dtype"]), "r")
        except (OSError, ValueError, TypeError, KeyError, AttributeError) as error:
            raise ValueError(_damaged(folder, TOKENS_FILE, f"does not fit its {INDEX_FILE} ({error})")) from error
        if len(tokens) != segments[-1].stop:
            reason = f"has {len(tokens):,} tokens, its {INDEX_FILE} has {segments[-1].stop:,}"
            raise ValueError(_damaged(folder, TOKENS_FILE, reason))
        if hash_files({TOKENS_FILE: folder / TOKENS_FILE}, folder / MEMORY)[TOKENS_FILE] != index["tokens_sha256"]:
            raise ValueError(_damaged(folder, TOKENS_FILE, "is not what was packed"))
        return cls(folder=folder, segments=segments, tokens=tokens, **facts)

    def counts(self) -> pd.DataFrame:
        """Count what each source gives to each split.

        Returns:
            One row per segment: `split`, `source`, `documents`, `tokens`.
        """
        rows = [(part.split, part.source, part.documents, part.num_tokens) for part in self.segments]
        return pd.DataFrame(rows, columns=["split", "source", "documents", "tokens"])

    def all_counts(self) -> pd.DataFrame:
        """Count what there is and what was left out.

        Returns:
            The rows of `counts`, then one per reason in `omitted`: its split is `OMITTED`, its source the reason, and
            it has no tokens.
        """
        left_out = pd.DataFrame(
            {"split": OMITTED, "source": list(self.omitted), "documents": list(self.omitted.values())}
        )
        return pd.concat([self.counts(), left_out], ignore_index=True).astype({"tokens": "Int64"})

    def sources(self, split: str) -> list[str]:
        """Return the sources that a split has; none where there is no such split."""
        return [part.source for part in self.segments if part.split == split]

    def num_tokens(self, split: str, source: str | Collection[str] | None = None) -> int:
        """Count the tokens of a split, of all its sources or of one.

        Raises:
            ValueError: the corpus has no such split, or no such source in it.
        """
        return sum(part.num_tokens for part in self._select(split, source))

    def windows(
        self, split: str, length: int, *, source: str | None = None, limit: int | None = None
    ) -> NDArray[np.int64]:
        """Cut consecutive windows with one token more than `length`, so that each of their inputs has a target.

        Args and errors as `window_starts`; ids as `read`.

        Returns:
            [num_windows, length + 1]: inputs are `[:, :-1]`, targets `[:, 1:]`.
        """
        return self.read(self.window_starts(split, length, source=source, limit=limit), length)

    def read(self, starts: NDArray[np.integer[Any]], length: int) -> NDArray[np.int64]:
        """Return the windows that begin at some positions of the token file.

        Where sequences begin with a token of their own (`bos_token_id`), it replaces the first token of a window, which
        is no target of that window but the last one of the window before. So the same tokens are predicted with it and
        without it, each once, and it is never predicted itself.

        Args:
            starts: [...] positions.
            length: Inputs per window, in tokens.

        Returns:
            [..., length + 1] token ids.
        """
        ids = self.read_packed(starts, length)
        if self.bos_token_id is not None:
            ids[..., 0] = self.bos_token_id
        return ids

    def read_packed(self, starts: NDArray[np.integer[Any]], length: int) -> NDArray[np.int64]:
        """Return the windows of `read` as they are in the file: the first token is the one before the targets."""
        positions = np.asarray(starts)[..., None] + np.arange(length + 1)
        ids: NDArray[np.int64] = self.tokens[positions].astype(np.int64)
        return ids

    def text(self, split: str, source: str) -> NDArray[np.unsignedinteger[Any]]:
        """Return [num_tokens] all tokens of a source in a split, documents one after the other, on disk.

        Raises:
            ValueError: the corpus has no such split, or no such source in it.
        """
        (segment,) = self._select(split, source)
        return self.tokens[segment.start : segment.stop]

    def heldout_starts(self, length: int, limit: int) -> NDArray[np.int64]:
        """Return where validation windows begin, of those sources that are trained on, which take turns.

        What training learns shows there. Other sources have validation text to be reported beside.

        Raises:
            ValueError: there are fewer windows than `limit`.
        """
        return self.window_starts("validation", length, source=self.sources("train"), limit=limit)

    def window_starts(
        self, split: str, length: int, *, source: str | Collection[str] | None = None, limit: int | None = None
    ) -> NDArray[np.int64]:
        """Return where the windows of a split begin in the token file.

        The stride is `length`: the last token of a window is the first of the next. No window crosses sources. Without
        `source`, the sources take turns while they last, in proportion to their weights, so that a `limit` keeps the
        mixture. The training split has as many windows with weights as without: a source whose share is larger than
        its text is read again, of one whose share is smaller the rest is left out.

        Args:
            split: Name of the split.
            length: Inputs per window, in tokens.
            source: Take this source, or these, only.
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
            of, wanted = "" if source is None else f" of {source}", limit or "all of them"
            raise ValueError(
                f"split {split!r} has {taken.sum()} windows of length={length} ({self.num_tokens(split, source):,} "
                f"tokens{of}), asked for {wanted}; add text, raise the share of the split, or ask for fewer"
            )
        turns = np.concatenate([np.arange(count) for count in taken])
        order = np.argsort((turns + 1) / np.repeat(weights, taken), kind="stable")[:limit]
        origins = np.repeat([part.start for part in segments], taken)
        starts: NDArray[np.int64] = (origins + turns % np.repeat(present, taken) * length)[order]
        return starts

    def _select(self, split: str, source: str | Collection[str] | None) -> list[Segment]:
        """The segments of a split, or those of some sources in it."""
        inside = [part for part in self.segments if part.split == split]
        if not inside:
            present = list(dict.fromkeys(part.split for part in self.segments))
            raise ValueError(
                f"no document is in split={split!r}, only in {present}; add documents, or raise the share of the split"
            )
        names = [source] if isinstance(source, str) else source
        chosen = [part for part in inside if names is None or part.source in names]
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


def shards_folder(folder: Path) -> Path:
    """Return where the shards of a corpus are until it is packed, which only a folder of a corpus may have.

    Raises:
        ValueError: the folder of the corpus has other files.
    """
    present = {path.name.removesuffix(".partial") for path in folder.iterdir()} if folder.exists() else set()
    if present - {TOKENS_FILE, INDEX_FILE, MEMORY}:
        raise ValueError(f"folder={folder} has files that are no packed corpus; name another one")
    return folder.with_name(f"{folder.name}.shards")


def pack(
    shards: Path, sources: Mapping[str, float | None], folder: Path, facts: Mapping[str, Any], *, progress: bool
) -> PackedCorpus:
    """Make one corpus of all shards (see `budwood.corpus.shards.merge`), which are deleted.

    A kill leaves the shards, and the folder as it was before or none.

    Args:
        shards: Folder of the shards.
        sources: Weight of each source, by name, in the order of their numbers.
        folder: The folder to write; a corpus that is there is replaced.
        facts: What else the index says: of the tokenizer (`describe_tokenizer`), the seed, `bos_token_id`, and
            `origin` and `omitted`, which are kept out of the fingerprint.
        progress: Whether to show a progress bar.

    Returns:
        The corpus, opened.
    """
    with write_folder_atomically(folder) as partial:
        merged = merge(shards, len(sources), partial / TOKENS_FILE, np.dtype(facts["dtype"]), progress=progress)
        omitted = {**facts.get("omitted", {}), "equal_documents": merged.equal, "near_documents": merged.near}
        found = {"segments": _segments(merged, list(sources)), "tokens_sha256": hash_file(partial / TOKENS_FILE)}
        write_index(partial, {**facts, **found, "omitted": omitted}, sources)
    shutil.rmtree(shards)
    return PackedCorpus.open(folder)


def _segments(merged: Merged, sources: Sequence[str]) -> dict[str, dict[str, dict[str, int]]]:
    """Begin, end and documents of each part of the file that is not empty, by split and source."""
    segments: dict[str, dict[str, dict[str, int]]] = {}
    stop = 0
    for split, by_source in zip(SPLITS, merged.counts.tolist(), strict=True):
        for source, (num_tokens, documents) in zip(sources, by_source, strict=True):
            start, stop = stop, stop + num_tokens
            if documents:
                segments.setdefault(split, {})[source] = {"start": start, "stop": stop, "documents": documents}
    return segments


def write_index(folder: Path, facts: Mapping[str, Any], sources: Mapping[str, float | None]) -> None:
    """Write or replace the index of a corpus: its facts, the weights of its sources, and the fingerprint of both."""
    weights = {source: weight for source, weight in sources.items() if weight is not None}
    index = {**facts, "weights": weights}
    write_atomically(folder / INDEX_FILE, json.dumps(index | {"fingerprint": _fingerprint(index)}, indent=2))


def read_index(folder: Path) -> dict[str, Any]:
    """Read the index of a corpus.

    Raises:
        ValueError: it is missing or damaged.
    """
    try:
        index = json.loads((folder / INDEX_FILE).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ValueError(_damaged(folder, INDEX_FILE, f"cannot be read ({error})")) from error
    if not isinstance(index, dict) or index.get("fingerprint") != _fingerprint(index):
        raise ValueError(_damaged(folder, INDEX_FILE, "is not what was packed"))
    return index


def _fingerprint(index: Mapping[str, Any]) -> str:
    content = {name: value for name, value in index.items() if name not in _OUTSIDE_FINGERPRINT}
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def _damaged(folder: Path, file: str, reason: str) -> str:
    return f"{(folder / file).absolute()} {reason}: remove {folder.absolute()} to pack the text again"
