"""Every layer-wise class is its family's stock model, but for the sizes of its layers."""

import json
import os

import pytest
import torch
from processes import run_python
from strategies import PARTLY_TURNING
from transformers import AutoConfig, AutoModelForCausalLM

from budwood.models.modeling import LAYERWISE_CLASSES

HIDDEN_SIZE = 24
SIZES = ((1, 1, 16, 20), (4, 2, 8, 9), (5, 1, 24, 31))
"""Heads, groups, head dimension and neurons of three layers; five heads do not divide the hidden size."""
STOCK_SIZES = ((1, 1, 24, 20), (4, 2, 6, 9), (3, 1, 8, 31))
"""Sizes that every stock class can express."""
SETTINGS = {
    "gpt_neox": {},
    "granite": {
        "embedding_multiplier": 3.0,
        "attention_multiplier": 0.15,
        "residual_multiplier": 0.6,
        "logits_scaling": 2.5,
        "attention_bias": True,
        "mlp_bias": True,
    },
    "llama": {"attention_bias": True, "mlp_bias": True},
    "ministral3": {"sliding_window": None},
    "mistral": {"sliding_window": 4},
    "olmo2": {},
    "phi3": {"sliding_window": None, "original_max_position_embeddings": 64},
    "qwen2": {},
    "qwen3": {
        "attention_bias": True,
        "use_sliding_window": True,
        "sliding_window": 4,
        "layer_types": ["full_attention", "sliding_attention", "full_attention"],
    },
    "smollm3": {"no_rope_layers": [1, 0, 1]},
    "stablelm": {"use_qkv_bias": True},
    "starcoder2": {"sliding_window": 4},
    "gemma2": {
        "layer_types": ["sliding_attention", "full_attention", "sliding_attention"],
        "sliding_window": 4,
        "query_pre_attn_scalar": 16,
    },
    "gemma3_text": {
        "layer_types": ["sliding_attention", "full_attention", "sliding_attention"],
        "sliding_window": 4,
        "query_pre_attn_scalar": 16,
    },
    "olmo3": {"layer_types": ["sliding_attention", "full_attention", "sliding_attention"], "sliding_window": 4},
}
STRANGER = """
import sys
from pathlib import Path
sys.modules["budwood"] = None  # importing it fails, installed or not
import torch
from transformers import AutoModel, AutoModelForCausalLM
tokens, *folders = map(Path, sys.argv[1:])
for folder in folders:
    model = AutoModelForCausalLM.from_pretrained(folder, trust_remote_code=True)
    assert type(model).__module__.startswith("transformers_modules.")
    with torch.no_grad():
        torch.save(model(torch.load(tokens)).logits, folder / "logits.pt")
        decoder = AutoModel.from_pretrained(folder, trust_remote_code=True)
        assert type(decoder) is type(model.base_model)
        states = decoder(torch.load(tokens)).last_hidden_state
        assert torch.equal(states, model.base_model(torch.load(tokens)).last_hidden_state)
"""

every_class = pytest.mark.parametrize("family", SETTINGS)


def layer_settings(family, sizes, position):
    """Return what one layer has of its own; some families rotate an even part of each head dimension."""
    names = ("num_attention_heads", "num_key_value_heads", "head_dim", "intermediate_size")
    rope = {"rope_type": "default", "rope_theta": 100.0 * (position + 1)}
    settings = dict(zip(names, sizes, strict=True)) | {"rope_parameters": rope}
    if family in ("gemma3_text", "olmo3"):
        # Each layer finds its own under the name of its type.
        settings["rope_parameters"] = {"sliding_attention": rope, "full_attention": rope}
    if family == "gpt_neox":
        settings.pop("num_key_value_heads")
    if family in PARTLY_TURNING:
        rope["partial_rotary_factor"] = 0.25 if sizes[2] % 8 == 0 else 1 / 3
    if family == "phi3":
        pairs = int(sizes[2] * rope["partial_rotary_factor"]) // 2
        factors = {"short_factor": [1.0 + position] * pairs, "long_factor": [2.0] * pairs}
        rope |= {"rope_type": "longrope", "attention_factor": 1.1, "original_max_position_embeddings": 64} | factors
    if family == "ministral3":
        rope |= {"llama_4_scaling_beta": 0.3, "original_max_position_embeddings": 4}
    return settings


def common_settings(family, *, tied):
    return SETTINGS[family] | {
        "vocab_size": 31,
        "hidden_size": HIDDEN_SIZE,
        "num_hidden_layers": 3,
        "max_position_embeddings": 64,
        "tie_word_embeddings": tied,
        "initializer_range": 0.3,
        "bos_token_id": 0,
        "eos_token_id": 0,
        "pad_token_id": 0,
    }


def layerwise_config(family, sizes=SIZES, *, tied=False):
    layers = [layer_settings(family, layer, position) for position, layer in enumerate(sizes)]
    ones = {"num_attention_heads": 1} | ({} if family == "gpt_neox" else {"num_key_value_heads": 1})
    return LAYERWISE_CLASSES[family][0](
        **common_settings(family, tied=tied) | layers[0] | ones,
        per_layer_config=dict(enumerate(layers)),
        allow_global_per_layer_attribute_access=True,
    )


def draw(build):
    """Return the model with random weights everywhere, norms and biases included."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = build().eval()
        with torch.no_grad():
            for name, parameter in model.named_parameters():
                if "norm" in name or "bias" in name:
                    parameter.uniform_(0.5, 1.5)
    return model


def layerwise_model(family, sizes=SIZES, *, tied=False):
    return draw(lambda: LAYERWISE_CLASSES[family][1](layerwise_config(family, sizes, tied=tied)))


def stock_model(family, settings):
    return draw(lambda: AutoModelForCausalLM.from_config(AutoConfig.for_model(family, **settings)))


@pytest.fixture
def model(family):
    return layerwise_model(family)


@pytest.fixture(scope="module")
def tokens():
    return torch.randint(1, 31, (2, 11), generator=torch.Generator().manual_seed(1))


def logits_of(model, tokens, **settings):
    with torch.no_grad():
        return model(tokens, **settings).logits


@every_class
@pytest.mark.parametrize("tied", [False, True])
def test_equal_layers_compute_what_the_stock_model_computes(family, tied, tokens):
    sizes = STOCK_SIZES[1]
    stock = stock_model(family, common_settings(family, tied=tied) | layer_settings(family, sizes, 0))
    config = stock.config.to_dict()
    config |= {"model_type": LAYERWISE_CLASSES[family][0].model_type}
    config |= {"per_layer_config": dict.fromkeys(range(3), layer_settings(family, sizes, 0))}
    model = LAYERWISE_CLASSES[family][1](LAYERWISE_CLASSES[family][0].from_dict(config)).eval()
    assert model.state_dict().keys() == stock.state_dict().keys()
    model.load_state_dict(stock.state_dict())
    assert torch.equal(logits_of(model, tokens), logits_of(stock, tokens))
    assert (model.get_output_embeddings().weight is model.get_input_embeddings().weight) is tied


@every_class
def test_each_layer_is_a_stock_layer_of_its_own_sizes(family, tokens):
    """Layer i continues the hidden states as a stock model does that has layer i alone."""
    model = layerwise_model(family, STOCK_SIZES)
    decoder = model.base_model
    norm = decoder.final_layer_norm if family == "gpt_neox" else decoder.norm
    with torch.no_grad():
        states = model(tokens, output_hidden_states=True).hidden_states
        # The last of the hidden states has been through the final norm already.
        expected = [norm(states[1]), norm(states[2]), states[3]]
    for i, layer in enumerate(decoder.layers):
        settings = common_settings(family, tied=False) | layer_settings(family, STOCK_SIZES[i], i)
        lists = {key: [settings[key][i]] for key in ("layer_types", "no_rope_layers") if key in settings}
        stock = stock_model(family, settings | lists | {"num_hidden_layers": 1}).base_model
        stock.load_state_dict(
            {name: value for name, value in decoder.state_dict().items() if "layers." not in name}
            | {f"layers.0.{name}": value for name, value in layer.state_dict().items()}
        )
        with torch.no_grad():
            embedded = states[i] / settings.get("embedding_multiplier", 1.0)
            assert torch.allclose(stock(inputs_embeds=embedded).last_hidden_state, expected[i], atol=1e-6)


def test_gpt_neox_heads_need_not_add_up_to_the_hidden_size(tokens):
    """A second head that the output projection ignores leaves a stock model of one head what it was."""
    stock = stock_model(
        "gpt_neox", common_settings("gpt_neox", tied=False) | layer_settings("gpt_neox", (1, 1, 24, 20), 0)
    )
    config = layerwise_config("gpt_neox", ((2, 2, 24, 20),) * 3)
    config.per_layer_config = dict.fromkeys(range(3), layer_settings("gpt_neox", (2, 2, 24, 20), 0))
    model = LAYERWISE_CLASSES["gpt_neox"][1](config).eval()
    state = stock.state_dict()
    for name, value in state.items():
        if "query_key_value" in name:
            state[name] = torch.cat([value, torch.rand_like(value)])
        elif "dense.weight" in name:
            state[name] = torch.cat([value, torch.zeros_like(value)], dim=1)
    model.load_state_dict(state)
    assert torch.allclose(logits_of(model, tokens), logits_of(stock, tokens), atol=1e-6)


@pytest.mark.slow
@every_class
def test_the_cache_changes_nothing(model, tokens):
    model.double()  # rounding in float32 reaches 1e-4
    settings = {"max_new_tokens": 8, "min_new_tokens": 8, "do_sample": False}
    cached = model.generate(tokens, use_cache=True, **settings)
    assert torch.equal(cached, model.generate(tokens, use_cache=False, **settings))
    assert torch.equal(cached, model.generate(tokens, cache_implementation="static", disable_compile=True, **settings))
    with torch.no_grad():
        past = model(tokens[:, :6], use_cache=True)
        steps = [past.logits]
        for position in range(6, tokens.shape[1]):
            past = model(tokens[:, position, None], cache=past.cache)
            steps.append(past.logits)
    assert torch.allclose(torch.cat(steps, dim=1), logits_of(model, tokens), atol=1e-10)


@pytest.mark.slow
def test_strangers_load_every_class(tokens, tmp_path):
    """A process without budwood finds the same logits in folders that bring the source along."""
    torch.save(tokens, tmp_path / "tokens.pt")
    models = {family: layerwise_model(family, tied=family == "gemma2") for family in SETTINGS}
    for family, model in models.items():
        config_class, model_class = LAYERWISE_CLASSES[family]
        config_class.register_for_auto_class()
        model_class.register_for_auto_class("AutoModelForCausalLM")
        model.save_pretrained(tmp_path / family)
        automap = json.loads((tmp_path / family / "config.json").read_text())["auto_map"]
        assert automap["AutoModelForCausalLM"] == f"modeling.{model_class.__name__}"
        assert automap["AutoModel"] == f"modeling.{model_class.decoder_class.__name__}"
    environment = {**os.environ, "PYTHONPATH": "", "HF_HUB_OFFLINE": "1"}
    folders = [str(tmp_path / family) for family in SETTINGS]
    done = run_python(["-c", STRANGER, str(tmp_path / "tokens.pt"), *folders], tmp_path, environment)
    assert done.returncode == 0, done.stderr
    for family, model in models.items():
        assert torch.equal(torch.load(tmp_path / family / "logits.pt"), logits_of(model, tokens)), family


@every_class
def test_gradient_checkpointing_changes_no_gradient(model, tokens):
    gradients = []
    for checkpointing in (False, True):
        if checkpointing:
            model.activation_checkpointing_enable()
        model.train().zero_grad()
        model(tokens, labels=tokens, use_cache=False).loss.backward()
        gradients.append([parameter.grad for parameter in model.parameters()])
    assert all(torch.equal(a, b) for a, b in zip(*gradients, strict=True))
    assert all(gradient.any() for gradient in gradients[0])


@every_class
def test_the_attention_implementation_can_be_switched(family, model, tokens):
    """Only eager attention returns its weights, which shows that the switch reaches every layer."""
    before = logits_of(model, tokens)
    model.set_attn_implementation("eager")
    with torch.no_grad():
        weights = model(tokens, output_attentions=True).attentions
    assert [layer.shape[1] for layer in weights] == [heads for heads, *_ in SIZES]
    assert torch.allclose(logits_of(model, tokens), before, atol=1e-5)
    if family == "gemma2":  # its softcapping has no sdpa form
        return
    model.set_attn_implementation("sdpa")
    with torch.no_grad():
        assert not model(tokens, output_attentions=True).attentions
    assert torch.equal(logits_of(model, tokens), before)


@pytest.mark.slow
@pytest.mark.parametrize(
    "family",
    ["gpt_neox", "llama", "gemma2", "gemma3_text"]
    + [pytest.param(family, marks=pytest.mark.slow) for family in ("olmo2", "olmo3", "qwen2", "qwen3", "smollm3")],
)
def test_compiling_changes_nothing(model, tokens):
    torch.compiler.reset()
    compiled = torch.compile(model, backend="eager", fullgraph=True)
    assert torch.equal(logits_of(compiled, tokens), logits_of(model, tokens))


@every_class
def test_the_configuration_survives_json(family):
    """From ten layers on, transformers pads the keys with zeros."""
    lists = {"layer_types": ["full_attention"] * 12, "no_rope_layers": [1] * 12, "num_hidden_layers": 12}
    layers = [layer_settings(family, SIZES[i % 3], i) for i in range(12)]
    config_class, _ = LAYERWISE_CLASSES[family]
    config = config_class(
        **common_settings(family, tied=True) | lists,
        num_attention_heads=1,
        head_dim=2,
        per_layer_config=dict(enumerate(layers)),
        allow_global_per_layer_attribute_access=True,
    )
    again = config_class.from_dict(json.loads(config.to_json_string()))
    assert again.to_dict() == config.to_dict()
    for own, layer in zip(again.per_layer_config, layers, strict=True):
        assert {name: getattr(own, name) for name in layer} == layer


@every_class
def test_nothing_is_allocated_on_the_meta_device(family):
    config = layerwise_config(family)
    with torch.device("meta"):
        model = LAYERWISE_CLASSES[family][1](config)
    assert {tensor.device.type for tensor in model.state_dict().values()} == {"meta"}
    assert model.config is model.base_model.config is config
    assert len(model.base_model.layers) == config.num_hidden_layers


@every_class
def test_nothing_reads_one_layers_size_for_all(family, tokens):
    """Transformers raises where the value of a single layer is read off the whole model's configuration."""
    config = layerwise_config(family)
    config.allow_global_per_layer_attribute_access = False
    model = LAYERWISE_CLASSES[family][1](config)
    assert model(tokens, labels=tokens, use_cache=True).loss.isfinite()


@every_class
def test_layers_are_initialised_as_their_family_says(family):
    """The default of `nn.Linear` would be 0.12 here."""
    model = LAYERWISE_CLASSES[family][1](layerwise_config(family))
    for layer in model.base_model.layers:
        matrices = torch.cat([parameter.flatten() for parameter in layer.parameters() if parameter.ndim == 2])
        assert matrices.std().item() == pytest.approx(model.config.initializer_range, rel=0.1)


@every_class
def test_wrappers_find_the_layers_by_name(model):
    assert model._no_split_modules == {type(layer).__name__ for layer in model.base_model.layers}
