"""GGUF files say what their checkpoints say; the engines themselves are asked in tests/serving."""

import gguf
import numpy as np
import pytest
import torch
from strategies import sample_any
from teachers import TEACHERS, tiny_teacher
from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, pre_tokenizers
from transformers import AutoModelForCausalLM, PreTrainedTokenizerFast

from budwood.arch.servable import LAYERWISE
from budwood.arch.space import SearchSpace
from budwood.models import gguf_export
from budwood.models.checkpoint import own_weights, save_checkpoint
from budwood.models.gguf_export import choose_form, least_version, write_gguf
from budwood.models.gguf_tokenizer import add_tokenizer
from budwood.models.teacher import byte_tokenizer
from budwood.subnet.extract import extract_child
from budwood.subnet.ordering import Ordering, open_ordered

WIDE = {"vocab_size": 257, "max_position_embeddings": 64}


def write_teacher(name, target, **changes):
    family, tied = TEACHERS[name]
    if family == "gpt_neox":
        changes = {"hidden_size": 48, "num_attention_heads": 3} | changes
    return save_checkpoint(tiny_teacher(family, tied=tied, **WIDE | changes), byte_tokenizer(), target)


def fields(file):
    return {key: field.contents() for key, field in gguf.GGUFReader(file).fields.items()}


@pytest.mark.slow
@pytest.mark.parametrize("name", ["llama tied", "llama untied", "qwen2 tied"])
def test_transformers_own_reader_finds_the_same_model(name, tmp_path):
    # Its reader knows only heads that fill the hidden size.
    folder = write_teacher(name, tmp_path / "teacher", num_attention_heads=3)
    write_gguf(folder, tmp_path / "model.gguf", "f32")
    ids = torch.arange(1, 40)[None]
    with torch.no_grad():
        expected = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)(ids).logits
        found = AutoModelForCausalLM.from_pretrained(tmp_path, gguf_file="model.gguf", dtype=torch.float32)(ids).logits
    assert torch.allclose(found, expected, atol=1e-4)


def test_llama3_scaling_becomes_a_factor_for_every_pair(tmp_path):
    """The formula of Llama 3.1: long waves turn `factor` times more slowly, short ones as before."""
    rope = {
        "rope_type": "llama3",
        "rope_theta": 10_000.0,
        "factor": 8.0,
        "low_freq_factor": 1.0,
        "high_freq_factor": 4.0,
        "original_max_position_embeddings": 64,
    }
    folder = write_teacher("llama tied", tmp_path / "teacher", rope_parameters=rope)
    reader = gguf.GGUFReader(write_gguf(folder, tmp_path / "model.gguf", "f32"))
    factors = next(tensor.data for tensor in reader.tensors if tensor.name == "rope_freqs.weight")
    waves = 2 * np.pi * 10_000.0 ** (np.arange(8) / 8)
    smooth = np.clip((64 / waves - 1) / 3, 0, 1)
    assert factors == pytest.approx(1 / ((1 - smooth) / 8 + smooth), rel=1e-5)
    assert factors.min() == 1
    assert factors.max() == 8


@pytest.mark.parametrize(("rope", "factor"), [({"rope_type": "default"}, None), ({"rope_type": "linear"}, 4.0)])
def test_constant_factors_are_a_scaling(rope, factor, tmp_path):
    rope |= {"rope_theta": 500.0} | ({"factor": factor} if factor else {})
    folder = write_teacher("gemma2 tied", tmp_path / "teacher", rope_parameters=rope, sliding_window=64)
    said = fields(write_gguf(folder, tmp_path / "model.gguf"))
    assert said["gemma2.rope.freq_base"] == 500
    assert said.get("gemma2.rope.scaling.factor") == (pytest.approx(factor) if factor else None)


def test_the_header_holds_tokens_ends_and_template(tmp_path):
    tokenizer = byte_tokenizer()
    tokenizer.add_special_tokens({"bos_token": "<s>", "additional_special_tokens": ["<turn>"]})
    tokenizer.add_tokens([AddedToken("<tool>", special=False)])
    tokenizer.chat_template = "{{ messages }}"
    model = tiny_teacher("llama", tied=True, vocab_size=262, eos_token_id=[256, 258])
    folder = save_checkpoint(model, tokenizer, tmp_path / "teacher")
    said = fields(write_gguf(folder, tmp_path / "model.gguf"))
    assert (said["tokenizer.ggml.model"], said["tokenizer.ggml.pre"]) == ("gpt2", "gpt-2")
    assert said["tokenizer.ggml.tokens"][256:] == ["<|endoftext|>", "<s>", "<turn>", "<tool>", "[PAD260]", "[PAD261]"]
    kinds = [gguf.TokenType(kind).name for kind in said["tokenizer.ggml.token_type"][255:]]
    assert kinds == ["NORMAL", "CONTROL", "CONTROL", "CONTROL", "USER_DEFINED", "UNUSED", "UNUSED"]
    assert said["tokenizer.ggml.bos_token_id"] == 257
    assert (said["tokenizer.ggml.eos_token_id"], said["tokenizer.ggml.eot_token_id"]) == (256, 258)
    assert said["tokenizer.ggml.add_bos_token"] is False
    assert said["tokenizer.chat_template"] == "{{ messages }}"


@pytest.mark.parametrize("storage", ["f32", "f16", "bf16"])
def test_matrices_have_the_format_and_vectors_are_float32(storage, tmp_path):
    folder = write_teacher("llama tied", tmp_path / "teacher")
    for tensor in gguf.GGUFReader(write_gguf(folder, tmp_path / "model.gguf", storage)).tensors:
        assert tensor.tensor_type.name.lower() == (storage if len(tensor.shape) > 1 else "f32")


@pytest.mark.parametrize(
    ("name", "changes", "message"),
    [
        ("gemma2 untied", {}, "its head is not tied to its embedding"),
        ("gemma2 tied", {"final_logit_softcapping": None}, "it does not cap its logits"),
        ("gemma3_text untied", {}, "its head is not tied to its embedding"),
        ("gemma3_text tied", {"attn_logit_softcapping": 50.0}, "it caps its attention scores"),
        (
            "smollm3 tied",
            {"no_rope_layers": [1, 0, 1, 1]},
            "as smollm3, its layers without positions are not every 4th",
        ),
        ("llama tied", {"hidden_act": "gelu"}, "its activation is gelu and not silu"),
    ],
)
def test_what_llama_cpp_cannot_express_is_refused_with_the_reason(name, changes, message, tmp_path):
    folder = write_teacher(name, tmp_path / "teacher", **changes)
    with pytest.raises(
        ValueError, match=f"teacher cannot be written as GGUF, llama.cpp has no form for it: .*{message}"
    ):
        write_gguf(folder, tmp_path / "model.gguf")
    assert not list(tmp_path.glob("*.gguf*"))


@pytest.mark.slow
@pytest.mark.parametrize("layerwise", [False, True])
@pytest.mark.parametrize(
    "family", ["gemma2", "gemma3_text", "gpt_neox", "llama", "mistral", "olmo2", "olmo3", "qwen2", "qwen3"]
)
def test_every_member_of_a_servable_space_has_a_form(family, layerwise, tmp_path):
    folder = write_teacher(f"{family} tied", tmp_path / "teacher")
    parent = open_ordered(folder, Ordering(ordering="magnitude", layer_score="influence"))
    try:
        space = SearchSpace(teacher=parent.ranked, layerwise=layerwise, servable=("llama.cpp",))
    except ValueError:
        assert layerwise
        assert family not in LAYERWISE
        return
    rng = np.random.default_rng(0)
    for member in range(4):
        child = own_weights(extract_child(parent, sample_any(space, rng)))
        choose_form(save_checkpoint(child, byte_tokenizer(), tmp_path / f"child-{member}"))


def test_heads_that_turn_nowhere_have_no_form(tmp_path):
    """Fine cuts of partial rotary embeddings may keep no pair that turns."""
    rope = {"rope_type": "default", "rope_theta": 1e4, "partial_rotary_factor": 0.1}
    with pytest.raises(ValueError, match="no form for it: as gptneox, no dimension of its heads turns"):
        choose_form(write_teacher("gpt_neox untied", tmp_path / "teacher", rope_parameters=rope))


@pytest.mark.parametrize(
    ("name", "changes", "positions"),
    [
        ("llama tied", {}, 64),
        ("mistral tied", {"sliding_window": 16}, 16),
        ("qwen3 tied", {"sliding_window": 16}, 16),
        ("gemma2 tied", {"sliding_window": 16}, 64),
        ("gemma3_text tied", {"sliding_window": 16}, 64),
        ("olmo3 tied", {"hidden_size": 96, "sliding_window": 16}, 64),
        ("phi3 tied", {"sliding_window": None}, 20),
        ("phi3 untied", {"sliding_window": 12}, 12),
    ],
)
def test_a_file_has_as_many_positions_as_it_is_right_for(name, changes, positions, tmp_path):
    """llama.cpp has no windows of most families, and chooses between lists of factors by the size of its cache."""
    said = fields(write_gguf(write_teacher(name, tmp_path / "teacher", **changes), tmp_path / "model.gguf"))
    assert said[f"{said['general.architecture']}.context_length"] == positions


def test_multipliers_are_in_the_header(tmp_path):
    folder = write_teacher("granite+attention_bias+mlp_bias untied", tmp_path / "teacher")
    said = fields(write_gguf(folder, tmp_path / "model.gguf"))
    keys = ("embedding_scale", "attention.scale", "residual_scale", "logit_scale")
    assert [said[f"granite.{key}"] for key in keys] == pytest.approx([3.0, 0.15, 0.6, 2.5])


@pytest.mark.parametrize(
    ("rstrip", "lacking", "name"),
    [(True, (), "phi3"), (False, (), "phi"), (True, ("<unk>",), "phi"), (True, ("</s>",), "phi")],
)
def test_only_tokens_that_strip_as_those_of_phi3_mini_are_in_a_file_of_that_name(rstrip, lacking, name, tmp_path):
    """llama.cpp goes by the name, and opens no file of that name that lacks one of the tokens."""
    tokenizer = byte_tokenizer()
    given = [AddedToken("</s>", rstrip=rstrip), AddedToken("<unk>"), AddedToken("<s>")]
    tokenizer.add_tokens([token for token in given if token.content not in lacking], special_tokens=True)
    teacher = tiny_teacher("phi3", tied=True, vocab_size=260, hidden_size=96)
    folder = save_checkpoint(teacher, tokenizer, tmp_path / "phi3")
    header = fields(write_gguf(folder, tmp_path / "model.gguf", "f32"))
    assert header["general.name"].split()[1] == name
    assert header["general.architecture"] == "phi3"


@pytest.mark.parametrize("slides", [(True, False, True, False), (True, False, False, True)])
def test_layers_with_a_window_are_listed_where_they_are_not_those_of_the_family(slides, tmp_path):
    """Older versions of llama.cpp read no list."""
    types = ["sliding_attention" if slide else "full_attention" for slide in slides]
    folder = write_teacher("gemma2 tied", tmp_path / "teacher", layer_types=types)
    listed = fields(write_gguf(folder, tmp_path / "model.gguf")).get("gemma2.attention.sliding_window_pattern")
    assert listed == (None if slides[2] else list(slides))
    assert least_version(folder) == (None if slides[2] else "0.5")


def test_weights_too_large_for_the_format_are_refused(tmp_path):
    model = tiny_teacher("llama", tied=True, **WIDE)
    with torch.no_grad():
        model.model.layers[1].mlp.down_proj.weight[0, 0] = 1e5
    folder = save_checkpoint(model, byte_tokenizer(), tmp_path / "teacher")
    with pytest.raises(ValueError, match=r"gguf: f16 cannot express 1e\+05 in blk\.1\.ffn_down\.weight"):
        write_gguf(folder, tmp_path / "model.gguf")
    assert write_gguf(folder, tmp_path / "model.gguf", "bf16").is_file()


def test_a_file_that_differs_from_its_checkpoint_is_refused(tmp_path, monkeypatch):
    folder = write_teacher("llama tied", tmp_path / "teacher")
    tensors = gguf_export._tensors
    monkeypatch.setattr(gguf_export, "_tensors", lambda *given: list(tensors(*given))[:-1])
    with pytest.raises(ValueError, match="differs from its checkpoint in number of parameters"):
        write_gguf(folder, tmp_path / "model.gguf")
    assert not list(tmp_path.glob("*.gguf*"))


class Recorder(gguf.GGUFWriter):
    """A writer whose file is never made."""

    def __init__(self) -> None:
        super().__init__(None, "llama")

    def said(self, name):
        return self.kv_data[0][f"tokenizer.ggml.{name}"].value


def test_sentencepiece_scores_fall_in_the_order_of_merges():
    vocabulary = {"<unk>": 0, "<s>": 1, "<0x41>": 2, "▁": 3, "a": 4, "b": 5, "ab": 6, "▁ab": 7}
    backend = Tokenizer(models.BPE(vocabulary, [("a", "b"), ("▁", "ab")], unk_token="<unk>", byte_fallback=True))  # noqa: S106
    backend.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    backend.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()])
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=backend, bos_token="<s>", unk_token="<unk>")  # noqa: S106
    writer = Recorder()
    add_tokenizer(writer, tokenizer, {"vocab_size": 8})
    assert (writer.said("model"), writer.said("add_space_prefix")) == ("llama", True)
    assert writer.said("scores")[6:] == [0.0, -1.0]
    assert writer.said("scores")[:6] == [-2.0] * 6
    kinds = [gguf.TokenType(kind).name for kind in writer.said("token_type")]
    assert kinds == ["UNKNOWN", "CONTROL", "BYTE", *["NORMAL"] * 5]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"pre_tokenizer": pre_tokenizers.Whitespace()}, "no name here for a tokenizer that .* splits by"),
        ({"normalizer": normalizers.Lowercase()}, "normalises by Lowercase"),
        ({"model": models.WordLevel({"a": 0}, unk_token="a")}, "no form for a WordLevel tokenizer"),  # noqa: S106
    ],
)
def test_tokenizers_that_llama_cpp_lacks_are_refused(changes, message):
    tokenizer = byte_tokenizer()
    for name, value in changes.items():
        setattr(tokenizer.backend_tokenizer, name, value)
    with pytest.raises(ValueError, match=message):
        add_tokenizer(Recorder(), tokenizer, {"vocab_size": 300})


def test_a_vocabulary_larger_than_the_models_is_refused():
    with pytest.raises(ValueError, match="the tokenizer has 257 tokens, the model 200"):
        add_tokenizer(Recorder(), byte_tokenizer(), {"vocab_size": 200})
