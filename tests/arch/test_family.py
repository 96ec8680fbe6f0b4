"""The family table names and shapes every tensor as transformers does, and reads configurations back."""

from dataclasses import replace
from math import prod
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from strategies import SMOLLM2_135M, architectures, base_config, layer, ropes

from budwood.arch.config import OWN_PREFIX, architecture_from_config, layer_config, stock_family
from budwood.arch.count import num_parameters
from budwood.arch.family import FAMILIES, MODEL_TYPES, Family, axis_lengths, family_of
from budwood.arch.spec import Architecture
from budwood.models.checkpoint import build_empty, model_config

SUPPORTED = ", ".join(sorted(MODEL_TYPES))
CONFIG = {
    "model_type": "llama",
    "vocab_size": 49152,
    "hidden_size": 576,
    "num_hidden_layers": 30,
    "num_attention_heads": 9,
    "num_key_value_heads": 3,
    "intermediate_size": 1536,
    "tie_word_embeddings": True,
}


@pytest.mark.slow
@given(architectures())
@settings(max_examples=60)
def test_the_table_names_and_shapes_every_tensor(architecture: Architecture) -> None:
    config = model_config(base_config(architecture), architecture, ropes(architecture))
    with torch.device("meta"):
        built = {name: tuple(parameter.shape) for name, parameter in build_empty(config).named_parameters()}
    assert _described_shapes(architecture) == built
    read = architecture_from_config(config.to_dict())
    assert replace(read, family=architecture.family) == architecture
    # Mistral holds what a stock Llama refuses.
    assert read.family == architecture.family or (read.family, architecture.family) == ("mistral", "llama")


def _described_shapes(architecture: Architecture) -> dict[str, tuple[int, ...]]:
    """Return the shape of every parameter by the table, under the name of the module that holds it."""
    family = family_of(architecture.family)
    shapes: dict[str, tuple[int, ...]] = {}
    for name, position, axes in family.parameters(
        architecture.num_hidden_layers, tied=architecture.tie_word_embeddings
    ):
        lengths = axis_lengths(architecture, architecture.layers[position or 0])
        shape = tuple(prod(lengths[part] for part in axis) for axis in axes)
        for part in family.readers:
            if part.inside and f".{part.name}." in name:
                name = name.replace(part.name, part.inside)  # noqa: PLW2901
                shape = (shape[0] + shapes.get(name, (0,))[0], *shape[1:])
        shapes[name] = shape
    return shapes


@pytest.mark.parametrize("family", FAMILIES.values(), ids=FAMILIES)
def test_every_family_is_known_by_its_name(family: Family) -> None:
    assert family_of(family.name) is family
    assert MODEL_TYPES[family.model_type].model_type == family.model_type
    assert family.stand_in is None or FAMILIES[family.stand_in].stock_heads == "any"
    described = [
        name for name, _, _ in family.parameters(2, tied=False) if name.startswith((f"{family.decoder}.1.", "lm_head"))
    ]
    assert len(described) == len(set(described)) > 9


@pytest.mark.parametrize("own", [False, True])
@given(architecture=architectures(uniform=True), data=st.data())
def test_configurations_are_read_whoever_wrote_them(
    *, own: bool, architecture: Architecture, data: st.DataObject
) -> None:
    """A stock model has the sizes of the whole, one of ours names those of layers, padded from ten layers on."""
    family = family_of(architecture.family)
    layers = [architecture.layers[0]] * data.draw(st.integers(1, 12))
    config = base_config(architecture) | {
        "hidden_size": architecture.hidden_size,
        "num_hidden_layers": len(layers),
        **layer_config(family, layers[0]),
    }
    if own:
        layers[-1] = replace(layers[-1], intermediate_size=77)
        overrides = {f"{len(layers) - 1:0{len(str(len(layers)))}}": layer_config(family, layers[-1])}
        config |= {"model_type": f"{OWN_PREFIX}{family.model_type}", "per_layer_config": overrides}
    assert architecture_from_config(config) == architecture.with_layers(tuple(layers))


def test_a_config_is_read_with_its_defaults() -> None:
    """Without `head_dim` the heads share the hidden size, without groups every head is one, untied unless stated."""
    assert architecture_from_config(CONFIG) == SMOLLM2_135M
    bare = {key: CONFIG[key] for key in CONFIG if key not in {"num_key_value_heads", "tie_word_embeddings"}}
    read = architecture_from_config(bare)
    assert read.layers[0] == layer(9, 9, 64, 1536)
    assert not read.tie_word_embeddings
    assert architecture_from_config(CONFIG | {"head_dim": 32}).layers[0].head_dim == 32


@pytest.mark.parametrize(
    "change",
    [
        {"model_type": "gpt2"},
        {"model_type": None},
        {"model_type": "budwood_gpt2"},
        {"auto_map": {}, "model_type": "my"},
    ],
    ids=["unknown", "none", "own", "remote code"],
)
def test_unknown_families_are_refused_with_the_list(change: dict[str, Any]) -> None:
    message = f"^model type '{change['model_type']}' is not supported; supported are dense .* families {SUPPORTED}$"
    with pytest.raises(ValueError, match=message):
        architecture_from_config(CONFIG | change)


def test_a_family_is_looked_up_or_refused_with_the_list() -> None:
    with pytest.raises(ValueError, match=f"^model type 'gpt2' is not supported; supported: {SUPPORTED}$"):
        family_of("gpt2")


@pytest.mark.parametrize("field", ["num_experts", "num_local_experts", "n_routed_experts"])
def test_mixtures_of_experts_are_refused_with_the_list(field: str) -> None:
    message = rf"^mixtral: mixtures of experts .*\({field}=8\); take the dense model .* families {SUPPORTED}$"
    with pytest.raises(ValueError, match=message):
        architecture_from_config(CONFIG | {"model_type": "mixtral", field: 8})
    assert architecture_from_config(CONFIG | {field: 0}) == SMOLLM2_135M


def test_encoders_are_refused_with_the_list() -> None:
    with pytest.raises(ValueError, match=f"^t5: models with an encoder cannot be cut; .* families {SUPPORTED}$"):
        architecture_from_config({"model_type": "t5", "is_encoder_decoder": True})


def test_quantised_models_are_refused() -> None:
    message = r"^llama: quantised models .*\(quantization_config.quant_method='fp8'\); take .* full precision$"
    with pytest.raises(ValueError, match=message):
        architecture_from_config(CONFIG | {"quantization_config": {"quant_method": "fp8"}})


@pytest.mark.parametrize(
    ("model_type", "kind"),
    [("qwen3_5", "hybrids"), ("granitemoehybrid", "hybrids"), ("mistral4", "mixtures of experts")],
)
def test_other_kinds_are_refused_with_what_to_take_instead(model_type: str, kind: str) -> None:
    message = f"^{model_type}: {kind} .* cannot be cut; take a dense model .* families {SUPPORTED}$"
    with pytest.raises(ValueError, match=message.replace("experts .* cannot", "experts cannot")):
        architecture_from_config(CONFIG | {"model_type": model_type})


@pytest.mark.parametrize(
    ("model_type", "field", "value"),
    [
        ("starcoder2", "use_bias", False),
        ("stablelm", "use_parallel_residual", True),
        ("stablelm", "qk_layernorm", True),
        ("gemma2", "use_bidirectional_attention", True),
        ("gpt_neox", "attention_bias", False),
    ],
)
def test_unsupported_fields_are_refused_by_name(model_type: str, field: str, value: object) -> None:
    supported = MODEL_TYPES[model_type].required[field]
    with pytest.raises(ValueError, match=f"^{model_type}: {field}={value!r} is not supported; supported: {supported}$"):
        architecture_from_config(CONFIG | {"model_type": model_type, field: value})


@pytest.mark.parametrize(
    ("model_type", "on"),
    [
        ("llama", ("attention_bias", "mlp_bias")),
        ("llama", ("mlp_bias",)),
        ("qwen3", ("attention_bias",)),
        ("stablelm", ("use_qkv_bias",)),
    ],
)
def test_a_config_says_which_biases_there_are(model_type: str, on: tuple[str, ...]) -> None:
    """Bias for bias: 9 heads in 3 groups of 64 and 1,536 neurons, over 576 channels."""
    read = architecture_from_config(CONFIG | {"model_type": model_type} | dict.fromkeys(on, True))
    assert read.family == "+".join((model_type, *on))
    plain = architecture_from_config(CONFIG | {"model_type": model_type})
    attention = (9 + 2 * 3) * 64 + 576
    each = {"attention_bias": attention, "mlp_bias": 2 * 1536 + 576, "use_qkv_bias": attention - 576}
    assert num_parameters(read) - num_parameters(plain) == 30 * sum(each[switch] for switch in on)


def test_off_is_written_as_false_or_null() -> None:
    off = {"attention_bias": None, "mlp_bias": None}
    assert architecture_from_config(CONFIG | off) == SMOLLM2_135M
    assert architecture_from_config(CONFIG | {"model_type": "mistral", "sliding_window": False}).family == "mistral"


@pytest.mark.parametrize(
    ("model_type", "filling", "dividing", "odd"),
    [
        ("llama", "llama", "llama", "mistral"),
        ("gemma2", "gemma2", "gemma2", None),
        ("gpt_neox", "gpt_neox", None, None),
        ("llama+mlp_bias", "llama", "llama", None),
        ("phi3", "phi3", None, None),
        *((name, name, name, name) for name in ("mistral", "olmo2", "qwen2", "qwen3", "smollm3")),
    ],
)
def test_which_stock_class_accepts_which_heads(
    model_type: str, filling: str, dividing: str | None, odd: str | None
) -> None:
    """Six heads of 8 fill 48 channels, six of 4 still divide them, five do neither."""
    specs = (layer(6, 6, 8, 10), layer(6, 6, 4, 10), layer(5, 5, 8, 10))
    found = [stock_family(FAMILIES[model_type], hidden_size=48, layer=spec) for spec in specs]
    assert [family and family.model_type for family in found] == [filling, dividing, odd]


def test_heads_without_groups_have_no_word_for_them() -> None:
    assert layer_config(FAMILIES["llama"], layer(4, 2, 16, 100)) == {
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "head_dim": 16,
        "intermediate_size": 100,
    }
    assert "num_key_value_heads" not in layer_config(FAMILIES["gpt_neox"], layer(4, 4, 16, 100))
