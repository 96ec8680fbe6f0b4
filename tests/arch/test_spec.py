"""Descriptions refuse impossible sizes and survive JSON."""

from dataclasses import FrozenInstanceError, asdict, replace

import pytest
from hypothesis import given
from pydantic import TypeAdapter, ValidationError
from strategies import SMOLLM2_135M, architectures, layer, layer_specs, llama

from budwood.arch.spec import Architecture, LayerSpec

FORM = TypeAdapter(Architecture)


@given(architectures())
def test_json_round_trip_is_identity(architecture: Architecture) -> None:
    text = FORM.dump_json(architecture)
    rebuilt = FORM.validate_json(text)
    assert rebuilt == architecture
    assert hash(rebuilt) == hash(architecture)
    assert FORM.dump_json(rebuilt) == text


@pytest.mark.parametrize("name", ["num_attention_heads", "num_key_value_heads", "head_dim", "intermediate_size"])
@pytest.mark.parametrize("size", [0, -2])
def test_layers_refuse_sizes_below_one(name: str, size: int) -> None:
    with pytest.raises(ValueError, match=rf"{name} must be at least 1, got {size}"):
        replace(layer(2, 1, 4, 8), **{name: size})


def test_layers_refuse_odd_head_dimensions() -> None:
    with pytest.raises(ValueError, match=r"head_dim must be even.*got 5"):
        layer(2, 1, 5, 8)


def test_layers_refuse_groups_that_do_not_divide_the_heads() -> None:
    with pytest.raises(ValueError, match="num_key_value_heads=3 must divide num_attention_heads=4"):
        layer(4, 3, 4, 8)


@pytest.mark.parametrize("name", ["vocab_size", "hidden_size"])
def test_architectures_refuse_sizes_below_one(name: str) -> None:
    with pytest.raises(ValueError, match=f"{name} must be at least 1, got 0"):
        replace(SMOLLM2_135M, **{name: 0})


def test_an_architecture_needs_a_layer() -> None:
    with pytest.raises(ValueError, match="num_hidden_layers=0 must be between 1 and 1024"):
        llama(10, 8)


@pytest.mark.parametrize("change", [{"depth": 3}, {"layers": [{"num_attention_heads": 2}]}])
def test_json_with_unknown_or_missing_fields_is_refused(change: dict[str, object]) -> None:
    with pytest.raises(ValidationError):
        FORM.validate_python(asdict(SMOLLM2_135M) | change)


@given(layer_specs())
def test_groups_share_the_heads_evenly(spec: LayerSpec) -> None:
    assert spec.heads_per_group * spec.num_key_value_heads == spec.num_attention_heads


@given(architectures())
def test_uniform_means_that_all_layers_equal_the_first(architecture: Architecture) -> None:
    assert architecture.is_uniform == all(spec == architecture.layers[0] for spec in architecture.layers)
    assert architecture.num_hidden_layers == len(architecture.layers)


def test_descriptions_are_frozen() -> None:
    with pytest.raises(FrozenInstanceError):
        SMOLLM2_135M.hidden_size = 1  # type: ignore[misc]


def test_describe_names_one_size_or_a_range() -> None:
    mixed = llama(10, 8, layer(4, 2, 6, 20), layer(2, 2, 6, 30), layer(9, 3, 6, 10))
    assert mixed.describe() == "3 layers x 8 wide, 2-9 heads in 2-3 groups of 6, MLP 10-30"
    alone = llama(10, 8, layer(1, 1, 6, 8))
    assert alone.describe() == "1 layer x 8 wide, 1 head in 1 group of 6, MLP 8"
    assert SMOLLM2_135M.describe() == "30 layers x 576 wide, 9 heads in 3 groups of 64, MLP 1536"
