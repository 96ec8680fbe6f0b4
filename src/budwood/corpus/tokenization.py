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
from tokenizers.processors import TemplateProcessing

from budwood.corpus.settings import Bos
from budwood.corpus.split import near_digest

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

Tokens = NDArray[np.unsignedinteger[Any]]

_UINT16_VALUES = 2**16
_QUOTED_CHARACTERS = 40


class Documents(Protocol):
    """Some documents that are tokenised together."""

    @property
    def texts(self) -> list[str]:
        """The documents."""


AnyDocuments = TypeVar("AnyDocuments", bound=Documents)


@dataclass(frozen=True, slots=True)
class Encoder:
    """What a tokenizer does to texts; light enough to send to another process."""

    backend: "Tokenizer | PreTrainedTokenizerBase"
    eos_token_id: int
    dtype: np.dtype[Any]
    """The smallest type for every id: two bytes for vocabularies of up to 65,536."""
    refused: NDArray[np.bool_]
    """[ids] true for those that no text may become: control tokens, and those beyond the model's embedding."""

    @classmethod
    def of(cls, tokenizer: "PreTrainedTokenizerBase", vocab_size: int | None = None) -> Self:
        """Copy what is needed of a tokenizer.

        Args:
            tokenizer: Any tokenizer.
            vocab_size: Rows of the embedding of the model that will read the tokens; unlimited without it.

        Raises:
            ValueError: the tokenizer has no end-of-document token, or its id is beyond the embedding.
        """
        eos = tokenizer.eos_token_id
        if eos is None:
            raise ValueError("tokenizer must have an eos_token: it ends every document")
        if vocab_size is not None and eos >= vocab_size:
            raise ValueError(f"the tokenizer's eos_token_id={eos} must be below the model's vocab_size={vocab_size}")
        refused = np.zeros(num_ids(tokenizer), dtype=bool)
        refused[sorted(_control_ids(tokenizer))] = True
        refused[vocab_size if vocab_size is not None else len(refused) :] = True
        dtype = np.dtype(np.uint16 if len(refused) <= _UINT16_VALUES else np.uint32)
        if not tokenizer.is_fast:
            return cls(tokenizer, eos, dtype, refused)
        backend = Tokenizer.from_str(tokenizer.backend_tokenizer.to_str())
        # Truncation and padding are left over from the tokenizer's last call.
        backend.no_truncation()
        backend.no_padding()
        return cls(backend, eos, dtype, refused)

    def encode(self, texts: list[str]) -> list[Tokens]:
        """Return the ids of each text, ended by the end-of-document token.

        No other special token is added, and those that are written in a text are text.

        Raises:
            ValueError: a text becomes a control token, or an id that the model has no embedding for.
        """
        ids: Iterable[list[int]]
        if isinstance(self.backend, Tokenizer):
            # Pickling loses it.
            self.backend.encode_special_tokens = True
            ids = (encoding.ids for encoding in self.backend.encode_batch_fast(texts, add_special_tokens=False))
        else:
            ids = (self.backend.encode(text, add_special_tokens=False, split_special_tokens=True) for text in texts)
        return [self._end(np.array(row, dtype=self.dtype), text) for row, text in zip(ids, texts, strict=True)]

    def _end(self, ids: Tokens, text: str) -> Tokens:
        refused = ids[self.refused[ids]]
        if refused.size:
            raise ValueError(
                f"the tokenizer makes the id {refused[0]} of a text, which is a control token or not in the model's "
                f"embedding; the text begins with {text[:_QUOTED_CHARACTERS]!r}"
            )
        return np.append(ids, self.dtype.type(self.eos_token_id))


def num_ids(tokenizer: "PreTrainedTokenizerBase") -> int:
    """Return one more than the largest id of a tokenizer, which is more than its tokens where ids are left out."""
    return max(len(tokenizer) - 1, *tokenizer.get_vocab().values()) + 1


def _control_ids(tokenizer: "PreTrainedTokenizerBase") -> set[int]:
    """Special tokens, without one for unknown text of its own."""
    added = {index for index, token in tokenizer.added_tokens_decoder.items() if token.special}
    ends = {tokenizer.eos_token_id, tokenizer.bos_token_id} - {None}
    return (added | set(tokenizer.all_special_ids)) - {tokenizer.unk_token_id} | ends


def first_token(tokenizer: "PreTrainedTokenizerBase", bos: Bos, vocab_size: int | None = None) -> int | None:
    """Return the id that begins every sequence, if one does.

    Args:
        tokenizer: Any tokenizer.
        bos: `auto` follows the tokenizer: its beginning-of-text token, if it puts that in front of a text.
        vocab_size: Rows of the embedding of the model that will read the tokens; unlimited without it.

    Raises:
        ValueError: `bos` is `always`, and the tokenizer has no such token; or its id is beyond the embedding.
    """
    own: int | None = tokenizer.bos_token_id
    if bos == "always" and own is None:
        raise ValueError("bos='always' needs a tokenizer with a bos_token; this one allows 'auto' and 'never'")
    prescribed = own is not None and tokenizer.encode("a")[:1] == [own]
    if own is None or bos == "never" or (bos == "auto" and not prescribed):
        return None
    if vocab_size is not None and own >= vocab_size:
        raise ValueError(f"the tokenizer's bos_token_id={own} must be below the model's vocab_size={vocab_size}")
    return own


def begin_texts(tokenizer: "PreTrainedTokenizerBase", bos_token_id: int | None) -> None:
    """Let a tokenizer put an id in front of every text, as sequences of a corpus begin.

    Args:
        tokenizer: A fast tokenizer; changed only where it begins texts otherwise.
        bos_token_id: As `first_token` returns it; `None`: nothing is put in front.
    """
    if first_token(tokenizer, "auto") == bos_token_id:
        return
    token = [] if bos_token_id is None else [tokenizer.convert_ids_to_tokens(bos_token_id)]
    tokenizer.backend_tokenizer.post_processor = TemplateProcessing(
        single=[*token, "$A"], pair=[*token, "$A", "$B"], special_tokens=[(each, bos_token_id) for each in token]
    )


def describe_tokenizer(tokenizer: "PreTrainedTokenizerBase") -> dict[str, Any]:
    """Return what a corpus says of its tokenizer: `dtype`, `vocab_size`, `eos_token_id`, `tokenizer_fingerprint`."""
    return {
        "dtype": Encoder.of(tokenizer).dtype.name,
        "vocab_size": num_ids(tokenizer),
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
    batches: Iterable[AnyDocuments], workers: Executor, ahead: int
) -> Iterator[tuple[AnyDocuments, list[tuple[Tokens, int]]]]:
    """Tokenise batches while the next ones are read, and return them in their order, whatever the number of workers.

    Args:
        batches: Read `ahead`, never all.
        workers: From `start_workers`.
        ahead: Batches that wait for the workers or their turn.

    Yields:
        Each batch with the tokens of its texts (see `Encoder.encode`) and their digests (`near_digest`).
    """
    waiting: deque[tuple[AnyDocuments, Future[list[tuple[Tokens, int]]]]] = deque()
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


def _encode(texts: list[str]) -> list[tuple[Tokens, int]]:
    encoder: Encoder = _worker.encoder
    return list(zip(encoder.encode(texts), map(near_digest, texts), strict=True))


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
