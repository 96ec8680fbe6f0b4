"""Tokens stand for exactly the bytes of their text, whatever the tokenizer."""

import json
import math
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from corpora import tokenize_and_pack
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

from budwood.evaluation.bytes import ByteCounter
from budwood.evaluation.perplexity import source_bytes
from budwood.evaluation.statistics import summarise
from budwood.models.teacher import byte_tokenizer

EOS = "<|endoftext|>"
SAMPLE = ["the cat sat on the mat", "naïve café: 12 °C", "the quick brown fox of the north, 東京 and the cat"] * 3


def merged_tokenizer() -> PreTrainedTokenizerFast:
    """Return a byte-level BPE with merges, a special token, and an ordinary added one."""
    backend = Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    backend.train_from_iterator(SAMPLE, trainers.BpeTrainer(vocab_size=300, initial_alphabet=alphabet))
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=backend, eos_token=EOS)
    # As the runs of spaces of Pythia: no special token, and written as it is.
    tokenizer.add_tokens(["    "])
    return tokenizer


def sentencepiece_tokenizer() -> PreTrainedTokenizerFast:
    """Return a BPE as SentencePiece writes it: spaces as U+2581, one put in front, and single bytes by their value."""
    pieces = ["<unk>", *(f"<0x{byte:02X}>" for byte in range(256)), "\u2581", *"acehstno", "\u2581t", "\u2581th"]
    merges = [("\u2581", "t"), ("\u2581t", "h")]
    vocabulary = {piece: index for index, piece in enumerate(pieces)}
    backend = Tokenizer(models.BPE(vocabulary, merges, unk_token="<unk>", byte_fallback=True, fuse_unk=True))  # noqa: S106
    backend.normalizer = normalizers.Sequence([normalizers.Prepend("\u2581"), normalizers.Replace(" ", "\u2581")])
    parts = [decoders.Replace("\u2581", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    backend.decoder = decoders.Sequence(parts)
    return PreTrainedTokenizerFast(tokenizer_object=backend, eos_token=EOS)


TOKENIZERS = {"bytes": byte_tokenizer(), "merges": merged_tokenizer(), "pieces": sentencepiece_tokenizer()}


def window(tokenizer: PreTrainedTokenizerFast, texts: list[str]) -> np.ndarray:
    """Return [1, T + 1] an end-of-document token, and every text with one behind it."""
    ids = [tokenizer.eos_token_id]
    for text in texts:
        # As the corpus does: a special token that is written in a text is text.
        plain = tokenizer.encode(text, add_special_tokens=False, split_special_tokens=True)
        ids += [*plain, tokenizer.eos_token_id]
    return np.array([ids])


@pytest.mark.parametrize("name", TOKENIZERS)
@given(texts=st.lists(st.text(st.characters(exclude_categories=["Cs"])), min_size=1, max_size=3))
def test_whole_documents_have_the_bytes_of_their_text(name: str, texts: list[str]) -> None:
    tokenizer = TOKENIZERS[name]
    if name == "pieces":  # an empty text becomes a lone space that is the tokenizer's
        texts = [text for text in texts if text]
    counted = ByteCounter.of(tokenizer).count(window(tokenizer, texts)).tolist()
    assert counted == [sum(len(text.encode()) for text in texts)]


def test_a_cut_inside_a_character_by_hand() -> None:
    """`é€` is C3 A9 and E2 82 AC; cut after the first of five bytes and before the last."""
    tokenizer = TOKENIZERS["bytes"]
    ids = tokenizer.encode("é€", add_special_tokens=False)
    assert len(ids) == 5
    assert ByteCounter.of(tokenizer).count(np.array([ids[:4], ids[1:]])).tolist() == [3, 3]


def test_special_tokens_stand_for_no_text_and_added_ones_for_theirs() -> None:
    tokenizer = TOKENIZERS["merges"]
    ids = tokenizer.convert_tokens_to_ids(["a", EOS, "    ", "a"])
    assert ByteCounter.of(tokenizer).count(np.array([ids])).tolist() == [5]


@pytest.mark.parametrize("name", TOKENIZERS)
def test_bits_per_byte_do_not_depend_on_the_tokenizer(name: str) -> None:
    """A model that gives every byte 2 ** -1.7 and a document's end 2 ** -3: (1.7 * bytes + 3 * documents) / bytes."""
    tokenizer = TOKENIZERS[name]
    num_bytes = [len(text.encode()) for text in SAMPLE]
    windows = [window(tokenizer, [text]) for text in SAMPLE]
    nats = [math.log(2) * (1.7 * size + 3) for size in num_bytes]
    counted = [int(ByteCounter.of(tokenizer).count(ids)[0]) for ids in windows]
    # `summarise` reads sequences of one length; these have not, so a sequence stands for one token here.
    found = summarise(nats, counted, tokens_per_sequence=1)["bits_per_byte"]
    assert found == pytest.approx(1.7 + 3 * len(SAMPLE) / sum(num_bytes))


@pytest.mark.parametrize("bos", ["never", "always"])
def test_a_token_in_front_of_every_window_has_no_bytes(bos: str, tmp_path: Path) -> None:
    """Windows of one target: together they predict all but the first token, whether or not they show what is before."""
    tokenizer = sentencepiece_tokenizer()
    tokenizer.add_special_tokens({"bos_token": "<s>"})
    texts = ["that hat", "not the cat", "heat"]
    documents = pd.DataFrame({"split": "validation", "source": "s", "text": texts})
    corpus = tokenize_and_pack(documents, tokenizer, seed=0, folder=tmp_path / "c", bos=bos, progress=False)
    packed, count = corpus.text("validation", "s"), corpus.num_tokens("validation") - 1
    windows = corpus.windows("validation", 1)
    assert windows[:, 1].tolist() == packed[1:].tolist()
    assert (windows[:, 0] == tokenizer.bos_token_id).all() == (bos == "always")
    (counted,) = source_bytes(tokenizer, corpus, "validation", (1, count)).values()
    first = tokenizer.convert_ids_to_tokens(int(packed[0]))
    assert first.startswith("\u2581")
    assert sum(counted) == sum(map(len, texts)) - (len(first) - 1)


def test_ids_may_have_holes() -> None:
    """256 bytes, an end of document at 256, nothing from 257 to 299, and one more token at 300."""
    backend = json.loads(byte_tokenizer().backend_tokenizer.to_str())
    backend["model"]["vocab"]["<|endoftext|>"] = 256
    backend["model"]["vocab"]["\u0120the"] = 300
    backend["model"]["merges"] = []
    holes = PreTrainedTokenizerFast(tokenizer_object=Tokenizer.from_str(json.dumps(backend)), eos_token=EOS)
    assert len(holes) == 258
    assert ByteCounter.of(holes).count(np.array([[256, 300, 100, 256]])).tolist() == [5]


def test_a_tokenizer_without_bytes_is_refused() -> None:
    backend = Tokenizer(models.WordLevel({"a": 0, EOS: 1}, unk_token=EOS))
    words = PreTrainedTokenizerFast(tokenizer_object=backend, eos_token=EOS)
    with pytest.raises(ValueError, match="decodes by nothing; bits per byte need a byte-level tokenizer"):
        ByteCounter.of(words)
