"""Tokenised documents on disk before they are one corpus: written in portions, merged in the order of their digests.

A shard has as many tokens as fit into a fixed amount of memory, its documents sorted by digest. Merging takes a range
of digests from all shards at a time. So neither step has more than a shard in memory, however large the corpus is, and
equal texts meet, whichever source they come from.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from budwood.corpus.split import SPLITS
from budwood.corpus.tokenization import Tokens
from budwood.records.files import read_json, write_folder_atomically, write_json
from budwood.records.seal import seal

SHARD_BYTES = 2**26
"""Tokens in memory at a time, with Python's own overhead for each document."""

_DOCUMENT_BYTES = 256

_DOCUMENT = np.dtype([("digest", "u8"), ("near", "u8"), ("start", "u8"), ("length", "u4"), ("split", "u1")])
_IDENTITY_BYTES = 64
"""Memory for each document while near-duplicates are looked for: 18 bytes of it, sorted."""
_DIGESTS = 2**64
_TOKENS, _DOCUMENTS, _STATE = "tokens.bin", "documents.bin", "state.json"


@dataclass(frozen=True, slots=True, kw_only=True)
class SourceState:
    """How far a source has been tokenised."""

    position: Any = None
    """Where reading continues (`budwood.corpus.documents.SourceReader`)."""
    origin: str = ""
    """Fingerprint of what was read until there."""
    documents: int = 0
    characters: int = 0
    tokens: Mapping[str, int] = field(default_factory=dict)
    """Tokens of each split, equal texts counted each time."""
    skipped: int = 0
    """Rows that could not be used."""
    empty: int = 0
    """Rows without text."""
    faults: Sequence[str] = ()
    """The first of them, with the reason."""
    finished: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Merged:
    """What became of the documents of all shards."""

    counts: NDArray[np.int64]
    """[splits, sources, 2]: tokens and documents of every segment of the file."""
    equal: int
    """Documents that were dropped because another one has the same text."""
    near: int
    """Documents that were dropped because a similar one is in another split (`budwood.corpus.split.normalise`)."""


class ShardWriter:
    """Collects the documents of one source and writes them in shards, each of which exists whole or not at all."""

    def __init__(self, folder: Path, source: int) -> None:
        """Begin after the shards that are there."""
        self._folder, self._source = folder, source
        self._number = len(source_shards(folder, source))
        self._documents: list[tuple[int, int, int, int, int]] = []
        self._tokens: list[Tokens] = []
        self.size = 0
        """Bytes that are not written yet, as `SHARD_BYTES` counts them."""

    def add(self, digests: tuple[int, int], split: str, tokens: Tokens) -> None:
        """Add a document by the digests of its text and of its normalised text."""
        self._documents.append((*digests, 0, len(tokens), SPLITS.index(split)))
        self._tokens.append(tokens)
        self.size += tokens.nbytes + _DOCUMENT_BYTES

    @property
    def full(self) -> bool:
        """Whether it is time for `flush`."""
        return self.size >= SHARD_BYTES

    def flush(self, state: SourceState) -> None:
        """Write what was added since the last time, and with it the state of the source."""
        documents = np.array(self._documents, dtype=_DOCUMENT)
        order = np.argsort(documents["digest"], kind="stable")
        documents = documents[order]
        documents["start"] = np.cumsum(documents["length"]) - documents["length"]
        with write_folder_atomically(self._folder / f"{self._source:04}-{self._number:06}") as shard:
            with (shard / _TOKENS).open("wb") as file:
                for index in order:
                    file.write(self._tokens[index].tobytes())
            documents.tofile(shard / _DOCUMENTS)
            write_json(shard / _STATE, asdict(state))
            seal(shard)
        self._number += 1
        self._documents, self._tokens, self.size = [], [], 0


def source_shards(folder: Path, source: int) -> list[Path]:
    """Return the shards of a source in the order in which they were written."""
    return [path for path in sorted(folder.glob(f"{source:04}-*")) if path.suffix != ".partial"]


def read_state(shard: Path) -> SourceState:
    """Return the state of the source when a shard was written."""
    return SourceState(**read_json(shard / _STATE))


def merge(folder: Path, num_sources: int, target: Path, dtype: np.dtype[Any], *, progress: bool) -> Merged:
    """Write the tokens of all shards as one file: every text once, and no near-duplicates in different splits.

    Of equal texts that of the first source stays. Of texts that only differ in case, spacing or punctuation those stay
    that are in the split of the first source's first one by digest. The file is ordered by split, then by source, then
    by digest: a random order that depends on the texts and the seed alone.

    Args:
        folder: Has the shards.
        num_sources: Sources that they come from, numbered from 0.
        target: The file to write.
        dtype: Of the tokens.
        progress: Whether to show a progress bar.
    """
    shards = sorted(path for path in folder.iterdir() if (path / _STATE).is_file() and path.suffix != ".partial")
    num_documents = sum((shard / _DOCUMENTS).stat().st_size for shard in shards) // _DOCUMENT.itemsize
    num_bytes = sum((shard / _TOKENS).stat().st_size for shard in shards) + num_documents * _DOCUMENT_BYTES
    near = np.concatenate(list(_near_duplicates(shards, max(1, -(-num_documents * _IDENTITY_BYTES // SHARD_BYTES)))))
    ranges = _Ranges(shards, num_sources, _edges(max(1, -(-num_bytes // SHARD_BYTES))), dtype, near)
    counts = np.zeros((len(ranges), len(SPLITS) * num_sources, 2), dtype=np.int64)
    for number in range(len(ranges)):
        documents, _, segments = ranges.read(number)
        np.add.at(counts[number], segments, np.stack([documents["length"], np.ones_like(documents["length"])], axis=1))
    # A segment's part of every range has its place before anything is written: [segments, ranges].
    sizes = counts[..., 0].T
    starts = (np.cumsum(sizes) - sizes.ravel()).reshape(sizes.shape)
    bar = tqdm(total=int(sizes.sum()), desc="Shuffle", unit="tokens", unit_scale=True, disable=not progress)
    with bar, target.open("wb") as file:
        for number in range(len(ranges)):
            for segment, tokens in ranges.segments(number):
                file.seek(int(starts[segment, number]) * dtype.itemsize)
                file.write(tokens.tobytes())
                bar.update(len(tokens))
    totals: NDArray[np.int64] = counts.sum(axis=0).reshape(len(SPLITS), num_sources, 2)
    equal = num_documents - int(totals[..., 1].sum()) - len(near)
    return Merged(counts=totals, equal=equal, near=len(near))


def _source_of(shard: Path) -> int:
    return int(shard.name.partition("-")[0])


def _edges(number: int) -> NDArray[np.uint64]:
    """Where a number of equal ranges of digests begin."""
    return np.array([part * _DIGESTS // number for part in range(number)], dtype=np.uint64)


def _near_duplicates(shards: Sequence[Path], passes: int) -> Iterator[NDArray[np.uint64]]:
    """The digests of documents that have a near-duplicate in another split which stays, a range of them at a time."""
    edges = _edges(passes)
    for number in range(passes):
        parts = []
        for shard in shards:
            documents = np.fromfile(shard / _DOCUMENTS, _DOCUMENT)
            inside = documents[np.searchsorted(edges, documents["near"], side="right") == number + 1]
            parts.append(inside[["digest", "near", "split"]])
        found = np.concatenate(parts)
        # Shards are in the order of their sources, and so are equal texts: the first of each stays.
        sources = np.repeat([_source_of(shard) for shard in shards], [len(part) for part in parts])
        _, first = np.unique(found["digest"], return_index=True)
        found, sources = found[first], sources[first]
        found = found[np.lexsort((found["digest"], sources, found["near"]))]
        _, begin, group = np.unique(found["near"], return_index=True, return_inverse=True)
        yield found["digest"][found["split"] != found["split"][begin][group]]


class _Ranges:
    """All shards, cut at the same digests; no file stays open, there may be thousands."""

    def __init__(
        self,
        shards: Sequence[Path],
        num_sources: int,
        edges: NDArray[np.uint64],
        dtype: np.dtype[Any],
        left_out: NDArray[np.uint64],
    ) -> None:
        self._shards, self._num_sources, self._number, self._dtype = shards, num_sources, len(edges), dtype
        self._left_out = left_out
        self._sources = np.array([_source_of(shard) for shard in shards], dtype=np.int64)
        self._cuts = [self._cut(shard, edges) for shard in shards]

    def _cut(self, shard: Path, edges: NDArray[np.uint64]) -> NDArray[np.intp]:
        documents = np.fromfile(shard / _DOCUMENTS, _DOCUMENT)
        if (shard / _TOKENS).stat().st_size != documents["length"].sum() * self._dtype.itemsize:
            raise ValueError(f"{shard} is damaged (a power failure?): delete {shard.parent} and run again")
        return np.append(np.searchsorted(documents["digest"], edges), len(documents))

    def __len__(self) -> int:
        return self._number

    def _parts(self, number: int) -> list[NDArray[np.void]]:
        """The documents of a range in every shard."""
        spans = [(cuts[number], cuts[number + 1] - cuts[number]) for cuts in self._cuts]
        return [
            np.fromfile(shard / _DOCUMENTS, _DOCUMENT, count, offset=first * _DOCUMENT.itemsize)
            for shard, (first, count) in zip(self._shards, spans, strict=True)
        ]

    def read(self, number: int) -> tuple[NDArray[np.void], NDArray[np.intp], NDArray[np.int64]]:
        """The documents of a range by digest, the shard of each, and the segment of each."""
        parts = self._parts(number)
        documents = np.concatenate(parts)
        owners = np.repeat(np.arange(len(parts)), [len(part) for part in parts])
        # The first of equal ones: shards are in the order of their sources.
        _, first = np.unique(documents["digest"], return_index=True)
        first = first[~np.isin(documents["digest"][first], self._left_out)]
        documents, owners = documents[first], owners[first]
        return documents, owners, documents["split"].astype(np.int64) * self._num_sources + self._sources[owners]

    def segments(self, number: int) -> Iterator[tuple[int, Tokens]]:
        """The tokens of a range, by segment."""
        parts = self._parts(number)
        origins = np.array([part["start"][0] if part.size else 0 for part in parts], dtype=np.int64)
        tokens = [
            np.fromfile(shard / _TOKENS, self._dtype, part["length"].sum(), offset=origin * self._dtype.itemsize)
            for shard, part, origin in zip(self._shards, parts, origins.tolist(), strict=True)
        ]
        documents, owners, segments = self.read(number)
        starts = documents["start"].astype(np.int64) - origins[owners]
        spans = np.stack([owners, starts, starts + documents["length"]], axis=1)
        for segment in np.unique(segments).tolist():
            chosen = spans[segments == segment].tolist()
            yield segment, np.concatenate([tokens[owner][start:stop] for owner, start, stop in chosen])
