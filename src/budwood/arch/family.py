"""The one table that knows how each model family names, shapes and ties its tensors.

Every tensor is described by its axes, and every axis by the basic axes it is laid out from, outermost first. A query
projection, for instance, has rows `(group, query, qk)` and columns `(hidden,)`. Counting, cutting and permuting are all
derived from these descriptions, so a new family is a new entry here and nothing else.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

from budwood.arch.spec import Architecture, LayerSpec

Axis = tuple[str, ...]
"""Basic axes, outermost first: vocab, hidden, group, query (heads of one group), qk, value, neuron."""


@dataclass(frozen=True, slots=True)
class Module:
    """A module with one weight."""

    name: str
    axes: tuple[Axis, ...]

    @property
    def weight(self) -> str:
        """Name of the weight, relative to where the module stands."""
        return f"{self.name}.weight"


HIDDEN: Axis = ("hidden",)
VOCAB: Axis = ("vocab",)
NEURON: Axis = ("neuron",)
QUERY_ROWS: Axis = ("group", "query", "qk")
KEY_ROWS: Axis = ("group", "qk")
VALUE_ROWS: Axis = ("group", "value")
HEAD_OUTPUT: Axis = ("group", "query", "value")


@dataclass(frozen=True, slots=True, kw_only=True)
class Family:
    """How one `model_type` is built."""

    model_type: str
    stand_in: str
    """Model type of a stock model that computes the same and accepts heads that do not divide the hidden size."""
    required: Mapping[str, object]
    """Config fields with the only value that is supported."""
    decoder: str
    """Path of the module list of decoder layers."""
    embedding: Module
    head: Module
    """Absent from the state dict when tied to the embedding."""
    final_norm: Module
    input_norm: Module
    attention_norm: Module
    """The norm between attention and MLP."""
    query: Module
    key: Module
    value: Module
    output: Module
    mlp_in: tuple[Module, ...]
    """Projections into the neurons: gate and up, or a single one."""
    mlp_out: Module

    @property
    def layer_modules(self) -> tuple[Module, ...]:
        """All modules with weights of one decoder layer."""
        return (
            self.input_norm,
            self.query,
            self.key,
            self.value,
            self.output,
            self.attention_norm,
            *self.mlp_in,
            self.mlp_out,
        )

    def outer_modules(self, *, tied: bool) -> tuple[Module, ...]:
        """Return the modules outside the layers that own a weight."""
        return (self.embedding, self.final_norm) if tied else (self.embedding, self.final_norm, self.head)

    def layer_path(self, layer: int, module: Module) -> str:
        """Return the full path of a layer's module."""
        return f"{self.decoder}.{layer}.{module.name}"

    def layer_weight(self, layer: int, module: Module) -> str:
        """Return the state-dict name of a layer's weight."""
        return f"{self.decoder}.{layer}.{module.weight}"

    def tensors(self, num_layers: int, *, tied: bool) -> Iterator[tuple[str, int | None, Module]]:
        """Yield `(state-dict name, layer or None, module)` for every weight of a model."""
        for module in self.outer_modules(tied=tied):
            yield module.weight, None, module
        for layer in range(num_layers):
            for module in self.layer_modules:
                yield self.layer_weight(layer, module), layer, module


LLAMA = Family(
    model_type="llama",
    # LlamaConfig refuses such heads since transformers 5; MistralForCausalLM without a window is the same function.
    stand_in="mistral",
    required={"attention_bias": False, "mlp_bias": False, "hidden_act": "silu"},
    decoder="model.layers",
    embedding=Module("model.embed_tokens", (VOCAB, HIDDEN)),
    head=Module("lm_head", (VOCAB, HIDDEN)),
    final_norm=Module("model.norm", (HIDDEN,)),
    input_norm=Module("input_layernorm", (HIDDEN,)),
    attention_norm=Module("post_attention_layernorm", (HIDDEN,)),
    query=Module("self_attn.q_proj", (QUERY_ROWS, HIDDEN)),
    key=Module("self_attn.k_proj", (KEY_ROWS, HIDDEN)),
    value=Module("self_attn.v_proj", (VALUE_ROWS, HIDDEN)),
    output=Module("self_attn.o_proj", (HIDDEN, HEAD_OUTPUT)),
    mlp_in=(Module("mlp.gate_proj", (NEURON, HIDDEN)), Module("mlp.up_proj", (NEURON, HIDDEN))),
    mlp_out=Module("mlp.down_proj", (HIDDEN, NEURON)),
)

MISTRAL = replace(LLAMA, model_type="mistral", required={"sliding_window": None, "hidden_act": "silu"})

FAMILIES: Mapping[str, Family] = {family.model_type: family for family in (LLAMA, MISTRAL)}


LAYERWISE_MODEL_TYPES: Mapping[str, str] = {"budwood_llama": "llama"}
"""Model types of our own layer-wise exports, and the family whose layers they are built from."""


def family_of(model_type: str) -> Family:
    """Return the table entry of a `model_type`.

    Raises:
        ValueError: the family is not supported; the message lists those that are.
    """
    if model_type not in FAMILIES:
        raise ValueError(f"model type {model_type!r} is not supported; supported: {', '.join(sorted(FAMILIES))}")
    return FAMILIES[model_type]


def axis_lengths(architecture: Architecture, layer: LayerSpec) -> dict[str, int]:
    """Return the length of every basic axis in one layer of an architecture."""
    return {
        "vocab": architecture.vocab_size,
        "hidden": architecture.hidden_size,
        "group": layer.num_key_value_heads,
        "query": layer.heads_per_group,
        "qk": layer.head_dim,
        "value": layer.head_dim,
        "neuron": layer.intermediate_size,
    }


def architecture_from_config(config: Mapping[str, Any]) -> Architecture:
    """Read the architecture out of a `config.json`, of a stock model or of one of our layer-wise exports.

    Args:
        config: the parsed file.

    Raises:
        ValueError: the family is unknown, the model is quantised, or a field has an unsupported value.
    """
    model_type = str(config.get("model_type"))
    family = family_of(LAYERWISE_MODEL_TYPES.get(model_type, model_type))
    if config.get("quantization_config"):
        raise ValueError("quantised models cannot be cut: load and save the model in full precision first")
    for name, supported in family.required.items():
        if config.get(name, supported) != supported:
            raise ValueError(f"{family.model_type} models with {name}={config[name]!r} are not supported")
    # transformers pads the keys with zeros from ten layers on.
    overrides = {int(position): values for position, values in (config.get("per_layer_config") or {}).items()}
    layers = tuple(
        _layer_from_config({**config, **overrides.get(position, {})})
        for position in range(int(config["num_hidden_layers"]))
    )
    return Architecture(
        family=family.model_type,
        vocab_size=int(config["vocab_size"]),
        hidden_size=int(config["hidden_size"]),
        tie_word_embeddings=bool(config.get("tie_word_embeddings", False)),
        layers=layers,
    )


def _layer_from_config(config: Mapping[str, Any]) -> LayerSpec:
    heads = int(config["num_attention_heads"])
    return LayerSpec(
        num_attention_heads=heads,
        num_key_value_heads=int(config.get("num_key_value_heads") or heads),
        head_dim=int(config.get("head_dim") or config["hidden_size"] // heads),
        intermediate_size=int(config["intermediate_size"]),
    )


def stock_config(family: Family, *, hidden_size: int, num_attention_heads: int) -> dict[str, object]:
    """Return the config fields that name the stock class for a model with equal layers."""
    stock = family_of(family.stand_in) if hidden_size % num_attention_heads else family
    return {"model_type": stock.model_type, **stock.required}


def layer_config(layer: LayerSpec) -> dict[str, int]:
    """Return the Hugging Face config fields that state one layer's sizes."""
    return {
        "num_attention_heads": layer.num_attention_heads,
        "num_key_value_heads": layer.num_key_value_heads,
        "head_dim": layer.head_dim,
        "intermediate_size": layer.intermediate_size,
    }
