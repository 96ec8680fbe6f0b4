"""A teacher's words on disk: a few entries of its distribution for every token, memory-mapped beside the tokens.

A folder holds one file per column, a row for every sequence. The top is stored as log-probabilities in float16 (logits
less the log-sum-exp over the vocabulary: the likelier, the more exact) with the log of the remaining mass in float32;
draws as distinct ids with counts, whose number differs from token to token. Rows are appended; `progress.json` says how
many are whole, so that a killed writer goes on; `index.json` is written last.

Shape legend: B sequences, T tokens of a sequence, N = B T, S draws.
"""

import hashlib
import json
import logging
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from tqdm import tqdm

from budwood.corpus.packing import PackedCorpus
from budwood.records.files import write_atomically

logger = logging.getLogger(__name__)

INDEX = "index.json"
PROGRESS = "progress.json"
STARTS = "starts.bin"

Ask = Callable[[Tensor, Tensor], Mapping[str, Tensor]]
"""Takes [B, T] token ids and [B] starts; returns the entries of N tokens, as `budwood.training.teacher.Entries`."""


@dataclass(frozen=True, slots=True)
class Column:
    """One file of a cache."""

    name: str
    dtype: np.dtype[Any]
    items: int | None
    """Numbers of a row; nothing where they differ and `offsets` tells where a row begins."""

    def length(self, rows: int, ragged_items: int) -> int:
        """Return how many numbers some whole rows take."""
        return ragged_items if self.items is None else rows * self.items


def columns(facts: Mapping[str, Any]) -> tuple[Column, ...]:
    """Return the files of a cache with some facts."""
    length, count = facts["sequence_length"], facts["num_entries"]
    token = np.dtype(np.uint16 if facts["vocab_size"] <= np.iinfo(np.uint16).max + 1 else np.uint32)
    small, exact = np.dtype(np.uint8), np.dtype(np.float32)
    tokens = Column("tokens", token, length)
    if facts["entries"] == "top_k":
        half = np.dtype(np.float16)
        top = Column("ids", token, length * count), Column("log_probs", half, length * count)
        return tokens, *top, Column("log_rest", exact, length)
    ragged = Column("ids", token, None), Column("counts", small, None), Column("offsets", np.dtype(np.uint64), 1)
    return tokens, *ragged, Column("lengths", small, length), Column("mean_log_prob", exact, length)


def bytes_of_sequence(facts: Mapping[str, Any]) -> int:
    """Return the bytes that a sequence takes in a cache with some facts; at most, where numbers of draws differ."""
    most = facts["sequence_length"] * facts["num_entries"]
    return sum(column.length(1, most) * column.dtype.itemsize for column in columns(facts))


@dataclass(frozen=True, eq=False, kw_only=True)
class TeacherCache:
    """A finished cache, opened."""

    folder: Path
    facts: Mapping[str, Any]
    """What decides its content: teacher, tokenizer, text, length and entries."""
    record: Mapping[str, Any]
    """`rows`, `tokens`, `bytes_per_token`, `seconds`."""
    starts: NDArray[np.int64]
    """[rows] where the sequences begin in the token file, rising."""
    fingerprint: str
    """Of the facts and the sequences."""
    data: Mapping[str, NDArray[Any]]
    """Memory-mapped columns."""

    @classmethod
    def open(cls, folder: Path) -> Self:
        """Open a folder that `write_cache` has finished.

        Raises:
            ValueError: there is no cache, or an unfinished or damaged one.
        """
        if not (folder / INDEX).is_file():
            state = "is unfinished: write it to its end" if (folder / PROGRESS).is_file() else "does not exist"
            raise ValueError(f"the teacher's cache {folder} {state}")
        index = json.loads((folder / INDEX).read_text())
        data = {}
        for column in columns(index["facts"]):
            file, length = folder / f"{column.name}.bin", column.length(index["rows"], index["ragged_items"])
            if not file.is_file() or file.stat().st_size != length * column.dtype.itemsize:
                raise ValueError(f"the teacher's cache {folder} is damaged: {file.name} has not the size of its index")
            data[column.name] = np.memmap(file, dtype=column.dtype, mode="r")
        return cls(
            folder=folder,
            facts=index["facts"],
            record={name: index[name] for name in ("rows", "tokens", "bytes_per_token", "seconds")},
            starts=np.fromfile(folder / STARTS, dtype=np.int64),
            fingerprint=_hash(json.dumps([index["facts"], index["starts"]], sort_keys=True).encode())[:16],
            data=data,
        )

    def check(self, facts: Mapping[str, Any], starts: NDArray[np.int64]) -> None:
        """Check that the cache is of a teacher, a text and a loss, and has some sequences.

        Raises:
            ValueError: it is of something else; the message names everything that differs.
        """
        different = [
            f"{name} is {self.facts.get(name)!r}, needed {value!r}"
            for name, value in facts.items()
            if self.facts.get(name) != value
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
            input_ids: [B, T] their tokens, to be compared with those the teacher has read.

        Raises:
            ValueError: a sequence is not in the cache, or has other tokens there.
        """
        rows = np.searchsorted(self.starts, starts).clip(max=len(self.starts) - 1)
        known = (self.starts[rows] == starts) & (self._rows("tokens", rows) == input_ids).all(-1)
        if not known.all():
            raise ValueError(f"the teacher's cache {self.folder} does not know the sequence at {starts[~known][0]}")
        if self.facts["entries"] == "top_k":
            count = self.facts["num_entries"]
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
        filled = np.arange(self.facts["num_entries"]) < lengths.reshape(-1, 1)
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
    folder: Path, ask: Ask, corpus: PackedCorpus, starts: NDArray[np.int64], facts: Mapping[str, Any], batch_size: int
) -> TeacherCache:
    """Ask a teacher about some sequences and write down what it says; go on where an earlier process was killed.

    Args:
        folder: belongs to this cache alone.
        ask: the teacher.
        corpus: holds the sequences.
        starts: where they begin; repeated ones are asked about once.
        facts: see `budwood.training.teacher.cache_facts`.
        batch_size: sequences of one forward pass.

    Raises:
        ValueError: the folder holds another cache, or a damaged one.
    """
    starts = np.unique(starts)
    if (folder / INDEX).is_file():
        cache = TeacherCache.open(folder)
        cache.check(facts, starts)
        return cache
    folder.mkdir(parents=True, exist_ok=True)
    state = _resume(folder, facts, starts)
    bar = tqdm(total=len(starts), initial=state["rows"], desc="Cache the teacher", unit="seq", dynamic_ncols=True)
    before = time.perf_counter() - state["seconds"]
    with bar:
        while state["rows"] < len(starts):
            batch = starts[state["rows"] : state["rows"] + batch_size]
            input_ids = corpus.read(batch, facts["sequence_length"])[:, :-1]
            entries = ask(torch.from_numpy(input_ids), torch.from_numpy(batch))
            arrays = {name: part.cpu().numpy() for name, part in entries.items()}
            parts = _encode(arrays, len(batch), state["ragged_items"]) | {"tokens": input_ids}
            for column in columns(facts):
                with (folder / f"{column.name}.bin").open("ab") as file:
                    file.write(parts[column.name].astype(column.dtype).tobytes())
            state["rows"] += len(batch)
            state["ragged_items"] += parts["ids"].size
            state["seconds"] = time.perf_counter() - before
            write_atomically(folder / PROGRESS, json.dumps(state))
            bar.update(len(batch))
    _finish(folder, facts, starts, state)
    return TeacherCache.open(folder)


def _resume(folder: Path, facts: Mapping[str, Any], starts: NDArray[np.int64]) -> dict[str, Any]:
    """Return how far a killed writer has come, and cut off what it has left unfinished after that."""
    file = folder / PROGRESS
    begin = {"facts": dict(facts), "starts": _hash(starts.tobytes())}
    fresh = begin | {"rows": 0, "ragged_items": 0, "seconds": 0.0}
    state: dict[str, Any] = json.loads(file.read_text()) if file.is_file() else fresh
    if {name: state[name] for name in begin} != begin:
        raise ValueError(f"{folder} holds the unfinished cache of another teacher, text or loss: name another folder")
    write_atomically(file, json.dumps(state))
    for column in columns(facts):
        size = column.length(state["rows"], state["ragged_items"]) * column.dtype.itemsize
        with (folder / f"{column.name}.bin").open("ab") as stream:
            if stream.tell() < size:
                raise ValueError(f"{folder} is damaged: {column.name}.bin is shorter than {PROGRESS} says; delete it")
            stream.truncate(size)
    return state


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


def _finish(folder: Path, facts: Mapping[str, Any], starts: NDArray[np.int64], state: Mapping[str, Any]) -> None:
    starts.astype(np.int64).tofile(folder / STARTS)
    tokens = len(starts) * facts["sequence_length"]
    size = sum((folder / f"{column.name}.bin").stat().st_size for column in columns(facts))
    logger.info("%s: %.0f bytes per token, %.2f GB in all", folder, size / tokens, size / 1e9)
    index = {**state, "tokens": tokens, "bytes_per_token": size / tokens}
    write_atomically(folder / INDEX, json.dumps(index, indent=1))
    (folder / PROGRESS).unlink()
