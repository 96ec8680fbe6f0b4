"""GGUF files beside those of llama.cpp's own converter, and their tokenizers beside those of the checkpoints."""

import gguf
import numpy as np
import pytest
from engines import ENGINES, convert, tokenize
from exports import KINDS, write_export
from teachers import tiny_teacher
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

from budwood.models.checkpoint import load_tokenizer, save_checkpoint
from budwood.models.gguf_export import write_gguf
from budwood.models.gguf_tokenizer import _BY_ONE, _BY_THREE

pytestmark = [pytest.mark.serving, pytest.mark.slow]

TEXTS = (
    "Hello  world, it's 12345 o'clock!",
    " leading and trailing ",
    "naïve café 日本語 🙂 Привет",
    "\n\n\ttabs\r\nand lines\n",
    "We'LL see: x=3.14159; a_b-c",
)
OWN_KEYS = {"general.name", "tokenizer.ggml.merges", "tokenizer.ggml.pre"}
"""What differs: a name, a merge that never happens where the vocabulary has none, and what `convert` feigns."""


@pytest.mark.parametrize("name", ["llama-whole", "llama-prefix", "qwen2-filled", "qwen3-strided", "smollm3-whole"])
@pytest.mark.usefixtures("vllm")
def test_llama_cpps_converter_writes_the_same_tensors_and_settings(need, name, tmp_path):
    need((ENGINES / "converter").is_dir(), f"llama.cpp's converter is not installed in {ENGINES}")
    folder = write_export(KINDS[name], tmp_path / name)
    convert(folder, tmp_path / "theirs.gguf")
    ours = gguf.GGUFReader(write_gguf(folder, tmp_path / "ours.gguf", "f32"))
    theirs = gguf.GGUFReader(tmp_path / "theirs.gguf")
    tensors = {tensor.name: tensor.data for tensor in ours.tensors}
    assert tensors.keys() == {tensor.name for tensor in theirs.tensors}
    for tensor in theirs.tensors:
        assert np.array_equal(tensors[tensor.name], tensor.data), tensor.name
    said, expected = ({key: field.contents() for key, field in reader.fields.items()} for reader in (ours, theirs))
    shared = said.keys() & expected.keys() - OWN_KEYS - {key for key in said if key.startswith("GGUF.")}
    assert {key: said[key] for key in shared} == {key: expected[key] for key in shared}
    missing = {key for key in expected.keys() - said.keys() if not key.startswith("general.")}
    assert not missing - OWN_KEYS


def byte_level(*splits, normalizer=None, ignore_merges=False):
    """Train a byte-level tokenizer that splits texts first."""
    backend = Tokenizer(models.BPE(ignore_merges=ignore_merges))
    backend.normalizer = normalizer
    backend.pre_tokenizer = pre_tokenizers.Sequence(list(splits))
    backend.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=400, initial_alphabet=alphabet, show_progress=False)
    backend.train_from_iterator(TEXTS * 3, trainer)
    return PreTrainedTokenizerFast(tokenizer_object=backend)


def split_by(pattern):
    """Return the two steps of tokenizers that split by a pattern of their own."""
    from tokenizers import Regex

    return (
        pre_tokenizers.Split(Regex(pattern), "isolated"),
        pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
    )


def sentencepiece_like():
    """Train a tokenizer of words with a mark for spaces, and of bytes where a character is unknown."""
    backend = Tokenizer(models.BPE(unk_token="<unk>", byte_fallback=True, fuse_unk=True))  # noqa: S106
    backend.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    backend.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()])
    special = ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256))]
    trainer = trainers.BpeTrainer(vocab_size=400, special_tokens=special, show_progress=False)
    backend.train_from_iterator([text for text in TEXTS if text.isascii()] * 3, trainer)
    described = Tokenizer.from_str(backend.to_str().replace('"special":true', '"special":false'))
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=described, bos_token="<s>", unk_token="<unk>")  # noqa: S106
    assert tokenizer.backend_tokenizer.model.byte_fallback
    return tokenizer


TOKENIZERS = {
    "gpt-2": lambda: byte_level(pre_tokenizers.ByteLevel(add_prefix_space=False)),
    "smollm": lambda: byte_level(
        pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)
    ),
    "llama-bpe": lambda: byte_level(*split_by(_BY_THREE), ignore_merges=True),
    "dbrx": lambda: byte_level(*split_by(_BY_THREE)),
    "qwen2": lambda: byte_level(*split_by(_BY_ONE), normalizer=normalizers.NFC()),
    "default": sentencepiece_like,
}


@pytest.mark.parametrize("name", TOKENIZERS)
@pytest.mark.usefixtures("llama_cpp")
def test_llama_cpp_splits_texts_as_the_checkpoint_does(name, tmp_path):
    tokenizer = TOKENIZERS[name]()
    model = tiny_teacher("llama", tied=True, vocab_size=len(tokenizer) + 3)
    folder = save_checkpoint(model, tokenizer, tmp_path / "teacher")
    file = write_gguf(folder, tmp_path / "model.gguf", "f32")
    pre = gguf.GGUFReader(file).fields["tokenizer.ggml.pre"].contents()
    assert pre == name
    expected = [load_tokenizer(folder)(text, add_special_tokens=False).input_ids for text in TEXTS]
    assert tokenize(file, TEXTS, tmp_path) == expected
