"""Tokenised text in one memory-mapped file: written once, read by position."""

import json
import shutil
import zlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from tqdm import tqdm

from budwood.corpus.split import SPLITS

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

TOKENS_FILE = "tokens.bin"
INDEX_FILE = "index.json"

_UINT16_VALUES = 2**16
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

    @classmethod
    def open(cls, directory: Path) -> Self:
        """Open a folder that `tokenize_and_pack` wrote.

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
        `source`, the sources take turns while they last, so that a `limit` keeps the mixture.

        Args:
            split: Name of the split.
            length: Inputs per window, in tokens.
            source: Take this source only.
            limit: Take the first `limit` windows; all without it.

        Returns:
            [num_windows] positions.

        Raises:
            ValueError: there are fewer windows than `limit`, or none; the split or source is unknown; `length` or
                `limit` is not positive.
        """
        if length < 1 or (limit is not None and limit < 1):
            raise ValueError(f"length and limit must be at least 1, got length={length}, limit={limit}")
        segments = self._select(split, source)
        turns = np.concatenate([np.arange(part.num_windows(length)) for part in segments])
        if len(turns) < (limit or 1):
            raise ValueError(
                f"split {split!r} has {len(turns)} windows of length={length} "
                f"({self.num_tokens(split, source)} tokens, source={source!r}), asked for {limit or 'all of them'}"
            )
        origins = np.repeat([part.start for part in segments], [part.num_windows(length) for part in segments])
        order = np.argsort(turns, kind="stable")[:limit]
        starts: NDArray[np.int64] = (origins + turns * length)[order]
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


def tokenize_and_pack(
    documents: pd.DataFrame,
    tokenizer: "PreTrainedTokenizerBase",
    *,
    seed: int,
    directory: Path,
    progress: bool = True,
) -> PackedCorpus:
    """Write all documents as one row of tokens, each followed by the end-of-document token.

    Documents of one split and source stand together, in an order drawn from the seed; that order does not depend on the
    other splits and sources. A kill leaves the folder as it was before.

    Args:
        documents: The columns `source`, `split` and `text` (see `budwood.corpus.documents.load_corpus`).
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
    if tokenizer.eos_token_id is None:
        raise ValueError("tokenizer must have an eos_token: it ends every document")
    if documents.empty:
        raise ValueError("documents must hold at least one document")
    unknown = sorted(set(documents["split"]) - set(SPLITS))
    if unknown:
        raise ValueError(f"documents has the splits {unknown}; allowed are {list(SPLITS)}")
    if directory.exists() and {path.name for path in directory.iterdir()} - {TOKENS_FILE, INDEX_FILE}:
        raise ValueError(f"directory={directory} holds files that are no packed corpus; name another one")
    partial = directory.with_name(f"{directory.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    _write(documents, tokenizer, seed=seed, directory=partial, progress=progress)
    if directory.exists():
        # Without its index a half-deleted corpus cannot be taken for a whole one.
        (directory / INDEX_FILE).unlink(missing_ok=True)
        shutil.rmtree(directory)
    partial.replace(directory)
    return PackedCorpus.open(directory)


def _write(
    documents: pd.DataFrame, tokenizer: "PreTrainedTokenizerBase", *, seed: int, directory: Path, progress: bool
) -> None:
    """Write both files of the corpus into an empty folder."""
    dtype = np.dtype(np.uint16 if len(tokenizer) <= _UINT16_VALUES else np.uint32)
    digest = sha256()
    segments: dict[str, dict[str, dict[str, int]]] = {}
    stop = 0
    # Characters and not documents, whose lengths differ by orders of magnitude: the remaining time comes out right.
    bar = tqdm(total=int(documents["text"].str.len().sum()), unit="chars", unit_scale=True, disable=not progress)
    with bar, (directory / TOKENS_FILE).open("wb") as file:
        for split, source, texts in _ordered_texts(documents, seed):
            bar.set_description(f"Tokenize {split}/{source}")
            start = stop
            for tokens in _token_batches(texts, tokenizer, bar):
                content = np.asarray(tokens, dtype=dtype).tobytes()
                file.write(content)
                digest.update(content)
                stop += len(tokens)
            segments.setdefault(split, {})[source] = {"start": start, "stop": stop, "documents": len(texts)}
    facts = {
        "segments": segments,
        "dtype": dtype.name,
        "vocab_size": len(tokenizer),
        "eos_token_id": tokenizer.eos_token_id,
        "seed": seed,
        "tokenizer_fingerprint": fingerprint_tokenizer(tokenizer),
    }
    digest.update(json.dumps(facts, sort_keys=True).encode())
    index = {**facts, "fingerprint": digest.hexdigest()}
    (directory / INDEX_FILE).write_text(json.dumps(index, indent=2), encoding="utf-8")


def fingerprint_tokenizer(tokenizer: "PreTrainedTokenizerBase") -> str:
    """Hash what decides the ids of a text: the tokenizer's model, normaliser and vocabulary.

    Args:
        tokenizer: Any tokenizer; of one without a `tokenizers` backend only the vocabulary is hashed.

    Returns:
        A SHA-256 in hexadecimal.
    """
    facts: Mapping[str, Any]
    if tokenizer.is_fast:
        # Truncation and padding are left over from the last call.
        facts = {**json.loads(tokenizer.backend_tokenizer.to_str()), "truncation": None, "padding": None}
    else:
        facts = tokenizer.get_vocab()
    return sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()


def _ordered_texts(documents: pd.DataFrame, seed: int) -> Iterator[tuple[str, str, list[str]]]:
    """Split, source and shuffled texts of each segment; splits as in `SPLITS`, sources as they first occur."""
    for split in SPLITS:
        for source, part in documents[documents["split"] == split].groupby("source", sort=False):
            rng = np.random.default_rng([seed, zlib.crc32(f"{split}\0{source}".encode())])
            yield split, str(source), part["text"].iloc[rng.permutation(len(part))].tolist()


def _token_batches(texts: list[str], tokenizer: "PreTrainedTokenizerBase", bar: "tqdm[Any]") -> Iterator[list[int]]:
    """Ids of some documents at a time, each document ended by the end-of-document token."""
    for first in range(0, len(texts), _BATCH_DOCUMENTS):
        batch = texts[first : first + _BATCH_DOCUMENTS]
        # Not verbose: documents longer than the model's context are no mistake here.
        encoded = tokenizer(batch, add_special_tokens=False, return_attention_mask=False, verbose=False)
        yield [token for ids in encoded["input_ids"] for token in (*ids, tokenizer.eos_token_id)]
        bar.update(sum(map(len, batch)))
