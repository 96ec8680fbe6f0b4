"""The one table that knows how each model family names, shapes and ties its tensors.

Every parameter is described by its axes, and every axis by the basic axes it is laid out from, outermost first. A query
projection, for instance, has rows `(group, query, qk)` and columns `(hidden,)`. Counting, cutting and permuting are all
derived from these descriptions. CONTRIBUTING.md, "How to add a family", says what else a new one needs.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import combinations
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


@dataclass(frozen=True, slots=True)
class Module:
    """A module with a weight, and for some a bias over the weight's first dimension."""

    name: str
    axes: Axes
    bias: bool | str = False
    """Whether there is one, or the config field that says so."""
    inside: str | None = None
    """Name of the module that contains this one and others, where the class has no module of this name."""

    @property
    def weight(self) -> str:
        """Name of the weight, relative to the parent of the module."""
        return f"{self.name}.weight"

    @property
    def parameters(self) -> tuple[tuple[str, Axes], ...]:
        """Name and axes of the weight, and of the bias where there is one."""
        weight = (self.weight, self.axes)
        assert isinstance(self.bias, bool), "the family's entry for a config has settled it"
        return (weight, (f"{self.name}.bias", self.axes[:1])) if self.bias else (weight,)


@dataclass(frozen=True, slots=True, kw_only=True)
class Family:
    """How one `model_type` is built."""

    model_type: str
    required: Mapping[str, object]
    """Config fields with the only value that is supported."""
    biases: Mapping[str, bool] = field(default_factory=dict)
    """Config fields that switch biases on, off where a config has none, and what they say."""
    stock_heads: Literal["any", "divide", "fill"] = "any"
    """Which heads the stock class accepts: any, those whose number divides the hidden size, or those whose dimensions
    add up to it."""
    stand_in: str | None = None
    """Model type of a stock model that computes the same and accepts any heads."""
    stand_in_settings: Mapping[str, object] = field(default_factory=dict)
    """Config fields with which it computes the same."""
    grouped: bool = True
    """Whether queries may share keys and values; otherwise the config has no word for their number."""
    rope_types: tuple[str, ...] = ()
    """Types of rotary embeddings that the stock config accepts; all where it is empty."""
    partial_rotary: bool = False
    """Whether its class reads `partial_rotary_factor`, the share of a head that turns; otherwise whole heads do."""
    rope_constants: tuple[str, ...] = ()
    """Entries of `rope_parameters` that a class reads for more than frequencies; cuts keep them."""
    layer_lists: tuple[str, ...] = ()
    """Config fields with one entry for every layer."""
    rope_by_type: bool = False
    """Whether `rope_parameters` has an entry for every type of layer in `layer_types`; otherwise one serves all."""
    norm_offset: int = 0
    """What norms add to their weight before they multiply by it."""
    scales_embedding: bool = False
    """Whether embeddings are multiplied by the square root of the hidden size."""
    scales_by_head_dim: bool = True
    """Whether attention scores are divided by sqrt(head_dim); otherwise they are scaled by a constant of the config."""
    caps_logits: bool = False
    """Whether its config caps logits unless it says otherwise."""
    forms_scores: bool = False
    """Whether transformers runs its attention with whole matrices of scores, for want of a fused kernel."""
    residual_multiplier: str | None = None
    """Config field of a factor on what attention and MLP add to the residual stream."""
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
    parallel: str | None = None
    """Config field that says whether attention and MLP read one input."""
    output_norms: bool = False
    """Whether what attention and MLP compute is normalised before it joins the residual stream."""
    stored_names: Mapping[str, str] = field(default_factory=dict)
    """What files call a parameter that the stock class names otherwise."""
    alternates: bool = False
    """Whether a module of several goes through them group by group; otherwise one follows the other."""
    query: Module
    key: Module
    value: Module
    output: Module
    mlp_in: tuple[Module, ...]
    """Projections into the neurons: gate and up, or a single one."""
    mlp_out: Module

    @property
    def name(self) -> str:
        """Key in `FAMILIES`: the model type, and the biases that are switched on."""
        return "+".join((self.model_type, *(switch for switch, on in self.biases.items() if on)))

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

    @property
    def holders(self) -> Mapping[str, tuple[Module, ...]]:
        """Names of modules that contain several others, and those in their order."""
        names = dict.fromkeys(module.inside for module in self.readers if module.inside)
        return {name: tuple(module for module in self.readers if module.inside == name) for name in names}

    def outer_modules(self, *, tied: bool) -> tuple[Module, ...]:
        """Return the modules outside the layers that own a weight."""
        return (self.embedding, self.final_norm) if tied else (self.embedding, self.final_norm, self.head)

    def layer_path(self, layer: int, module: Module) -> str:
        """Return the full path of a layer's module, or of the one that contains it."""
        return f"{self.decoder}.{layer}.{module.inside or module.name}"

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

    def parts(self, num_layers: int, *, tied: bool) -> list[list[tuple[str, int | None, Axes]]]:
        """Return the same part by part: the embedding, every layer in depth order, and the rest."""
        parts: list[list[tuple[str, int | None, Axes]]] = [[] for _ in range(num_layers + 2)]
        for name, layer, axes in self.parameters(num_layers, tied=tied):
            outer = 0 if name == self.embedding.weight else -1
            parts[outer if layer is None else layer + 1].append((name, layer, axes))
        return parts


LLAMA = Family(
    model_type="llama",
    required={},
    biases={"attention_bias": False, "mlp_bias": False},
    # LlamaConfig refuses other heads since transformers 5; MistralForCausalLM without a window is the same function.
    stock_heads="divide",
    stand_in="mistral",
    stand_in_settings={"sliding_window": None},
    decoder="model.layers",
    embedding=Module("model.embed_tokens", (VOCAB, HIDDEN)),
    head=Module("lm_head", (VOCAB, HIDDEN)),
    final_norm=Module("model.norm", (HIDDEN,)),
    norms=(Module("input_layernorm", (HIDDEN,)), Module("post_attention_layernorm", (HIDDEN,))),
    query=Module("self_attn.q_proj", (QUERY_ROWS, HIDDEN), bias="attention_bias"),
    key=Module("self_attn.k_proj", (KEY_ROWS, HIDDEN), bias="attention_bias"),
    value=Module("self_attn.v_proj", (VALUE_ROWS, HIDDEN), bias="attention_bias"),
    output=Module("self_attn.o_proj", (HIDDEN, HEAD_OUTPUT), bias="attention_bias"),
    mlp_in=(
        Module("mlp.gate_proj", (NEURON, HIDDEN), bias="mlp_bias"),
        Module("mlp.up_proj", (NEURON, HIDDEN), bias="mlp_bias"),
    ),
    mlp_out=Module("mlp.down_proj", (HIDDEN, NEURON), bias="mlp_bias"),
)

_QKV = ("query", "key", "value")
_PROJECTIONS = (*_QKV, "output", "mlp_in", "mlp_out")


def _each(family: Family, names: Sequence[str], change: Callable[[Module], Module]) -> Family:
    """Return a family of which some modules are changed."""
    changed: dict[str, Any] = {}
    for name in names:
        old = getattr(family, name)
        changed[name] = tuple(map(change, old)) if isinstance(old, tuple) else change(old)
    return replace(family, **changed)


_biased, _unbiased = partial(replace, bias=True), partial(replace, bias=False)

_ANY_HEADS = replace(LLAMA, stock_heads="any", stand_in=None, stand_in_settings={})
_PLAIN_MLP = replace(_each(_ANY_HEADS, ("mlp_in", "mlp_out"), _unbiased), biases={"attention_bias": False})
MISTRAL = replace(_each(_PLAIN_MLP, (*_QKV, "output"), _unbiased), model_type="mistral", biases={})

MINISTRAL3 = replace(
    MISTRAL,
    model_type="ministral3",
    # Queries grow with their position, by both.
    rope_constants=("llama_4_scaling_beta", "original_max_position_embeddings"),
)

PHI3 = replace(
    _each(
        _each(MISTRAL, _QKV, partial(replace, inside="self_attn.qkv_proj")),
        ("mlp_in",),
        partial(replace, inside="mlp.gate_up_proj"),
    ),
    model_type="phi3",
    # Beside a list of factors its config takes no heads but those that fill the hidden size.
    stock_heads="fill",
    rope_types=("default", "longrope"),
    partial_rotary=True,
)

QWEN2 = replace(_each(MISTRAL, _QKV, _biased), model_type="qwen2", layer_lists=("layer_types",))

QWEN3 = replace(
    _PLAIN_MLP,
    model_type="qwen3",
    layer_lists=("layer_types",),
    query_norm=Module("self_attn.q_norm", (("qk",),)),
    key_norm=Module("self_attn.k_norm", (("qk",),)),
)

SMOLLM3 = replace(_ANY_HEADS, model_type="smollm3", layer_lists=("layer_types", "no_rope_layers"))
GRANITE = replace(_ANY_HEADS, model_type="granite", scales_by_head_dim=False, residual_multiplier="residual_multiplier")

OLMO2 = replace(
    _PLAIN_MLP,
    model_type="olmo2",
    norms=(Module("post_attention_layernorm", (HIDDEN,)), Module("post_feedforward_layernorm", (HIDDEN,))),
    query_norm=Module("self_attn.q_norm", (QUERY_ROWS,)),
    key_norm=Module("self_attn.k_norm", (KEY_ROWS,)),
    output_norms=True,
)

OLMO3 = replace(OLMO2, model_type="olmo3", layer_lists=("layer_types",), rope_by_type=True)

GEMMA2 = replace(
    _PLAIN_MLP,
    model_type="gemma2",
    required={"use_bidirectional_attention": None},
    stock_heads="divide",
    layer_lists=("layer_types",),
    norm_offset=1,
    scales_embedding=True,
    scales_by_head_dim=False,
    caps_logits=True,
    forms_scores=True,
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
    caps_logits=False,
    forms_scores=False,
    rope_by_type=True,
    query_norm=Module("self_attn.q_norm", (("qk",),)),
    key_norm=Module("self_attn.k_norm", (("qk",),)),
    heads_first=True,
)

STARCODER2 = replace(
    _each(_ANY_HEADS, ("final_norm", "norms", *_QKV, "output"), _biased),
    model_type="starcoder2",
    required={"use_bias": True},
    biases={},
    mlp_in=(Module("mlp.c_fc", (NEURON, HIDDEN), bias=True),),
    mlp_out=Module("mlp.c_proj", (HIDDEN, NEURON), bias=True),
)

STABLELM = replace(
    _each(_each(QWEN2, ("final_norm", "norms"), _biased), _QKV, partial(replace, bias="use_qkv_bias")),
    model_type="stablelm",
    required={"use_parallel_residual": False, "qk_layernorm": False},
    biases={"use_qkv_bias": False},
    layer_lists=(),
    stock_heads="fill",
    partial_rotary=True,
)

_NEOX_HOLDER = "attention.query_key_value"
GPT_NEOX = Family(
    model_type="gpt_neox",
    required={"attention_bias": True},
    stock_heads="fill",
    grouped=False,
    partial_rotary=True,
    parallel="use_parallel_residual",
    decoder="gpt_neox.layers",
    embedding=Module("gpt_neox.embed_in", (VOCAB, HIDDEN)),
    head=Module("lm_head", (VOCAB, HIDDEN)),
    stored_names={"lm_head.weight": "embed_out.weight"},
    final_norm=Module("gpt_neox.final_layer_norm", (HIDDEN,), bias=True),
    norms=(
        Module("input_layernorm", (HIDDEN,), bias=True),
        Module("post_attention_layernorm", (HIDDEN,), bias=True),
    ),
    alternates=True,
    query=Module("attention.query", (QUERY_ROWS, HIDDEN), bias=True, inside=_NEOX_HOLDER),
    key=Module("attention.key", (KEY_ROWS, HIDDEN), bias=True, inside=_NEOX_HOLDER),
    value=Module("attention.value", (VALUE_ROWS, HIDDEN), bias=True, inside=_NEOX_HOLDER),
    output=Module("attention.dense", (HIDDEN, HEAD_OUTPUT), bias=True),
    mlp_in=(Module("mlp.dense_h_to_4h", (NEURON, HIDDEN), bias=True),),
    mlp_out=Module("mlp.dense_4h_to_h", (HIDDEN, NEURON), bias=True),
)


def _with_biases(family: Family, on: tuple[str, ...]) -> Family:
    """Return the entry of the models whose configs switch some biases on."""

    def settled(module: Module) -> Module:
        return replace(module, bias=module.bias in on if isinstance(module.bias, str) else module.bias)

    biases = {switch: switch in on for switch in family.biases}
    # The class that takes its place has no biases.
    stand_in = None if on else family.stand_in
    return _each(replace(family, biases=biases, stand_in=stand_in), _PROJECTIONS, settled)


_TABLE = (
    GEMMA2, GEMMA3_TEXT, GPT_NEOX, GRANITE, LLAMA, MINISTRAL3, MISTRAL, OLMO2, OLMO3, PHI3, QWEN2, QWEN3, SMOLLM3,
    STABLELM, STARCODER2,
)  # fmt: skip

MODEL_TYPES: Mapping[str, Family] = {family.model_type: family for family in _TABLE}
"""The families, before a config has settled which biases they have."""
FAMILIES: Mapping[str, Family] = {
    entry.name: entry
    for family in _TABLE
    for number in range(len(family.biases) + 1)
    for on in combinations(family.biases, number)
    for entry in [_with_biases(family, on)]
}
"""By name: the model type, and the biases that are switched on."""


def family_of(name: str) -> Family:
    """Return the table entry of an architecture's `family`.

    Raises:
        ValueError: the family is not supported; the message lists those that are.
    """
    if name not in FAMILIES:
        raise ValueError(f"model type {name!r} is not supported; supported: {', '.join(MODEL_TYPES)}")
    return FAMILIES[name]


def axis_lengths(architecture: Architecture, layer: LayerSpec) -> dict[str, int]:
    """Return the length of every basic axis in one layer of an architecture."""
    return {"vocab": architecture.vocab_size, "hidden": architecture.hidden_size, **layer_lengths(layer)}


def layer_lengths(layer: LayerSpec) -> dict[str, int]:
    """Return the length of every basic axis that a layer has of its own."""
    return {
        "group": layer.num_key_value_heads,
        "query": layer.heads_per_group,
        "qk": layer.head_dim,
        "value": layer.head_dim,
        "neuron": layer.intermediate_size,
    }
