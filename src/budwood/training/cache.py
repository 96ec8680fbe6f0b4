"""A teacher's cache: a few entries of its distribution for every token, memory-mapped beside the tokens.

A folder contains one file per column, with a row for every sequence. The top is stored as log-probabilities in float16
(logits less the log-sum-exp over the vocabulary: the likelier, the more exact) with the log of the remaining mass in
float32; draws as distinct ids with counts, whose number differs from token to token. Rows are appended; `progress.json`
gives the number of complete rows and the files' hashes up to there, so that a killed writer can continue; a finished
cache has an index and a seal (see `budwood.records.seal`).

Shape legend: B sequences, T tokens of a sequence, N = B T, S draws.
"""

import hashlib
import json
import logging
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Self

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import Field, ValidationError
from torch import Tensor
from tqdm import tqdm

from budwood.corpus.packing import PackedCorpus
from budwood.records.files import write_atomically
from budwood.records.seal import SEAL, damage, seal
from budwood.records.strict import Strict

logger = logging.getLogger(__name__)

CACHE_INDEX = "index.json"
PROGRESS = "progress.json"
STARTS = "starts.bin"
_START = np.dtype(np.int64)

Ask = Callable[[Tensor, Tensor], Mapping[str, Tensor]]
"""Takes [B, T] token ids and [B] starts; returns the entries of N tokens, as `budwood.training.teacher.Entries`."""


@dataclass(frozen=True, slots=True)
class Column:
    """One file of a cache."""

    name: str
    dtype: np.dtype[Any]
    items: int | None
    """Numbers of a row; nothing where rows differ, which begin at `offsets`."""

    @property
    def file(self) -> str:
        """Name of the file."""
        return f"{self.name}.bin"

    def num_bytes(self, rows: int, ragged_items: int) -> int:
        """Return the size of some complete rows."""
        return (ragged_items if self.items is None else rows * self.items) * self.dtype.itemsize


class CacheShape(Strict):
    """What decides how many bytes a sequence takes."""

    sequence_length: int
    """Tokens predicted."""
    vocab_size: int
    entries: Literal["top_k", "sampled"]
    num_entries: int
    """Of a token, at most."""


class CacheFacts(CacheShape):
    """Everything that decides the content of a cache: the teacher, the text and the entries."""

    teacher: str
    """Fingerprint, as are the next two."""
    tokenizer: str
    corpus: str
    temperature: float
    seed: int | None
    """Of the draws."""
    num_dropped_ids: int = 0
    """Ids that the vocabulary lacks and the rest has."""


class CacheRecord(Strict):
    """What was written."""

    rows: int
    tokens: int
    bytes_per_token: float
    seconds: float


class _Index(Strict):
    facts: CacheFacts
    record: CacheRecord


class _Progress(Strict):
    """What of an unfinished cache is complete."""

    facts: CacheFacts
    starts: str
    """Their hash."""
    rows: int = 0
    ragged_items: int = 0
    """Numbers in the columns whose rows differ."""
    seconds: float = 0.0
    sha256: dict[str, str] = Field(default_factory=dict)
    """Of each file."""


def columns(facts: CacheShape) -> tuple[Column, ...]:
    """Return the files of a cache with some facts."""
    length, count = facts.sequence_length, facts.num_entries
    token = np.dtype(np.uint16 if facts.vocab_size <= np.iinfo(np.uint16).max + 1 else np.uint32)
    small, exact = np.dtype(np.uint8), np.dtype(np.float32)
    tokens = Column("tokens", token, length)
    if facts.entries == "top_k":
        half = np.dtype(np.float16)
        top = Column("ids", token, length * count), Column("log_probs", half, length * count)
        return tokens, *top, Column("log_rest", exact, length)
    ragged = Column("ids", token, None), Column("counts", small, None), Column("offsets", np.dtype(np.uint64), 1)
    return tokens, *ragged, Column("lengths", small, length), Column("mean_log_prob", exact, length)


def bytes_of_sequence(facts: CacheShape) -> int:
    """Return the bytes that a sequence takes in a cache with some facts; at most, where numbers of draws differ."""
    most = facts.sequence_length * facts.num_entries
    return sum(column.num_bytes(1, most) for column in columns(facts))


@dataclass(frozen=True, eq=False, kw_only=True)
class TeacherCache:
    """A finished cache, opened."""

    folder: Path
    facts: CacheFacts
    record: CacheRecord
    starts: NDArray[np.int64]
    """[rows] where the sequences begin in the token file, rising."""
    fingerprint: str
    """Of the facts and the sequences."""
    data: Mapping[str, NDArray[Any]]
    """Memory-mapped columns."""

    @classmethod
    def open(cls, folder: Path) -> Self:
        """Open a folder that `write_cache` has finished.

        Files are hashed unless they were before and have not been touched since.

        Raises:
            ValueError: there is no cache, or it is unfinished or damaged.
        """
        if not (folder / SEAL).is_file():
            state = "is unfinished: write it to its end" if (folder / PROGRESS).is_file() else "does not exist"
            raise ValueError(f"the teacher's cache {folder} {state}")
        if reason := damage(folder, remembered=True):
            raise _damaged(folder, reason)
        index = _Index.model_validate_json((folder / CACHE_INDEX).read_bytes())
        facts, starts = index.facts, np.fromfile(folder / STARTS, dtype=_START)
        decided = [facts.model_dump(mode="json"), _hash(starts.tobytes())]
        return cls(
            folder=folder,
            facts=facts,
            record=index.record,
            starts=starts,
            fingerprint=_hash(json.dumps(decided, sort_keys=True).encode())[:16],
            data={column.name: np.memmap(folder / column.file, column.dtype, "r") for column in columns(facts)},
        )

    def check(self, facts: CacheFacts, starts: NDArray[np.int64]) -> None:
        """Check that the cache is of some teacher, text and loss, and has some sequences.

        Raises:
            ValueError: it is of something else; the message names everything that differs.
        """
        different = [
            f"{name} is {getattr(self.facts, name)!r}, needed {value!r}"
            for name, value in facts
            if getattr(self.facts, name) != value
        ]
        if different:
            raise ValueError(f"the teacher's cache {self.folder} is of something else: {'; '.join(different)}")
        missing = len(np.setdiff1d(starts, self.starts))
        if missing:
            raise ValueError(
                f"the teacher's cache {self.folder} lacks {missing} of {len(np.unique(starts))} sequences: "
                "write it for the same schedule"
            )

    def read(self, starts: NDArray[np.int64], input_ids: NDArray[np.int64]) -> dict[str, Tensor]:
        """Return the entries of a batch, every tensor with its N tokens first.

        Args:
            starts: [B] where the sequences begin.
            input_ids: [B, T] their tokens, which are compared with those that the teacher read.

        Raises:
            ValueError: a sequence is not in the cache, or has other tokens there.
        """
        rows = np.searchsorted(self.starts, starts).clip(max=len(self.starts) - 1)
        known = (self.starts[rows] == starts) & (self._rows("tokens", rows) == input_ids).all(-1)
        if not known.all():
            raise ValueError(f"the teacher's cache {self.folder} has no such sequence at {starts[~known][0]}")
        if self.facts.entries == "top_k":
            count = self.facts.num_entries
            top = {name: self._rows(name, rows).reshape(-1, count) for name in ("ids", "log_probs")}
            entries = top | {"log_rest": self._rows("log_rest", rows).reshape(-1)}
        else:
            entries = self._draws(rows) | {"mean_log_prob": self._rows("mean_log_prob", rows).reshape(-1)}
        wide = {"ids": np.int64, "counts": np.int64}
        return {name: torch.from_numpy(part.astype(wide.get(name, part.dtype))) for name, part in entries.items()}

    def _rows(self, name: str, rows: NDArray[np.int64]) -> NDArray[Any]:
        return self.data[name].reshape(len(self.starts), -1)[rows]

    def _draws(self, rows: NDArray[np.int64]) -> dict[str, NDArray[Any]]:
        """Return [N, S] ids and counts; where a token has fewer distinct draws, the last ones count zero."""
        lengths = self._rows("lengths", rows)
        first = self._rows("offsets", rows)[:, 0].astype(np.int64)
        filled = np.arange(self.facts.num_entries) < lengths.reshape(-1, 1)
        drawn = {}
        for name in ("ids", "counts"):
            parts = [
                self.data[name][start : start + total]
                for start, total in zip(first, lengths.sum(-1, dtype=np.int64), strict=True)
            ]
            drawn[name] = np.zeros(filled.shape, dtype=np.int64)
            drawn[name][filled] = np.concatenate(parts)
        return drawn


def write_cache(
    folder: Path, ask: Ask, corpus: PackedCorpus, starts: NDArray[np.int64], facts: CacheFacts, batch_size: int
) -> TeacherCache:
    """Write a teacher's entries for some sequences; continue where an earlier process was killed.

    What an earlier process has written is read and compared with its hashes.

    Args:
        folder: belongs to this cache alone.
        ask: the teacher.
        corpus: contains the sequences.
        starts: where they begin; the teacher reads repeated ones once.
        facts: see `budwood.training.teacher.cache_facts`.
        batch_size: sequences of one forward pass.

    Raises:
        ValueError: the folder contains another cache, or a damaged one.
    """
    starts = np.unique(starts)
    if (folder / SEAL).is_file():
        cache = TeacherCache.open(folder)
        cache.check(facts, starts)
        if reason := damage(folder):
            raise _damaged(folder, reason)
        return cache
    folder.mkdir(parents=True, exist_ok=True)
    writer = _Writer(folder, facts, starts)
    bar = tqdm(total=len(starts), initial=writer.rows, desc="Cache the teacher", unit="seq", dynamic_ncols=True)
    with bar:
        while writer.rows < len(starts):
            batch = starts[writer.rows : writer.rows + batch_size]
            input_ids = corpus.read(batch, facts.sequence_length)[:, :-1]
            entries = ask(torch.from_numpy(input_ids), torch.from_numpy(batch))
            writer.append(input_ids, {name: part.cpu().numpy() for name, part in entries.items()})
            bar.update(len(batch))
    writer.finish()
    return TeacherCache.open(folder)


class _Writer:
    """Appends rows to the files of a cache, and keeps its progress."""

    def __init__(self, folder: Path, facts: CacheFacts, starts: NDArray[np.int64]) -> None:
        """Begin, or continue after the last complete row of a killed writer."""
        self.folder, self.starts, self.columns = folder, starts.astype(_START), columns(facts)
        self.facts, file = facts, folder / PROGRESS
        self.fresh = _Progress(facts=facts, starts=_hash(self.starts.tobytes()))
        try:
            found = _Progress.model_validate_json(file.read_bytes()) if file.is_file() else self.fresh
        except ValidationError as error:
            raise _damaged(folder, f"{PROGRESS} is not what was written") from error
        if (found.facts, found.starts) != (facts, self.fresh.starts):
            raise ValueError(
                f"{folder} contains the unfinished cache of another teacher, text or loss: use another folder"
            )
        self.rows, self.ragged_items = found.rows, found.ragged_items
        self.begun = time.perf_counter() - found.seconds
        self.hashes = {column.file: self._resumed(column, found.sha256) for column in self.columns}
        self._save()

    def _resumed(self, column: Column, sha256: Mapping[str, str]) -> "hashlib._Hash":
        """Cut off incomplete rows of a column, and return the hash of the others."""
        size, file = column.num_bytes(self.rows, self.ragged_items), self.folder / column.file
        with file.open("ab") as stream:
            if stream.tell() < size:
                raise _damaged(self.folder, f"{column.file} is shorter than its {PROGRESS} says")
            stream.truncate(size)
        with file.open("rb") as stream:
            found = hashlib.file_digest(stream, "sha256")
        if self.rows and found.hexdigest() != sha256.get(column.file):
            raise _damaged(self.folder, f"{column.file} changed since it was written")
        return found

    def append(self, input_ids: NDArray[np.int64], entries: dict[str, NDArray[Any]]) -> None:
        """Add the rows of a batch."""
        parts = _encode(entries, len(input_ids), self.ragged_items) | {"tokens": input_ids}
        for column in self.columns:
            content = parts[column.name].astype(column.dtype).tobytes()
            with (self.folder / column.file).open("ab") as file:
                file.write(content)
            self.hashes[column.file].update(content)
        self.rows += len(input_ids)
        self.ragged_items += parts["ids"].size
        self._save()

    def _save(self) -> None:
        counted = {"rows": self.rows, "ragged_items": self.ragged_items, "seconds": time.perf_counter() - self.begun}
        hashes = {"sha256": {name: sha256.hexdigest() for name, sha256 in self.hashes.items()}}
        write_atomically(self.folder / PROGRESS, self.fresh.model_copy(update=counted | hashes).model_dump_json())

    def finish(self) -> None:
        """Write index and seal, from which on the cache can be opened."""
        self.starts.tofile(self.folder / STARTS)
        tokens = self.rows * self.facts.sequence_length
        size = sum(column.num_bytes(self.rows, self.ragged_items) for column in self.columns)
        logger.info("%s: %.0f bytes per token, %.2f GB in all", self.folder, size / tokens, size / 1e9)
        seconds = time.perf_counter() - self.begun
        record = CacheRecord(rows=self.rows, tokens=tokens, bytes_per_token=size / tokens, seconds=seconds)
        write_atomically(self.folder / CACHE_INDEX, _Index(facts=self.facts, record=record).model_dump_json(indent=1))
        seal(self.folder, CACHE_INDEX, STARTS, *self.hashes)
        (self.folder / PROGRESS).unlink()


def _damaged(folder: Path, reason: str) -> ValueError:
    return ValueError(f"the teacher's cache {folder.resolve()} is damaged ({reason}): remove this folder and run again")


def _hash(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def _encode(entries: dict[str, NDArray[Any]], rows: int, ragged_items: int) -> dict[str, NDArray[Any]]:
    """Return entries as columns: the top as it is, draws as distinct ids with counts."""
    if "counts" not in entries:
        return entries
    drawn = np.sort(entries["ids"], -1)
    first = np.ones(drawn.shape, dtype=bool)
    first[:, 1:] = drawn[:, 1:] != drawn[:, :-1]
    positions = np.flatnonzero(first)
    lengths = first.sum(-1).reshape(rows, -1)
    items = lengths.sum(-1)
    return {
        "ids": drawn[first],
        "counts": np.diff(positions, append=drawn.size),
        "lengths": lengths,
        "mean_log_prob": entries["mean_log_prob"],
        "offsets": ragged_items + np.cumsum(items) - items,
    }
