"""How many bytes of text tokens represent, so that losses under different tokenizers compare."""

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray
from transformers import PreTrainedTokenizerBase

from budwood.corpus.tokenization import num_ids

_BYTE = re.compile("<0x[0-9A-F]{2}>")


@dataclass(frozen=True, slots=True)
class ByteCounter:
    """Counts the bytes of text behind token ids, exactly even where a window begins or ends inside a character."""

    per_token: NDArray[np.int64]
    """[V] bytes of UTF-8 that every token adds to a text; none for special tokens."""
    prefix: int
    """Bytes in front of every document that are the tokenizer's and not the text's (SentencePiece: a space)."""
    eos_token_id: int

    @classmethod
    def of(cls, tokenizer: PreTrainedTokenizerBase) -> Self:
        """Return the counter of a byte-level tokenizer, or of a SentencePiece one that falls back to bytes.

        What a normaliser changes (NFC of Qwen and Pythia) is counted as it is after the change.

        Raises:
            ValueError: it is of another kind, whose tokens have no bytes of their own.
        """
        # The tokenizers of the supported families differ in how they write bytes, which their decoder shows.
        kinds = set(_decoders(json.loads(tokenizer.backend_tokenizer.to_str())["decoder"] or {}))
        if not kinds & {"ByteLevel", "ByteFallback"}:
            raise ValueError(
                f"the tokenizer {tokenizer.name_or_path} decodes by {', '.join(sorted(kinds)) or 'nothing'}; "
                "bits per byte need a byte-level tokenizer, or a SentencePiece one that falls back to bytes"
            )
        per_token = np.zeros(num_ids(tokenizer), dtype=np.int64)
        for token, index in tokenizer.get_vocab().items():
            per_token[index] = len(token) if "ByteLevel" in kinds else _piece_bytes(token)
        for index, added in tokenizer.added_tokens_decoder.items():
            per_token[index] = 0 if added.special else len(added.content.encode())
        assert tokenizer.eos_token_id is not None  # it ends every document of a corpus
        prefix = int(per_token[tokenizer.encode("a", add_special_tokens=False)].sum()) - 1
        return cls(per_token, prefix, int(tokenizer.eos_token_id))

    def count(self, windows: NDArray[np.int64]) -> NDArray[np.int64]:
        """Return [N] the bytes of the predicted text of every sequence.

        Args:
            windows: [N, T + 1] token ids of running text (`budwood.corpus.packing.PackedCorpus.read_packed`); every
                token but the first is predicted.
        """
        # A document that ends at once has no first token to carry the prefix.
        starts = (windows[:, :-1] == self.eos_token_id) & (windows[:, 1:] != self.eos_token_id)
        counts: NDArray[np.int64] = self.per_token[windows[:, 1:]].sum(1) - self.prefix * starts.sum(1)
        return counts


def _decoders(decoder: Mapping[str, Any]) -> Iterator[str]:
    """Yield the types of a decoder and of the parts of a sequence of decoders."""
    if "type" in decoder:
        yield decoder["type"]
    for part in decoder.get("decoders", ()):
        yield from _decoders(part)


def _piece_bytes(piece: str) -> int:
    """Return the bytes of a piece of SentencePiece, which writes a space as U+2581 and single bytes as <0x0A>."""
    return 1 if _BYTE.fullmatch(piece) else len(piece.replace("\u2581", " ").encode())
