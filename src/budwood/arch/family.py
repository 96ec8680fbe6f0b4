"""The one table that knows how each model family names, shapes and ties its tensors.

Every parameter is described by its axes, and every axis by the basic axes it is laid out from, outermost first. A query
projection, for instance, has rows `(group, query, qk)` and columns `(hidden,)`. Counting, cutting and permuting are all
derived from these descriptions. CONTRIBUTING.md, "How to add a family", says what a new one needs besides its entry.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Literal

from budwood.arch.spec import Architecture, LayerSpec

Axis = tuple[str, ...]
"""Basic axes, outermost first: vocab, hidden, group, query (heads of one group), qk, value, neuron."""
Axes = tuple[Axis, ...]

HIDDEN: Axis = ("hidden",)
VOCAB: Axis = ("vocab",)
NEURON: Axis = ("neuron",)
QUERY_ROWS: Axis = ("group", "query", "qk")
KEY_ROWS: Axis = ("group", "qk")
VALUE_ROWS: Axis = ("group", "value")
HEAD_OUTPUT: Axis = ("group", "query", "value")

OWN_PREFIX = "budwood_"
"""Model types of our own layer-wise classes: this, then the family whose layers they are built from."""


@dataclass(frozen=True, slots=True)
class Module:
    """A module with a weight, and for some a bias over the weight's first dimension."""

    name: str
    axes: Axes
    bias: bool = False

    @property
    def weight(self) -> str:
        """Name of the weight, relative to where the module stands."""
        return f"{self.name}.weight"

    @property
    def parameters(self) -> tuple[tuple[str, Axes], ...]:
        """Name and axes of the weight, and of the bias where there is one."""
        weight = (self.weight, self.axes)
        return (weight, (f"{self.name}.bias", self.axes[:1])) if self.bias else (weight,)


@dataclass(frozen=True, slots=True, kw_only=True)
class Family:
    """How one `model_type` is built."""

    model_type: str
    required: Mapping[str, object]
    """Config fields with the only value that is supported."""
    without_window: Mapping[str, object] = field(default_factory=dict)
    """Config fields that switch sliding windows off. Cuts have no windows, except where a family alternates them."""
    stock_heads: Literal["any", "divide", "fill"] = "any"
    """Which heads the stock class accepts: any, those whose number divides the hidden size, or those whose dimensions
    add up to it."""
    stand_in: str | None = None
    """Model type of a stock model that computes the same and accepts any heads."""
    layer_lists: tuple[str, ...] = ()
    """Config fields with one entry for every layer."""
    rope_by_type: bool = False
    """Whether `rope_parameters` has an entry for every type of layer in `layer_types`; otherwise one serves all."""
    norm_offset: int = 0
    """What norms add to their weight before they multiply by it."""
    scales_embedding: bool = False
    """Whether embeddings are multiplied by the square root of the hidden size."""
    scales_by_head_dim: bool = True
    """Whether attention scores are divided by sqrt(head_dim); otherwise by a constant of the config."""
    decoder: str
    """Path of the module list of decoder layers."""
    embedding: Module
    head: Module
    """Absent from the state dict when tied to the embedding."""
    final_norm: Module
    norms: tuple[Module, ...]
    """Norms over the residual stream, inside a layer."""
    query_norm: Module | None = None
    key_norm: Module | None = None
    heads_first: bool = False
    """Whether norms over queries and keys read [batch, head, token, dimension] and not [batch, token, head, dimension].
    """
    output_norms: bool = False
    """Whether what attention and MLP compute is normalised before it joins the residual stream."""
    stored_names: Mapping[str, str] = field(default_factory=dict)
    """What files call a parameter that the stock class names otherwise."""
    fused: Module | None = None
    """One module that holds query, key and value, interleaved by group; they are named below as if it did not."""
    query: Module
    key: Module
    value: Module
    output: Module
    mlp_in: tuple[Module, ...]
    """Projections into the neurons: gate and up, or a single one."""
    mlp_out: Module

    @property
    def readers(self) -> tuple[Module, ...]:
        """Projections that read the residual stream."""
        return (self.query, self.key, self.value, *self.mlp_in)

    @property
    def head_norms(self) -> tuple[Module, ...]:
        """Norms over queries and over keys."""
        return tuple(norm for norm in (self.query_norm, self.key_norm) if norm)

    @property
    def layer_modules(self) -> tuple[Module, ...]:
        """All modules with weights of one decoder layer."""
        return (*self.norms, *self.head_norms, *self.readers, self.output, self.mlp_out)

    def outer_modules(self, *, tied: bool) -> tuple[Module, ...]:
        """Return the modules outside the layers that own a weight."""
        return (self.embedding, self.final_norm) if tied else (self.embedding, self.final_norm, self.head)

    def layer_path(self, layer: int, module: Module) -> str:
        """Return the full path of a layer's module."""
        return f"{self.decoder}.{layer}.{module.name}"

    def layer_weight(self, layer: int, module: Module) -> str:
        """Return the state-dict name of a layer's weight."""
        return f"{self.decoder}.{layer}.{module.weight}"

    def parameters(self, num_layers: int, *, tied: bool) -> Iterator[tuple[str, int | None, Axes]]:
        """Yield `(state-dict name, layer or None, axes)` for every parameter of a model."""
        for module in self.outer_modules(tied=tied):
            for name, axes in module.parameters:
                yield name, None, axes
        for layer in range(num_layers):
            for module in self.layer_modules:
                for name, axes in module.parameters:
                    yield f"{self.decoder}.{layer}.{name}", layer, axes


LLAMA = Family(
    model_type="llama",
    required={"attention_bias": False, "mlp_bias": False},
    # LlamaConfig refuses other heads since transformers 5; MistralForCausalLM without a window is the same function.
    stock_heads="divide",
    stand_in="mistral",
    decoder="model.layers",
    embedding=Module("model.embed_tokens", (VOCAB, HIDDEN)),
    head=Module("lm_head", (VOCAB, HIDDEN)),
    final_norm=Module("model.norm", (HIDDEN,)),
    norms=(Module("input_layernorm", (HIDDEN,)), Module("post_attention_layernorm", (HIDDEN,))),
    query=Module("self_attn.q_proj", (QUERY_ROWS, HIDDEN)),
    key=Module("self_attn.k_proj", (KEY_ROWS, HIDDEN)),
    value=Module("self_attn.v_proj", (VALUE_ROWS, HIDDEN)),
    output=Module("self_attn.o_proj", (HIDDEN, HEAD_OUTPUT)),
    mlp_in=(Module("mlp.gate_proj", (NEURON, HIDDEN)), Module("mlp.up_proj", (NEURON, HIDDEN))),
    mlp_out=Module("mlp.down_proj", (HIDDEN, NEURON)),
)

_ANY_HEADS = replace(LLAMA, stock_heads="any", stand_in=None)

MISTRAL = replace(_ANY_HEADS, model_type="mistral", required={}, without_window={"sliding_window": None})

QWEN2 = replace(
    _ANY_HEADS,
    model_type="qwen2",
    required={},
    without_window={"use_sliding_window": False},
    layer_lists=("layer_types",),
    query=replace(LLAMA.query, bias=True),
    key=replace(LLAMA.key, bias=True),
    value=replace(LLAMA.value, bias=True),
)

QWEN3 = replace(
    _ANY_HEADS,
    model_type="qwen3",
    required={"attention_bias": False},
    without_window={"use_sliding_window": False},
    layer_lists=("layer_types",),
    query_norm=Module("self_attn.q_norm", (("qk",),)),
    key_norm=Module("self_attn.k_norm", (("qk",),)),
)

SMOLLM3 = replace(
    _ANY_HEADS,
    model_type="smollm3",
    required={"attention_bias": False, "mlp_bias": False},
    without_window={"use_sliding_window": False},
    layer_lists=("layer_types", "no_rope_layers"),
)

OLMO2 = replace(
    _ANY_HEADS,
    model_type="olmo2",
    required={"attention_bias": False},
    norms=(Module("post_attention_layernorm", (HIDDEN,)), Module("post_feedforward_layernorm", (HIDDEN,))),
    query_norm=Module("self_attn.q_norm", (QUERY_ROWS,)),
    key_norm=Module("self_attn.k_norm", (KEY_ROWS,)),
    output_norms=True,
)

OLMO3 = replace(OLMO2, model_type="olmo3", layer_lists=("layer_types",), rope_by_type=True)

GEMMA2 = replace(
    _ANY_HEADS,
    model_type="gemma2",
    required={"attention_bias": False, "use_bidirectional_attention": None},
    stock_heads="divide",
    layer_lists=("layer_types",),
    norm_offset=1,
    scales_embedding=True,
    scales_by_head_dim=False,
    norms=(
        *LLAMA.norms,
        Module("pre_feedforward_layernorm", (HIDDEN,)),
        Module("post_feedforward_layernorm", (HIDDEN,)),
    ),
    output_norms=True,
)

GEMMA3_TEXT = replace(
    GEMMA2,
    model_type="gemma3_text",
    required={"attention_bias": False, "use_bidirectional_attention": None},
    rope_by_type=True,
    query_norm=Module("self_attn.q_norm", (("qk",),)),
    key_norm=Module("self_attn.k_norm", (("qk",),)),
    heads_first=True,
)

GPT_NEOX = Family(
    model_type="gpt_neox",
    required={"attention_bias": True},
    stock_heads="fill",
    decoder="gpt_neox.layers",
    embedding=Module("gpt_neox.embed_in", (VOCAB, HIDDEN)),
    head=Module("lm_head", (VOCAB, HIDDEN)),
    stored_names={"lm_head.weight": "embed_out.weight"},
    final_norm=Module("gpt_neox.final_layer_norm", (HIDDEN,), bias=True),
    norms=(
        Module("input_layernorm", (HIDDEN,), bias=True),
        Module("post_attention_layernorm", (HIDDEN,), bias=True),
    ),
    fused=Module("attention.query_key_value", (("group", "part", "qk"), HIDDEN), bias=True),
    query=Module("attention.query", (QUERY_ROWS, HIDDEN), bias=True),
    key=Module("attention.key", (KEY_ROWS, HIDDEN), bias=True),
    value=Module("attention.value", (VALUE_ROWS, HIDDEN), bias=True),
    output=Module("attention.dense", (HIDDEN, HEAD_OUTPUT), bias=True),
    mlp_in=(Module("mlp.dense_h_to_4h", (NEURON, HIDDEN), bias=True),),
    mlp_out=Module("mlp.dense_4h_to_h", (HIDDEN, NEURON), bias=True),
)

FAMILIES: Mapping[str, Family] = {
    family.model_type: family
    for family in (GEMMA2, GEMMA3_TEXT, GPT_NEOX, LLAMA, MISTRAL, OLMO2, OLMO3, QWEN2, QWEN3, SMOLLM3)
}


WRAPPERS: Mapping[str, str] = {"gemma3": "gemma3_text"}
"""Model types that hold a text model beside others, and the family of that model."""

_OTHER_KINDS: Mapping[str, frozenset[str]] = {
    "mixtures of experts": frozenset(
        {
            "dbrx", "deepseek_v2", "deepseek_v3", "ernie4_5_moe", "glm4_moe", "gpt_oss", "granitemoe", "jetmoe",
            "llama4", "llama4_text", "minimax", "mixtral", "olmoe", "phimoe", "qwen2_moe", "qwen3_moe",
        }
    ),
    "hybrids and models without attention": frozenset(
        {
            "bamba", "falcon_h1", "falcon_mamba", "granitemoehybrid", "jamba", "lfm2", "mamba", "mamba2", "nemotron_h",
            "qwen3_next", "recurrent_gemma", "rwkv", "zamba", "zamba2",
        }
    ),
}  # fmt: skip
"""Model types of other kinds, by what they are; the list only makes the message better."""


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
        ValueError: the family is unknown, the model is quantised, mixes experts or has an encoder, or a field has an
            unsupported value.
    """
    family = supported_family(config)
    layers = tuple(_layer_from_config(config_of_layer(config, i)) for i in range(int(config["num_hidden_layers"])))
    return Architecture(
        family=family.model_type,
        vocab_size=int(config["vocab_size"]),
        hidden_size=int(config["hidden_size"]),
        tie_word_embeddings=bool(config.get("tie_word_embeddings", False)),
        layers=layers,
    )


def config_of_layer(config: Mapping[str, Any], layer: int) -> dict[str, Any]:
    """Return what a config says about one layer: the whole, with what that layer has of its own."""
    # transformers pads the keys with zeros from ten layers on.
    own = {int(position): values for position, values in (config.get("per_layer_config") or {}).items()}
    return {**config, **own.get(layer, {})}


def supported_family(config: Mapping[str, Any]) -> Family:
    """Return the table entry of a `config.json`'s model.

    Raises:
        ValueError: the family or one of its settings is not supported.
    """
    model_type = str(config.get("model_type"))
    supported = f"supported are dense decoders of the families {', '.join(sorted(FAMILIES))}"
    if config.get("is_encoder_decoder"):
        raise ValueError(f"{model_type}: models with an encoder cannot be cut; {supported}")
    experts = [name for name in ("num_experts", "num_local_experts", "n_routed_experts") if config.get(name)]
    if experts:
        raise ValueError(f"{model_type}: mixtures of experts cannot be cut ({experts[0]} is set); {supported}")
    for kind, names in _OTHER_KINDS.items():
        if model_type in names:
            raise ValueError(f"{model_type}: {kind} cannot be cut; {supported}")
    if config.get("quantization_config"):
        raise ValueError("quantised models cannot be cut: load and save the model in full precision first")
    name = model_type.removeprefix(OWN_PREFIX)
    if name not in FAMILIES:
        raise ValueError(f"model type {model_type!r} is not supported; {supported}")
    for setting, value in FAMILIES[name].required.items():
        # Configurations write "off" as false or null.
        if (config.get(setting, value) or None) != (value or None):
            raise ValueError(f"{model_type} models with {setting}={config[setting]!r} are not supported")
    return FAMILIES[name]


def _layer_from_config(config: Mapping[str, Any]) -> LayerSpec:
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
    sizes = {
        "num_attention_heads": layer.num_attention_heads,
        "num_key_value_heads": layer.num_key_value_heads,
        "head_dim": layer.head_dim,
        "intermediate_size": layer.intermediate_size,
    }
    # A family that fuses its projections has as many keys as queries, and no word for their number.
    return {name: size for name, size in sizes.items() if not (family.fused and name == "num_key_value_heads")}
