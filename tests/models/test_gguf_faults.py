"""A GGUF file that is damaged, or holds what is not understood, is refused in one sentence before a weight is read."""

import numpy as np
import pytest
from gguf_teachers import GEMMA3, rope_of, split, written
from ggufs import tensors_of
from teachers import tiny_teacher

from budwood.models import gguf as module
from budwood.models import gguf_header
from budwood.models.gguf import convert_gguf, describe_gguf, gguf_tokenizer
from budwood.models.settings import TeacherSettings
from budwood.models.teacher import describe_teacher


def refuse(file, tmp_path, match):
    for read in (describe_gguf, lambda path: convert_gguf(path, tmp_path / "converted")):
        with pytest.raises(ValueError, match=match) as caught:
            read(file)
        assert str(file.parent) in str(caught.value)
    assert not (tmp_path / "converted").exists()


def test_a_gemma3_whose_windows_would_be_scaled_too_is_refused(tmp_path):
    model = tiny_teacher("gemma3_text", tied=True, **GEMMA3)
    keys = {"attention.sliding_window": 8, "rope.scaling.type": "yarn", "rope.scaling.factor": 4.0}
    refuse(written(tmp_path, model, "gemma3", keys=keys), tmp_path, "rope.scaling.type='yarn' cannot be read")


@pytest.mark.parametrize(
    ("keys", "match"),
    [
        ({"rope.scaling.type": "longrope"}, r"llama.rope.scaling.type='longrope' .* none, linear, yarn"),
        ({"rope.scaling.yarn_attn_factor": 1.25}, r"llama.rope.scaling.yarn_attn_factor=1.25 .* supported: 1"),
        ({"rope.scaling.yarn_log_multiplier": 0.1}, r"yarn_log_multiplier=0.1"),
        ({"rope.dimension_count": 8}, r"rope.dimension_count=8 .* the 16 dimensions of a head"),
        ({"attention.value_length": 8}, r"attention.value_length=8"),
        ({"expert_count": 4}, r"expert_count=4 .* supported: 0"),
        ({"logit_scale": 0.5}, r"llama.logit_scale=0.5 cannot be read"),
        ({"attention.sliding_window": 8}, r"attention.sliding_window=8 cannot be read"),
        ({"attention.head_count": [6, 6, 6, 4]}, r"attention.head_count=\[6, 6, 6, 4\] .* for all layers"),
        ({"block_count": None}, r"block_count=None"),
        ({"block_count": 200_000}, r"num_hidden_layers=200000 must be between 1 and 1024"),
        ({"attention.layer_norm_rms_epsilon": None}, r"layer_norm_rms_epsilon=None"),
        ({"feed_forward_length": 41}, r"tensor 'blk.0.ffn_gate.weight' has the shape \(40, 48\)"),
        ({"block_count": 5}, r"has no tensor 'blk.4.attn_norm.weight'"),
        ({"block_count": 3}, r"has a tensor 'blk.3.attn_k.weight'"),
        ({" general.type": "adapter"}, r"general.type='adapter'"),
    ],
)
def test_a_key_that_is_not_understood_is_named_with_its_value(keys, match, tmp_path, monkeypatch):
    monkeypatch.setattr(module, "_weight", None)  # no weight is read before
    refuse(written(tmp_path, tiny_teacher("llama", tied=True), keys=keys), tmp_path, match)


@pytest.mark.parametrize(
    ("tensors", "match"),
    [
        ({"blk.0.attn_q.bias": np.zeros(96, np.float32)}, "has a tensor 'blk.0.attn_q.bias'"),
        ({"token_embd.weight": None}, "has no tensor 'token_embd.weight'"),
        ({"rope_freqs.weight": np.ones(4, np.float32)}, "'rope_freqs.weight' has 4 values for 8"),
        ({"output_norm.weight": np.ones(48, np.int32)}, "'output_norm.weight' cannot be dequantised"),
    ],
)
def test_so_is_a_tensor(tensors, match, tmp_path):
    refuse(written(tmp_path, tiny_teacher("llama", tied=True), tensors=tensors), tmp_path, match)


def test_two_scalings_are_one_too_many(tmp_path):
    model = tiny_teacher("llama", tied=True, rope_parameters=rope_of("llama3"))
    refuse(written(tmp_path, model, keys={"rope.scaling.factor": 2.0}), tmp_path, r"rope.scaling.factor=2.0 .* beside")


def test_tokens_without_a_row_in_the_embedding_are_refused(tmp_path):
    model = tiny_teacher("llama", tied=True)
    file = written(tmp_path, model, tensors={"token_embd.weight": tensors_of(model)["token_embd.weight"][:96]})
    assert describe_gguf(file)["vocab_size"] == 96
    refuse(
        written(tmp_path, model, keys={" tokenizer.ggml.tokens": ["a"] * 98}),
        tmp_path,
        "names 98 tokens, and its embedding has 97 rows",
    )


def test_a_tokenizer_that_cannot_be_read_is_an_error_with_its_file(tmp_path):
    file = written(tmp_path, tiny_teacher("llama", tied=True))
    file.write_bytes(file.read_bytes().replace(b"tokenizer.ggml.merges", b"tokenizer.ggml.merged"))
    with pytest.raises(ValueError, match=r"model.gguf: its tokenizer cannot be read \(KeyError: 'scores'\)"):
        gguf_tokenizer(file)


@pytest.mark.parametrize("architecture", ["gemma", "mamba", "gptneox"])
def test_another_architecture_is_refused_by_its_header(architecture, tmp_path, monkeypatch):
    monkeypatch.setattr(module, "dequantize", None)
    file = written(tmp_path, tiny_teacher("llama", tied=True), architecture)
    refuse(file, tmp_path, rf"general.architecture='{architecture}' .* supported: gemma2, gemma3, llama, qwen2, qwen3")
    with pytest.raises(ValueError, match="cannot be read"):
        describe_teacher(TeacherSettings(model=str(file)))


def test_a_missing_part_is_named(tmp_path):
    first, second = split(tmp_path, tiny_teacher("llama", tied=True))
    second.unlink()
    refuse(first, tmp_path, r"one of 2 parts; these are not beside it: tiny-00002-of-00002.gguf")
    alone = first.rename(tmp_path / "alone.gguf")
    refuse(alone, tmp_path, r"alone.gguf is one of split.count=2 parts")


def test_a_part_of_another_model_is_noticed(tmp_path):
    first, _ = split(tmp_path, tiny_teacher("llama", tied=True), **{"tensors.count": 99})
    refuse(first, tmp_path, r"have 38 tensors and not split.tensors.count=99")


@pytest.mark.parametrize("share", [0.001, 0.1, 0.5, 0.999])
def test_a_truncated_file_is_noticed(share, tmp_path):
    file = written(tmp_path, tiny_teacher("llama", tied=True))
    data = file.read_bytes()
    file.write_bytes(data[: max(5, int(share * len(data)))])
    refuse(file, tmp_path, r"model.gguf is damaged or truncated")


@pytest.mark.parametrize("content", [b"", b"GGML" + bytes(64), b"PK\x03\x04"])
def test_another_kind_of_file_is_named(content, tmp_path):
    file = tmp_path / "model.gguf"
    file.write_bytes(content)
    refuse(file, tmp_path, r"model.gguf is no GGUF file")


def test_a_long_vocabulary_is_counted_and_not_read(tmp_path, monkeypatch):
    model = tiny_teacher("llama", tied=True, vocab_size=5_000)
    assert describe_gguf(written(tmp_path, model))["vocab_size"] == 5_000
    file = written(tmp_path, model, keys={" tokenizer.ggml.tokens": ["a"] * 5_001, " own.numbers": [1] * 5_000})
    refuse(file, tmp_path, "names 5001 tokens, and its embedding has 5000 rows")
    data = file.read_bytes()
    at = data.index(np.uint64(5_001).tobytes())
    file.write_bytes(data[:at] + np.uint64(10**15).tobytes() + data[at + 8 :])
    refuse(file, tmp_path, "a list of 1000000000000000 values is longer than the file")
    monkeypatch.setattr(gguf_header, "_MOST_VALUES", 10**16)
    with pytest.raises(ValueError, match="names 5001 tokens"):
        describe_gguf(written(tmp_path, model, keys={" tokenizer.ggml.tokens": ["a"] * 5_001}))
