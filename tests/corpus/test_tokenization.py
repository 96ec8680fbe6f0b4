"""Text is text: what is written in a document never becomes a control token, whatever the tokenizer."""

import pickle

import numpy as np
import pytest
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from transformers import ByT5Tokenizer, PreTrainedTokenizerFast
from words import make_tokenizer

from budwood.corpus.tokenization import Encoder, begin_texts, first_token, num_ids

CONTROL = ["<|endoftext|>", "<|im_start|>", "<|im_end|>", "<|tool|>"]
TEXTS = [
    "plain text",
    "a<|endoftext|>b",
    "<|im_start|>user\nhello<|im_end|>",
    "</s><s> <pad><unk> <extra_id_3>",
    " ".join(CONTROL),
]


def with_controls(backend: Tokenizer) -> PreTrainedTokenizerFast:
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=backend, eos_token=CONTROL[0], bos_token=CONTROL[1])
    tokenizer.add_special_tokens({"extra_special_tokens": CONTROL[2:]})
    tokenizer.add_tokens(["    "])
    return tokenizer


def bpe() -> PreTrainedTokenizerFast:
    """Return a byte-level BPE with merges, four control tokens, and an ordinary added one."""
    backend = Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=300, initial_alphabet=alphabet, special_tokens=CONTROL[:1])
    backend.train_from_iterator([*TEXTS, *TEXTS], trainer)
    return with_controls(backend)


def pieces() -> PreTrainedTokenizerFast:
    """Return a BPE as SentencePiece writes it, with control tokens inside its vocabulary."""
    names = ["<unk>", "<s>", "</s>", *CONTROL, *(f"<0x{byte:02X}>" for byte in range(256)), "\u2581", *"<>/s"]
    backend = Tokenizer(
        models.BPE({name: index for index, name in enumerate(names)}, [], unk_token="<unk>", byte_fallback=True)  # noqa: S106
    )
    backend.normalizer = normalizers.Sequence([normalizers.Prepend("\u2581"), normalizers.Replace(" ", "\u2581")])
    parts = [decoders.Replace("\u2581", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    backend.decoder = decoders.Sequence(parts)
    tokenizer = with_controls(backend)
    tokenizer.add_special_tokens({"unk_token": "<unk>", "pad_token": "<s>", "sep_token": "</s>"})
    return tokenizer


TOKENIZERS = {"bpe": bpe(), "pieces": pieces(), "bytes": ByT5Tokenizer()}


@pytest.mark.parametrize("name", TOKENIZERS)
def test_control_tokens_written_in_a_text_are_text(name):
    tokenizer = TOKENIZERS[name]
    control = {index for index, token in tokenizer.added_tokens_decoder.items() if token.special}
    assert len(control) >= 3
    encoder = pickle.loads(pickle.dumps(Encoder.of(tokenizer)))  # noqa: S301 - as it travels to workers
    for text, ids in zip(TEXTS, encoder.encode(TEXTS), strict=True):
        assert ids[-1] == tokenizer.eos_token_id
        assert not control & set(ids[:-1].tolist())
        assert tokenizer.decode(ids[:-1]) == text
        plain = tokenizer.encode(text, add_special_tokens=False, split_special_tokens=True)
        assert ids[:-1].tolist() == plain, "as transformers has it"
    assert encoder.encode([TEXTS[0]])[0][:-1].tolist() == tokenizer.encode(TEXTS[0], add_special_tokens=False)


def test_added_tokens_that_are_no_control_tokens_stay():
    tokenizer = TOKENIZERS["bpe"]
    (ids,) = Encoder.of(tokenizer).encode(["a    b"])
    assert tokenizer.convert_tokens_to_ids("    ") in ids


def test_a_tokenizer_that_cannot_write_a_control_token_as_text_is_refused():
    with pytest.raises(ValueError, match=r"the id 0 of a text, which is a control token.* begins with 'w1 <eos>'"):
        Encoder.of(make_tokenizer()).encode(["w1 <eos>"])


def test_ids_beyond_the_embedding_are_refused():
    tokenizer = make_tokenizer()
    assert [ids.tolist() for ids in Encoder.of(tokenizer, 8).encode(["w7"])] == [[7, 0]]
    with pytest.raises(ValueError, match=r"makes the id 8 of a text, which is .* not in the model's embedding"):
        Encoder.of(tokenizer, 8).encode(["w7 w8"])
    with pytest.raises(ValueError, match="eos_token_id=0 must be below the model's vocab_size=0"):
        Encoder.of(tokenizer, 0)


def test_the_largest_id_decides_and_not_the_number_of_tokens():
    backend = Tokenizer(models.WordLevel({"<eos>": 0, "far": 70_000}, unk_token="<eos>"))  # noqa: S106
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=backend, eos_token="<eos>")  # noqa: S106
    assert (len(tokenizer), num_ids(tokenizer)) == (2, 70_001)
    (ids,) = Encoder.of(tokenizer).encode(["far"])
    assert (ids.dtype, ids.tolist()) == (np.dtype("uint32"), [70_000, 0])


def prescribing(bos: bool) -> PreTrainedTokenizerFast:  # noqa: FBT001 - the one thing that differs
    tokenizer = bpe()
    if bos:
        tokenizer.backend_tokenizer.post_processor = processors.TemplateProcessing(
            single=f"{CONTROL[1]} $A", special_tokens=[(CONTROL[1], tokenizer.bos_token_id)]
        )
    return tokenizer


@pytest.mark.parametrize(
    ("prescribes", "bos", "expected"),
    [(True, "auto", True), (True, "always", True), (True, "never", False),
     (False, "auto", False), (False, "always", True), (False, "never", False)],
)  # fmt: skip
def test_the_tokenizer_or_the_settings_decide_what_begins_a_window(prescribes, bos, expected):
    tokenizer = prescribing(prescribes)
    assert first_token(tokenizer, bos) == (tokenizer.bos_token_id if expected else None)


@pytest.mark.parametrize("prescribes", [True, False])
@pytest.mark.parametrize("bos", ["always", "never"])
def test_texts_begin_as_windows_do(prescribes, bos):
    tokenizer = prescribing(prescribes)
    own = tokenizer.encode("ab", add_special_tokens=False)
    token = first_token(tokenizer, bos)
    begin_texts(tokenizer, token)
    assert tokenizer.encode("ab") == ([] if token is None else [token]) + own
    assert tokenizer("ab", add_special_tokens=False)["input_ids"] == own


def test_a_tokenizer_without_the_token_cannot_always_begin_with_it():
    # It would put its end-of-document token in front of a text, which is no beginning.
    assert first_token(make_tokenizer(), "auto") is None
    with pytest.raises(ValueError, match="bos='always' needs a tokenizer with a bos_token"):
        first_token(make_tokenizer(), "always")
