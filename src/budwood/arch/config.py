"""What a `config.json` says about an architecture, and which of its fields state the sizes of a layer."""

from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from budwood.arch.family import FAMILIES, MODEL_TYPES, Family
from budwood.arch.kinds import refuse_other_kinds
from budwood.arch.spec import Architecture, LayerSpec, check_depth

HFConfig = Mapping[str, Any]
"""A `config.json` of Hugging Face, as it is on disk or with all defaults: its fields are the library's."""
OWN_PREFIX = "budwood_"
"""Model types of our own layer-wise classes: this, then the family whose layers they are built from."""
WRAPPERS: Mapping[str, tuple[str, ...]] = {"gemma3": ("gemma3_text",), "mistral3": ("ministral3", "mistral")}
"""Model types that contain a text model beside others, and the families that it may be of."""


def architecture_from_config(config: HFConfig) -> Architecture:
    """Read the architecture out of a `config.json`, of a stock model or of one of our layer-wise exports.

    Raises:
        ValueError: the family is unknown, the model is quantised, mixes experts or has an encoder, or a field has an
            unsupported value.
    """
    family, depth = supported_family(config), int(config["num_hidden_layers"])
    check_depth(depth)
    layers = tuple(_layer_from_config(config_of_layer(config, position)) for position in range(depth))
    return Architecture(
        family=family.name,
        vocab_size=int(config["vocab_size"]),
        hidden_size=int(config["hidden_size"]),
        tie_word_embeddings=bool(config.get("tie_word_embeddings", False)),
        layers=layers,
    )


def config_of_layer(config: HFConfig, layer: int) -> dict[str, Any]:
    """Return what a config says about one layer: the whole, with what that layer has of its own."""
    # transformers pads the keys with zeros from ten layers on.
    own = {int(position): values for position, values in (config.get("per_layer_config") or {}).items()}
    return {**config, **own.get(layer, {})}


def supported_family(config: HFConfig) -> Family:
    """Return the table entry of a `config.json`'s model.

    Raises:
        ValueError: the family or one of its settings is not supported.
    """
    model_type = str(config.get("model_type"))
    supported = f"supported are dense decoders of the families {', '.join(MODEL_TYPES)}"
    refuse_other_kinds(config, supported)
    name = model_type.removeprefix(OWN_PREFIX)
    if name not in MODEL_TYPES:
        raise ValueError(f"model type {model_type!r} is not supported; {supported}")
    family = MODEL_TYPES[name]
    for setting, value in family.required.items():
        # Configurations write "off" as false or null.
        if (config.get(setting, value) or None) != (value or None):
            raise ValueError(f"{model_type}: {setting}={config[setting]!r} is not supported; supported: {value!r}")
    on = [switch for switch, default in family.biases.items() if config.get(switch, default)]
    return FAMILIES["+".join((name, *on))]


def _layer_from_config(config: HFConfig) -> LayerSpec:
    heads = int(config["num_attention_heads"])
    return LayerSpec(
        num_attention_heads=heads,
        num_key_value_heads=int(config.get("num_key_value_heads") or heads),
        head_dim=int(config.get("head_dim") or config["hidden_size"] // heads),
        intermediate_size=int(config["intermediate_size"]),
    )


def stock_family(family: Family, *, hidden_size: int, layer: LayerSpec) -> Family | None:
    """Return the family whose stock class expresses a model with such layers, or None where no stock class does."""
    heads = layer.num_attention_heads
    fits = {
        "any": True,
        "divide": hidden_size % heads == 0,
        "fill": hidden_size == heads * layer.head_dim,
    }[family.stock_heads]
    if fits:
        return family
    return FAMILIES[family.stand_in] if family.stand_in else None


def layer_config(family: Family, layer: LayerSpec) -> dict[str, int]:
    """Return the Hugging Face config fields that state one layer's sizes."""
    sizes = asdict(layer)
    return {name: size for name, size in sizes.items() if family.grouped or name != "num_key_value_heads"}
