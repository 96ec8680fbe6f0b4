"""Sources to a packed corpus, a batch of documents at a time, whatever their size.

Reading, tokenising and writing go on together. What is written stays: a run that was killed, or stopped at a damaged
file, continues after the last shard. The result depends on texts and settings, not on interruptions or processes.
"""

import errno
import json
import logging
import math
import shutil
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Executor
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from tqdm import tqdm

from budwood.corpus.documents import SourceReader, describe_empty, read_documents
from budwood.corpus.packing import PackedCorpus, pack, read_index, shards_folder, write_index
from budwood.corpus.settings import CorpusSettings, SourceSettings
from budwood.corpus.shards import ShardWriter, SourceState, read_state, source_shards
from budwood.corpus.split import assign_split, text_digest
from budwood.corpus.tokenization import (
    Encoder,
    Tokens,
    describe_tokenizer,
    first_token,
    start_workers,
    tokenize_batches,
)
from budwood.records.seal import damage

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

logger = logging.getLogger(__name__)

_BATCH_DOCUMENTS = 1000
_BATCH_CHARACTERS = 2**20
_AHEAD = 2
"""Batches that wait for each process: enough that none idles, few enough that memory stays small."""
_SAMPLE_DOCUMENTS = 5
_SAMPLE_CHARACTERS = 200
_FACTS = "facts.json"
_NO_FACTS = ("weight", "license", "attribution", "language")
"""Fields of a source that do not decide its tokens."""


def sample_sources(corpus: CorpusSettings, root: Path) -> pd.DataFrame:
    """Read the first documents of every source, to see what they look like and that they can be read at all.

    Returns:
        At most five rows per source: `source`, `document` (id), `characters` and the beginning of `text`.

    Raises:
        ValueError: a source cannot be read or is empty.
    """
    rows = [
        (source.name, document.id, len(document.text), document.text[:_SAMPLE_CHARACTERS])
        for source in corpus.sources.values()
        for document in islice(read_documents(source, root), _SAMPLE_DOCUMENTS)
    ]
    return pd.DataFrame(rows, columns=["source", "document", "characters", "text"])


def tokenize_sources(
    corpus: CorpusSettings,
    tokenizer: "PreTrainedTokenizerBase",
    *,
    folder: Path,
    root: Path,
    vocab_size: int | None = None,
    progress: bool = True,
) -> PackedCorpus:
    """Tokenise all sources into one corpus, or open the one that is there and still matches.

    Equal texts and near-duplicates are dropped where they could be in two splits (see `budwood.corpus.shards.merge`).
    Memory is enough for two shards (`budwood.corpus.shards.SHARD_BYTES`) and, for each process, three batches of a
    million characters or one document; the disk has the tokens twice until the end.

    Args:
        corpus: What is read, and how.
        tokenizer: Its `eos_token_id` ends a document; special tokens are not added otherwise.
        folder: The folder to write; shards are beside it until the end.
        root: Where relative paths begin.
        vocab_size: Rows of the embedding of the model that will read the tokens; unlimited without it.
        progress: Whether to show a bar for each source.

    Returns:
        The corpus, opened.

    Raises:
        ValueError: a source cannot be read or is empty, the tokenizer has no end-of-document token or gives ids beyond
            `vocab_size`, or the disk is too small by an estimate from the beginning of each source.
        OSError: the disk is full.
    """
    encoder = Encoder.of(tokenizer, vocab_size)
    facts = describe_tokenizer(tokenizer) | {"seed": corpus.seed}
    sources = [source.model_dump(mode="json") for source in deciding_sources(corpus)]
    settings = {**facts, "vocab_size": vocab_size, "sources": sources}
    facts |= {"bos_token_id": first_token(tokenizer, corpus.bos, vocab_size)}
    shards = shards_folder(folder)
    index = _current_index(folder, corpus, root, settings)
    if index is not None:
        # These may have changed; they change no token.
        write_index(folder, index | {"bos_token_id": facts["bos_token_id"]}, corpus.weights)
        shutil.rmtree(shards, ignore_errors=True)
        return PackedCorpus.open(folder)
    _claim(shards, settings)
    _require_space(corpus, root, encoder, shards)
    states: dict[str, SourceState] = {}
    try:
        with start_workers(encoder, corpus.num_processes) as workers:
            for number, source in enumerate(corpus.sources.values()):
                run = _SourceRun(source, root, shards, number, corpus.seed)
                states[source.name] = run.finish(workers, _AHEAD * corpus.num_processes, progress=progress)
        origin = {"settings": settings, "sources": {name: asdict(state) for name, state in states.items()}}
        omitted = {"skipped_rows": sum(state.skipped for state in states.values())}
        omitted["empty_rows"] = sum(state.empty for state in states.values())
        return pack(shards, corpus.weights, folder, facts | {"origin": origin, "omitted": omitted}, progress=progress)
    except OSError as error:
        if error.errno != errno.ENOSPC:
            raise
        message = f"no space left for {shards}; what is there stays: free some space and run again"
        raise OSError(errno.ENOSPC, message) from error


def deciding_sources(corpus: CorpusSettings) -> tuple[SourceSettings, ...]:
    """Return the sources of a corpus, with defaults for what does not decide their tokens."""
    defaults = {name: SourceSettings.model_fields[name].default for name in _NO_FACTS}
    return tuple(source.model_copy(update=defaults) for source in corpus.sources.values())


def _current_index(
    folder: Path, corpus: CorpusSettings, root: Path, settings: Mapping[str, Any]
) -> dict[str, Any] | None:
    """The index of a folder with the corpus of these settings, if what it was made from has not changed."""
    if not folder.exists():
        return None
    try:
        PackedCorpus.open(folder)
        index = read_index(folder)
    except ValueError as error:
        logger.warning("Packing the text again: %s", error)
        return None
    origin = index.get("origin", {})
    if origin.get("settings") != json.loads(json.dumps(settings)):
        return None
    states = {name: SourceState(**state) for name, state in origin["sources"].items()}
    matches = all(_matches(SourceReader(source, root), states[name]) for name, source in corpus.sources.items())
    return index if matches else None


def _matches(reader: SourceReader, state: SourceState) -> bool:
    """Whether what was read of a source until a state is still there unchanged."""
    return reader.fingerprint(state.position) == state.origin


def _claim(shards: Path, settings: Mapping[str, Any]) -> None:
    """Keep the shards that belong to these settings, and drop any others."""
    file = shards / _FACTS
    text = json.dumps(settings, sort_keys=True)
    if file.is_file() and file.read_text(encoding="utf-8") == text:
        logger.info("Continuing with the shards in %s", shards)
        return
    shutil.rmtree(shards, ignore_errors=True)
    shards.mkdir(parents=True)
    file.write_text(text, encoding="utf-8")


def _require_space(corpus: CorpusSettings, root: Path, encoder: Encoder, shards: Path) -> None:
    """Refuse what will not fit on the disk, as far as the beginning of each source shows."""
    estimates = [_estimate_bytes(source, root, encoder) for source in corpus.sources.values()]
    needed = 2 * sum(filter(math.isfinite, estimates)) - sum(f.stat().st_size for f in shards.rglob("*") if f.is_file())
    free = shutil.disk_usage(shards).free
    if needed > free:
        raise ValueError(
            f"the corpus needs about {needed / 1e9:.2f} GB more in {shards.parent} and {free / 1e9:.2f} GB are free; "
            f"free some space, or give the largest of the sources {list(corpus.sources)} max_tokens"
        )
    if not all(map(math.isfinite, estimates)):
        logger.warning("The size of some sources is not known: %.2f GB of disk space may not be enough", free / 1e9)


def _estimate_bytes(source: SourceSettings, root: Path, encoder: Encoder) -> float:
    """Bytes of a source's tokens, from its beginning; infinite where the size of the source is unknown."""
    reader, texts, characters = SourceReader(source, root), list[str](), 0
    for document in islice(reader, _BATCH_DOCUMENTS):
        texts.append(document.text)
        characters += len(document.text)
        if characters >= _BATCH_CHARACTERS:
            break
    if not texts:
        raise ValueError(describe_empty(source, reader.num_skipped, reader.faults))
    num_tokens = sum(map(len, encoder.encode(texts)))
    whole: float = num_tokens / reader.share if reader.share else math.inf
    if source.max_documents is not None:
        whole = min(whole, num_tokens / len(texts) * source.max_documents)
    # Reading ends when the last of the limited splits is full.
    limits = [limit / source.splits[split] for split, limit in source.max_tokens.items()]
    return min(whole, max(limits, default=math.inf)) * encoder.dtype.itemsize


@dataclass(frozen=True, slots=True)
class _Batch:
    """Some documents of a source, and how far it has been read after them."""

    texts: list[str]
    places: list[tuple[int, str]]
    """Digest and split of each."""
    state: SourceState
    """Without tokens, which are counted later."""
    share: float


class _SourceRun:
    """Tokenises one source into shards, from the last one on."""

    def __init__(self, source: SourceSettings, root: Path, shards: Path, number: int, seed: int) -> None:
        self._source, self._seed = source, seed
        self._state = self._before = _drop_outdated(source, root, source_shards(shards, number))
        self._reader = SourceReader(source, root, self._state.position)
        self._writer = ShardWriter(shards, number)

    def finish(self, workers: Executor, ahead: int, *, progress: bool) -> SourceState:
        """Tokenise what is left, and return the last state.

        Raises:
            ValueError: the source has no text.
        """
        name, characters = self._source.name, self._state.characters
        bar = tqdm(desc=f"Tokenize {name}", initial=characters, unit="chars", unit_scale=True, disable=not progress)
        try:
            with bar:
                batches = () if self._state.finished else self._batches()
                for batch, documents in tokenize_batches(batches, workers, ahead):
                    self._add(batch, documents)
                    bar.total = self._expected_characters(batch.share)
                    bar.set_postfix(documents=self._state.documents, refresh=False)
                    bar.update(self._state.characters - bar.n)
                    if self._writer.full or self._state.finished:
                        self._flush()
                    if self._state.finished:
                        break
        except BaseException:
            # What is done stays. Where the disk is full this fails too, and the first error says so.
            with suppress(OSError):
                if self._writer.size:
                    self._flush()
            raise
        state = self._state
        if not state.documents:
            raise ValueError(describe_empty(self._source, state.skipped, tuple(state.faults)))
        if state.skipped:
            logger.warning("Source %s: %d rows were skipped, the first: %s", name, state.skipped, state.faults[0])
        return state

    def _batches(self) -> Iterator[_Batch]:
        """What is left of the source, without documents of splits that are full; the last batch says so.

        Documents that are left out count too, so that batches end in the same places whenever a split is seen to be
        full: what has no limit gets all of the batch that ends the reading.
        """
        state, texts, places, number, size = self._state, list[str](), list[tuple[int, str]](), 0, 0
        limit = self._source.max_documents
        remaining = None if limit is None else limit - state.documents
        for document in islice(self._reader, remaining):
            digest = text_digest(document.text, self._seed)
            split = assign_split(digest, self._source.splits)
            if split not in self._full():
                texts.append(document.text)
                places.append((digest, split))
            number += 1
            size += len(document.text)
            state = replace(state, documents=state.documents + 1, characters=state.characters + len(document.text))
            if number == _BATCH_DOCUMENTS or size >= _BATCH_CHARACTERS:
                yield _Batch(texts, places, self._at_reader(state), self._reader.share)
                texts, places, number, size = [], [], 0, 0
        yield _Batch(texts, places, replace(self._at_reader(state), finished=True), self._reader.share)

    def _at_reader(self, state: SourceState) -> SourceState:
        """A state after all that the reader gave."""
        reader, before = self._reader, self._before
        skipped, faults = before.skipped + reader.num_skipped, before.faults or reader.faults
        empty = before.empty + reader.num_empty
        return replace(state, position=reader.position, skipped=skipped, empty=empty, faults=faults)

    def _full(self) -> set[str]:
        """The splits that have all the tokens they may."""
        limits = self._source.max_tokens
        return {split for split, limit in limits.items() if self._state.tokens.get(split, 0) >= limit}

    def _add(self, batch: _Batch, documents: Sequence[tuple[Tokens, int]]) -> None:
        """Take a batch's documents while their splits have room; the last one is cut to fit."""
        counts = dict(self._state.tokens)
        for (digest, split), (ids, near) in zip(batch.places, documents, strict=True):
            room = self._source.max_tokens.get(split, math.inf) - counts.get(split, 0)
            if room > 0:
                kept = ids if len(ids) <= room else np.append(ids[: int(room) - 1], ids[-1:])
                self._writer.add((digest, near), split, kept)
                counts[split] = counts.get(split, 0) + len(kept)
        self._state = replace(batch.state, tokens=counts)
        if self._source.max_tokens and len(self._full()) == len(self._source.max_tokens):
            self._state = replace(self._state, finished=True)

    def _flush(self) -> None:
        self._state = replace(self._state, origin=self._reader.fingerprint(self._state.position))
        self._writer.flush(self._state)

    def _expected_characters(self, share: float) -> int | None:
        """Characters of the whole run, from the share of the source, or of its `max_tokens`, that is done."""
        limits = self._source.max_tokens
        shares = [self._state.tokens.get(split, 0) / limit for split, limit in limits.items()]
        done = max(share, min(shares, default=0.0))
        return round(self._state.characters / min(1.0, done)) if done else None


def _drop_outdated(source: SourceSettings, root: Path, shards: Sequence[Path]) -> SourceState:
    """Return the state after the last shard whose text is still there unchanged, and drop those after it."""
    reader, state = SourceReader(source, root), SourceState()
    for number, shard in enumerate(shards):
        reason = damage(shard) or (None if _matches(reader, read_state(shard)) else f"source {source.name} has changed")
        if reason is not None:
            logger.warning("Dropping %d shards of source %s: %s", len(shards) - number, source.name, reason)
            for outdated in shards[number:]:
                shutil.rmtree(outdated)
            break
        state = read_state(shard)
    return state
