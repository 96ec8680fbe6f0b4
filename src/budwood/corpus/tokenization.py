"""Text to token ids, in this process or in several."""

import json
import os
import threading
from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Executor, Future, ProcessPoolExecutor, ThreadPoolExecutor
from dataclasses import dataclass
from hashlib import sha256
from multiprocessing import get_context, parent_process
from typing import TYPE_CHECKING, Any, Protocol, Self, TypeVar

import numpy as np
from numpy.typing import NDArray
from tokenizers import Tokenizer

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

Tokens = NDArray[np.unsignedinteger[Any]]

_UINT16_VALUES = 2**16


class Batch(Protocol):
    """Some documents that are tokenised together."""

    @property
    def texts(self) -> list[str]:
        """The documents."""


AnyBatch = TypeVar("AnyBatch", bound=Batch)


@dataclass(frozen=True, slots=True)
class Encoder:
    """What a tokenizer does to texts; light enough to send to another process."""

    backend: "Tokenizer | PreTrainedTokenizerBase"
    eos_token_id: int
    dtype: np.dtype[Any]
    """The smallest type that holds every id: two bytes for vocabularies of up to 65,536."""

    @classmethod
    def of(cls, tokenizer: "PreTrainedTokenizerBase") -> Self:
        """Copy what is needed of a tokenizer.

        Raises:
            ValueError: the tokenizer has no end-of-document token.
        """
        if tokenizer.eos_token_id is None:
            raise ValueError("tokenizer must have an eos_token: it ends every document")
        largest = max(len(tokenizer) - 1, *tokenizer.get_vocab().values())
        dtype = np.dtype(np.uint16 if largest < _UINT16_VALUES else np.uint32)
        if not tokenizer.is_fast:
            return cls(tokenizer, tokenizer.eos_token_id, dtype)
        backend = Tokenizer.from_str(tokenizer.backend_tokenizer.to_str())
        # Truncation and padding are left over from the tokenizer's last call.
        backend.no_truncation()
        backend.no_padding()
        return cls(backend, tokenizer.eos_token_id, dtype)

    def encode(self, texts: list[str]) -> list[Tokens]:
        """Return the ids of each text, ended by the end-of-document token; no other special token is added."""
        ids: Iterable[list[int]]
        if isinstance(self.backend, Tokenizer):
            ids = (encoding.ids for encoding in self.backend.encode_batch_fast(texts, add_special_tokens=False))
        else:
            ids = (self.backend.encode(text, add_special_tokens=False) for text in texts)
        return [np.array([*row, self.eos_token_id], dtype=self.dtype) for row in ids]


def describe_tokenizer(tokenizer: "PreTrainedTokenizerBase") -> dict[str, Any]:
    """Return what a corpus tells of its tokenizer: `dtype`, `vocab_size`, `eos_token_id`, `tokenizer_fingerprint`."""
    return {
        "dtype": Encoder.of(tokenizer).dtype.name,
        "vocab_size": len(tokenizer),
        "eos_token_id": tokenizer.eos_token_id,
        "tokenizer_fingerprint": fingerprint_tokenizer(tokenizer),
    }


def fingerprint_tokenizer(tokenizer: "PreTrainedTokenizerBase") -> str:
    """Hash what decides the ids of a text: the tokenizer's model, normaliser and vocabulary.

    Args:
        tokenizer: Any tokenizer; of one without a `tokenizers` backend only the vocabulary is hashed.

    Returns:
        A SHA-256 in hexadecimal.
    """
    facts: dict[str, Any]
    if tokenizer.is_fast:
        # Truncation and padding are left over from the last call.
        facts = {**json.loads(tokenizer.backend_tokenizer.to_str()), "truncation": None, "padding": None}
    else:
        facts = tokenizer.get_vocab()
    return sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()


def start_workers(encoder: Encoder, num_processes: int) -> Executor:
    """Return workers for `tokenize_batches`; used as a context, they end with it.

    Args:
        encoder: Goes to every worker once.
        num_processes: With 1, a thread of this process, in which the `tokenizers` library takes all cores by itself.
            Processes with one core each also share what that library leaves to Python.
    """
    if num_processes == 1:
        return ThreadPoolExecutor(1, initializer=_set_encoder, initargs=(encoder,))
    return ProcessPoolExecutor(num_processes, get_context("spawn"), initializer=_start_process, initargs=(encoder,))


def tokenize_batches(
    batches: Iterable[AnyBatch], workers: Executor, ahead: int
) -> Iterator[tuple[AnyBatch, list[Tokens]]]:
    """Tokenise batches while the next ones are read, and return them in their order, whatever the number of workers.

    Args:
        batches: Read `ahead`, never all.
        workers: From `start_workers`.
        ahead: Batches that wait for the workers or their turn.

    Yields:
        Each batch with the tokens of its texts (see `Encoder.encode`).
    """
    waiting: deque[tuple[AnyBatch, Future[list[Tokens]]]] = deque()
    for batch in batches:
        waiting.append((batch, workers.submit(_encode, batch.texts)))
        if len(waiting) > ahead:
            done, future = waiting.popleft()
            yield done, future.result()
    while waiting:
        done, future = waiting.popleft()
        yield done, future.result()


# An encoder is sent to a worker once, and not with every batch.
_worker = threading.local()


def _set_encoder(encoder: Encoder) -> None:
    _worker.encoder = encoder


def _encode(texts: list[str]) -> list[Tokens]:
    encoded: list[Tokens] = _worker.encoder.encode(texts)
    return encoded


def _start_process(encoder: Encoder) -> None:
    """Set a worker process up: one thread, and an end when its parent has been killed."""
    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    _set_encoder(encoder)
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    parent = parent_process()
    assert parent is not None  # only workers come here
    parent.join()
    os._exit(1)
