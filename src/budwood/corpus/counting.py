"""How often text has each token."""

from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from budwood.corpus.documents import read_documents
from budwood.corpus.settings import CorpusSettings, SourceSettings
from budwood.corpus.split import assign_split, text_digest
from budwood.corpus.tokenization import Encoder, num_ids

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

COUNTED_TOKENS = 20_000_000
"""Of a source: enough to find the tokens that it uses most."""
_BATCH_DOCUMENTS = 1000


def count_training_tokens(
    corpus: CorpusSettings, tokenizer: "PreTrainedTokenizerBase", root: Path, limit: int = COUNTED_TOKENS
) -> NDArray[np.int64]:
    """Return [ids] how often the beginning of all sources has each token; only text of the split `train` counts.

    Of each source as many tokens count as `limit` and its `max_tokens` allow; one without training text is not read.

    Raises:
        ValueError: a source cannot be read or is empty.
    """
    encoder = Encoder.of(tokenizer)
    counts = np.zeros(num_ids(tokenizer), dtype=np.int64)
    for source in corpus.sources.values():
        if not source.splits.get("train"):
            continue
        room = min(limit, source.max_tokens.get("train", limit))
        texts = iter(tqdm(_training_texts(source, root, corpus.seed), f"Count tokens of {source.name}", unit="texts"))
        while room and (batch := list(islice(texts, _BATCH_DOCUMENTS))):
            ids = np.concatenate(encoder.encode(batch))[:room]
            counts += np.bincount(ids, minlength=len(counts))
            room -= len(ids)
    return counts


def _training_texts(source: SourceSettings, root: Path, seed: int) -> Iterator[str]:
    for document in read_documents(source, root):
        if assign_split(text_digest(document.text, seed), source.splits) == "train":
            yield document.text
