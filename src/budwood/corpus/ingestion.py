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

from budwood import __version__
from budwood.corpus.documents import SourceReader, TextSource, read_documents, require_consistent
from budwood.corpus.packing import INDEX_FILE, PackedCorpus, pack, shards_folder, write_index
from budwood.corpus.shards import ShardWriter, SourceState, read_state, source_shards
from budwood.corpus.split import assign_split, text_digest
from budwood.corpus.tokenization import Encoder, Tokens, describe_tokenizer, start_workers, tokenize_batches

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
_NO_FACTS = {"weight", "license", "attribution"}
"""Fields of a source that do not decide its tokens."""


def sample_sources(sources: Sequence[TextSource]) -> pd.DataFrame:
    """Read the first documents of every source, to see what they look like and that they can be read at all.

    Returns:
        At most five rows per source: `source`, `document` (id), `characters` and the beginning of `text`.

    Raises:
        ValueError: two sources share a name, only some have a weight, or one cannot be read or is empty.
    """
    require_consistent(sources)
    rows = [
        (source.name, document.id, len(document.text), document.text[:_SAMPLE_CHARACTERS])
        for source in sources
        for document in islice(read_documents(source), _SAMPLE_DOCUMENTS)
    ]
    return pd.DataFrame(rows, columns=["source", "document", "characters", "text"])


def tokenize_sources(
    sources: Sequence[TextSource],
    tokenizer: "PreTrainedTokenizerBase",
    *,
    seed: int,
    directory: Path,
    num_processes: int = 1,
    progress: bool = True,
) -> PackedCorpus:
    """Tokenise all sources into one corpus, or open the one that is there and still matches.

    A text that occurs again is dropped, and the first source keeps it: it could otherwise stand in two splits.
    Memory holds two shards (`budwood.corpus.shards.SHARD_BYTES`) and, for each process, three batches of a million
    characters or one document; the disk holds the tokens twice until the end.

    Args:
        sources: Sources with distinct names.
        tokenizer: Its `eos_token_id` ends a document; special tokens are not added otherwise.
        seed: Seed of the splits and of the order of documents.
        directory: The folder to write; shards stand beside it until the end.
        num_processes: Processes that tokenise.
        progress: Whether to show a bar for each source.

    Returns:
        The corpus, opened.

    Raises:
        ValueError: sources do not fit together, one cannot be read or is empty, the tokenizer has no end-of-document
            token, or the disk is too small by an estimate from the beginning of each source.
        OSError: the disk is full.
    """
    require_consistent(sources)
    encoder = Encoder.of(tokenizer)
    facts = describe_tokenizer(tokenizer) | {"seed": seed}
    settings = {**facts, "budwood": __version__, "sources": describe_sources(sources)}
    weights = {source.name: source.weight for source in sources}
    shards = shards_folder(directory)
    if _is_current(directory, sources, settings):
        # Weights may have changed; they change no token.
        write_index(directory, json.loads((directory / INDEX_FILE).read_text(encoding="utf-8")), weights)
        shutil.rmtree(shards, ignore_errors=True)
        return PackedCorpus.open(directory)
    _claim(shards, settings)
    _require_space(sources, encoder, shards)
    states: dict[str, SourceState] = {}
    try:
        with start_workers(encoder, num_processes) as workers:
            for number, source in enumerate(sources):
                run = _SourceRun(source, shards, number, seed)
                states[source.name] = run.finish(workers, _AHEAD * num_processes, progress=progress)
        origin = {"settings": settings, "sources": {name: asdict(state) for name, state in states.items()}}
        return pack(shards, weights, directory, facts | {"origin": origin}, progress=progress)
    except OSError as error:
        if error.errno != errno.ENOSPC:
            raise
        message = f"no space left for {shards}; what is there stays: free some space and run again"
        raise OSError(errno.ENOSPC, message) from error


def describe_sources(sources: Sequence[TextSource]) -> list[dict[str, Any]]:
    """Return what decides the tokens of sources."""
    return [{name: value for name, value in asdict(source).items() if name not in _NO_FACTS} for source in sources]


def _is_current(directory: Path, sources: Sequence[TextSource], settings: Mapping[str, Any]) -> bool:
    """Whether a folder holds the corpus of these settings, and what it was made from has not changed."""
    if not (directory / INDEX_FILE).is_file():
        return False
    # Folders of earlier versions say nothing of their origin.
    origin = json.loads((directory / INDEX_FILE).read_text(encoding="utf-8")).get("origin", {})
    if origin.get("settings") != json.loads(json.dumps(settings)):
        return False
    states = [SourceState(**origin["sources"][source.name]) for source in sources]
    return all(_matches(SourceReader(source), state) for source, state in zip(sources, states, strict=True))


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


def _require_space(sources: Sequence[TextSource], encoder: Encoder, shards: Path) -> None:
    """Refuse what will not fit on the disk, as far as the beginning of each source tells."""
    estimates = [_estimate_bytes(source, encoder) for source in sources]
    needed = 2 * sum(filter(math.isfinite, estimates)) - sum(f.stat().st_size for f in shards.rglob("*") if f.is_file())
    free = shutil.disk_usage(shards).free
    if needed > free:
        raise ValueError(
            f"the corpus needs about {needed / 1e9:.2f} GB more in {shards.parent} and {free / 1e9:.2f} GB are free; "
            f"free some space, or give the largest of the sources {[source.name for source in sources]} max_tokens"
        )
    if not all(map(math.isfinite, estimates)):
        logger.warning("The size of some sources is not known: %.2f GB of disk space may not be enough", free / 1e9)


def _estimate_bytes(source: TextSource, encoder: Encoder) -> float:
    """Bytes of a source's tokens, from its beginning; infinite where the source does not tell its size."""
    reader, texts, characters = SourceReader(source), list[str](), 0
    for document in islice(reader, _BATCH_DOCUMENTS):
        texts.append(document.text)
        characters += len(document.text)
        if characters >= _BATCH_CHARACTERS:
            break
    if not texts:
        raise ValueError(f"source {source.name!r} is empty: no text in {source.path or source.dataset}")
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
    share: float | None


class _SourceRun:
    """Tokenises one source into shards, from the last one on."""

    def __init__(self, source: TextSource, shards: Path, number: int, seed: int) -> None:
        self._source, self._seed = source, seed
        self._state = _drop_outdated(source, source_shards(shards, number))
        self._reader = SourceReader(source, self._state.position)
        self._writer = ShardWriter(shards, number)

    def finish(self, workers: Executor, ahead: int, *, progress: bool) -> SourceState:
        """Tokenise what is left, and return the last state."""
        name, characters = self._source.name, self._state.characters
        bar = tqdm(desc=f"Tokenize {name}", initial=characters, unit="chars", unit_scale=True, disable=not progress)
        try:
            with bar:
                batches = () if self._state.finished else self._batches()
                for batch, tokens in tokenize_batches(batches, workers, ahead):
                    self._add(batch, tokens)
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
        if not self._state.documents:
            raise ValueError(f"source {name!r} is empty: no text in {self._source.path or self._source.dataset}")
        return self._state

    def _batches(self) -> Iterator[_Batch]:
        """What is left of the source, without documents of splits that are full; the last batch says so."""
        state, texts, places, size = self._state, list[str](), list[tuple[int, str]](), 0
        limit = self._source.max_documents
        remaining = None if limit is None else limit - state.documents
        for document in islice(self._reader, remaining):
            digest = text_digest(document.text, self._seed)
            split = assign_split(digest, self._source.splits)
            if split not in self._full():
                texts.append(document.text)
                places.append((digest, split))
            size += len(document.text)
            state = replace(state, documents=state.documents + 1, characters=state.characters + len(document.text))
            if len(texts) == _BATCH_DOCUMENTS or size >= _BATCH_CHARACTERS:
                state = replace(state, position=self._reader.position)
                yield _Batch(texts, places, state, self._reader.share)
                texts, places, size = [], [], 0
        state = replace(state, position=self._reader.position, finished=True)
        yield _Batch(texts, places, state, self._reader.share)

    def _full(self) -> set[str]:
        """The splits that hold all the tokens they may."""
        limits = self._source.max_tokens
        return {split for split, limit in limits.items() if self._state.tokens.get(split, 0) >= limit}

    def _add(self, batch: _Batch, tokens: Sequence[Tokens]) -> None:
        """Take a batch's documents while their splits have room; the last one is cut to fit."""
        counts = dict(self._state.tokens)
        for (digest, split), ids in zip(batch.places, tokens, strict=True):
            room = self._source.max_tokens.get(split, math.inf) - counts.get(split, 0)
            if room > 0:
                kept = ids if len(ids) <= room else np.append(ids[: int(room) - 1], ids[-1:])
                self._writer.add(digest, split, kept)
                counts[split] = counts.get(split, 0) + len(kept)
        self._state = replace(batch.state, tokens=counts)
        if self._source.max_tokens and len(self._full()) == len(self._source.max_tokens):
            self._state = replace(self._state, finished=True)

    def _flush(self) -> None:
        self._state = replace(self._state, origin=self._reader.fingerprint(self._state.position))
        self._writer.flush(self._state)

    def _expected_characters(self, share: float | None) -> int | None:
        """Characters of the whole run, from the share of the source, or of its `max_tokens`, that is done."""
        limits = self._source.max_tokens
        shares = [self._state.tokens.get(split, 0) / limit for split, limit in limits.items()]
        done = max(share or 0.0, min(shares, default=0.0))
        return round(self._state.characters / min(1.0, done)) if done else None


def _drop_outdated(source: TextSource, shards: Sequence[Path]) -> SourceState:
    """Return the state after the last shard whose text is still there unchanged, and drop those after it."""
    reader, state = SourceReader(source), SourceState()
    for number, shard in enumerate(shards):
        found = read_state(shard)
        if not _matches(reader, found):
            logger.warning("Source %s has changed: dropping %d shards", source.name, len(shards) - number)
            for outdated in shards[number:]:
                shutil.rmtree(outdated)
            break
        state = found
    return state
