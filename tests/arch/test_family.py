"""The family table names and shapes every tensor as transformers does, and reads configurations back."""

from dataclasses import replace
from math import prod

import pytest
from hypothesis import given, settings
from strategies import SMOLLM2_135M, architectures, layer

from budwood.arch.family import (
    FAMILIES,
    MISTRAL,
    architecture_from_config,
    axis_lengths,
    family_of,
    layer_config,
    stock_config,
)
from budwood.arch.spec import Architecture
from budwood.subnet.checkpoint import build_empty, model_config

ROPE = {"rope_type": "default", "rope_theta": 10_000.0}
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


@given(architectures())
@settings(max_examples=20, deadline=None)
def test_the_table_names_and_shapes_every_tensor(architecture: Architecture) -> None:
    base = {"vocab_size": architecture.vocab_size, "tie_word_embeddings": architecture.tie_word_embeddings}
    config = model_config(
        base | {"pad_token_id": None, "sliding_window": None},
        architecture,
        [ROPE] * architecture.num_hidden_layers,
    )
    built = {name: tuple(parameter.shape) for name, parameter in build_empty(config).named_parameters()}
    described = {}
    for name, position, module in family_of(architecture.family).tensors(
        architecture.num_hidden_layers, tied=architecture.tie_word_embeddings
    ):
        lengths = axis_lengths(architecture, architecture.layers[position or 0])
        described[name] = tuple(prod(lengths[part] for part in axis) for axis in module.axes)
    assert described == built
    stock_family = config.model_type if architecture.is_uniform else "llama"
    assert architecture_from_config(config.to_dict()) == replace(architecture, family=stock_family)


def test_a_config_is_read_with_its_defaults() -> None:
    """Without `head_dim` the heads share the hidden size, without groups every head is one, untied unless stated."""
    assert architecture_from_config(CONFIG) == SMOLLM2_135M
    bare = {key: CONFIG[key] for key in CONFIG if key not in {"num_key_value_heads", "tie_word_embeddings"}}
    read = architecture_from_config(bare)
    assert read.layers[0] == layer(9, 9, 64, 1536)
    assert not read.tie_word_embeddings
    assert architecture_from_config(CONFIG | {"head_dim": 32}).layers[0].head_dim == 32


def test_layers_override_the_whole() -> None:
    own = layer_config(layer(4, 2, 16, 100))
    config = CONFIG | {"model_type": "budwood_llama", "num_hidden_layers": 3, "per_layer_config": {"1": own}}
    read = architecture_from_config(config)
    assert read.family == "llama"
    assert [spec.intermediate_size for spec in read.layers] == [1536, 100, 1536]
    assert read.layers[1] == layer(4, 2, 16, 100)


@pytest.mark.parametrize("model_type", ["gpt2", None])
def test_unknown_families_are_refused_with_the_list(model_type: str | None) -> None:
    with pytest.raises(ValueError, match=f"'{model_type}' is not supported; supported: llama, mistral"):
        architecture_from_config(CONFIG | {"model_type": model_type})


@pytest.mark.parametrize(("field", "value"), [("attention_bias", True), ("mlp_bias", True), ("hidden_act", "gelu")])
def test_unsupported_fields_are_refused_by_name(field: str, value: object) -> None:
    with pytest.raises(ValueError, match=f"llama models with {field}={value!r} are not supported"):
        architecture_from_config(CONFIG | {field: value})


def test_a_sliding_window_is_refused() -> None:
    with pytest.raises(ValueError, match="mistral models with sliding_window=4096"):
        architecture_from_config(CONFIG | {"model_type": "mistral", "sliding_window": 4096})


def test_quantised_models_are_refused() -> None:
    with pytest.raises(ValueError, match="quantised"):
        architecture_from_config(CONFIG | {"quantization_config": {"bits": 4}})


def test_a_stock_class_takes_heads_that_do_not_divide_the_hidden_size() -> None:
    for family in FAMILIES.values():
        assert stock_config(family, hidden_size=48, num_attention_heads=6)["model_type"] == family.model_type
        odd = stock_config(family, hidden_size=48, num_attention_heads=5)
        assert odd == {"model_type": "mistral", **MISTRAL.required}
