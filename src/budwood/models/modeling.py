"""Decoders whose layers differ in size; travels with each checkpoint that needs it, so it imports only transformers.

Every layer is its family's stock layer, built from a configuration of its own, `config.per_layer_config[i]`: heads,
groups, head dimension, rotary embedding and MLP width. All else is the stock model. Load with
`AutoModelForCausalLM.from_pretrained(folder, trust_remote_code=True)`.
"""

import copy
from importlib import import_module
from typing import Any, ClassVar

from torch import Tensor, nn
from transformers import PretrainedConfig, PreTrainedModel
from transformers.modeling_layers import GradientCheckpointingLayer


class LayerwiseDecoderLayer(GradientCheckpointingLayer):
    """Mixed into a family's decoder layer: its sizes and its rotary embedding are its own."""

    rotary_class: ClassVar[type[nn.Module]]

    def __init__(self, config: PretrainedConfig, layer_idx: int) -> None:
        """Build the stock layer from its own part of the model's configuration."""
        own_config = config.per_layer_config[layer_idx]
        self.stock = self.stock_config(own_config)
        super().__init__(self.stock, layer_idx)
        self.whole = config
        self.rotary_emb = self.rotary_class(own_config)

    @staticmethod
    def stock_config(own_config: PretrainedConfig) -> PretrainedConfig:
        """Return the configuration that the stock layer is built from."""
        return own_config

    def forward(self, hidden_states: Tensor | None, *args: Any, **kwargs: Any) -> Tensor:
        """Run the stock layer on [B, T, H] states with position embeddings of its own head dimension."""
        # Attention asks its configuration for the attention implementation, which is switched in the model's.
        if self.stock._attn_implementation != self.whole._attn_implementation:  # noqa: SLF001
            self.stock._attn_implementation = self.whole._attn_implementation  # noqa: SLF001
        kwargs["position_embeddings"] = self.embed_positions(hidden_states, kwargs["position_ids"])
        output: Tensor = super().forward(hidden_states, *args, **kwargs)
        return output

    def embed_positions(self, hidden_states: Tensor | None, position_ids: Tensor) -> Any:
        """Return the layer's position embeddings of [B, T] positions: cosines and sines, [B, T, D] each."""
        return self.rotary_emb(hidden_states, position_ids)


class TypedDecoderLayer(LayerwiseDecoderLayer):
    """A layer of a family whose rotary embeddings go by the types of layers."""

    def __init__(self, config: PretrainedConfig, layer_idx: int) -> None:
        """Build the layer and note its type."""
        super().__init__(config, layer_idx)
        self.layer_type = config.layer_types[layer_idx]

    def embed_positions(self, hidden_states: Tensor | None, position_ids: Tensor) -> Any:
        """Return the layer's position embeddings of [B, T] positions: cosines and sines, [B, T, D] each."""
        return self.rotary_emb(hidden_states, position_ids, self.layer_type)


class OneHeadedDecoderLayer(LayerwiseDecoderLayer):
    """A layer of a family whose stock layer has heads that fill the hidden size; it is built with one."""

    @staticmethod
    def stock_config(own_config: PretrainedConfig) -> PretrainedConfig:
        """Return a configuration of one head: more may not fit into the hidden size."""
        one_head = copy.copy(own_config)
        one_head.num_attention_heads = 1
        if hasattr(one_head, "num_key_value_heads"):
            one_head.num_key_value_heads = 1
        return one_head


class StableLmHeads(OneHeadedDecoderLayer):
    """A StableLM layer whose heads need not add up to the hidden size."""

    def __init__(self, config: PretrainedConfig, layer_idx: int) -> None:
        """Build the stock layer and give its attention heads of `head_dim`."""
        super().__init__(config, layer_idx)
        own: Any = config.per_layer_config[layer_idx]
        attention: Any = self.self_attn
        attention.num_heads, attention.num_key_value_heads = own.num_attention_heads, own.num_key_value_heads
        attention.num_key_value_groups = own.num_attention_heads // own.num_key_value_heads
        attention.head_dim, attention.scaling = own.head_dim, own.head_dim**-0.5
        attention.rotary_ndims = int(own.head_dim * own.rope_parameters["partial_rotary_factor"])
        queries, keys = own.num_attention_heads * own.head_dim, own.num_key_value_heads * own.head_dim
        attention.q_proj = nn.Linear(own.hidden_size, queries, bias=own.use_qkv_bias)
        attention.k_proj = nn.Linear(own.hidden_size, keys, bias=own.use_qkv_bias)
        attention.v_proj = nn.Linear(own.hidden_size, keys, bias=own.use_qkv_bias)
        attention.o_proj = nn.Linear(queries, own.hidden_size, bias=False)


class GPTNeoXHeads(OneHeadedDecoderLayer):
    """A GPT-NeoX layer whose heads need not add up to the hidden size."""

    def __init__(self, config: PretrainedConfig, layer_idx: int) -> None:
        """Build the stock layer and give its attention heads of `head_dim`."""
        super().__init__(config, layer_idx)
        own: Any = config.per_layer_config[layer_idx]
        attention: Any = self.attention
        width, bias = own.num_attention_heads * own.head_dim, own.attention_bias
        attention.query_key_value = nn.Linear(own.hidden_size, 3 * width, bias=bias)
        attention.dense = nn.Linear(width, own.hidden_size, bias=bias)
        attention.head_size = own.head_dim
        attention.rotary_ndims = int(own.head_dim * own.rope_parameters.get("partial_rotary_factor", 1.0))
        attention.scaling = own.head_dim**-0.5


class NoRotaryEmbedding(nn.Module):
    """Takes the place where a stock decoder computes one embedding for all layers."""

    def forward(self, hidden_states: Tensor, position_ids: Tensor, layer_type: str | None = None) -> None:
        """Compute nothing of [B, T, H] states: every layer has an embedding of its own."""


class LayerwiseModel(PreTrainedModel):
    """Mixed into a family's decoder: every layer is built from its own configuration."""

    layer_class: ClassVar[type[LayerwiseDecoderLayer]]
    rotary_emb: Any

    def __init__(self, config: PretrainedConfig) -> None:
        """Build the stock decoder without layers, then put ours in."""
        shell = copy.copy(config)
        shell.num_hidden_layers, shell.per_layer_config = 0, None
        super().__init__(shell)
        # Which attention is supported is settled while the stock decoder is built.
        config._attn_implementation = shell._attn_implementation  # noqa: SLF001
        self.config = config
        self.layers = nn.ModuleList(self.layer_class(config, i) for i in range(config.num_hidden_layers))
        self.rotary_emb = NoRotaryEmbedding()
        self.post_init()  # type: ignore[no-untyped-call]
        # Wrappers that go by the names of layers find no stock one here.
        self._no_split_modules = {self.layer_class.__name__}


class LayerwiseCausalLM(PreTrainedModel):
    """Mixed into a family's causal language model: a layer-wise decoder under the family's head."""

    decoder_class: ClassVar[type[LayerwiseModel]]

    def __init__(self, config: PretrainedConfig) -> None:
        """Build what the stock model builds, with our decoder in the place of the stock one."""
        # Not the stock initialiser: it would build, and draw, a decoder of its own.
        PreTrainedModel.__init__(self, config)
        setattr(self, self.base_model_prefix, self.decoder_class(config))
        self.vocab_size = config.vocab_size
        self.lm_head = nn.Linear(config.hidden_size, config.vocab_size, bias=False)
        self.post_init()  # type: ignore[no-untyped-call]
        self._no_split_modules = {self.decoder_class.layer_class.__name__}
        # Engines such as vLLM build the decoder alone, and find its class by this name.
        own_map = {"AutoModel": f"{__name__.rsplit('.', 1)[-1]}.{self.decoder_class.__name__}"}
        config.auto_map = own_map | (getattr(config, "auto_map", None) or {})


def layerwise(stock: type, *mixins: type, **attributes: Any) -> Any:
    """Return a stock class with mixins in front of it, named in this file: transformers and pickle look for it here."""
    name, doc = f"Layerwise{stock.__name__}", f"{stock.__name__} with layers of different sizes."
    made = type(name, (*mixins, stock), {"__module__": __name__, "__doc__": doc, **attributes})
    globals()[name] = made
    return made


def layerwise_family(
    model_type: str,
    prefix: str,
    layer: type[LayerwiseDecoderLayer] = LayerwiseDecoderLayer,
    names: tuple[str, str, str] = ("Config", "DecoderLayer", "Model"),
    **config: Any,
) -> tuple[type[PretrainedConfig], type[PreTrainedModel]]:
    """Return configuration and causal language model of a family.

    Args:
        model_type: of the stock configuration.
        prefix: begins the names of the stock classes.
        layer: goes in front of the stock layer.
        names: end the names of configuration, layer and decoder.
        config: attributes of the configuration.
    """
    folder = model_type.removesuffix("_text")
    module = import_module(f"transformers.models.{folder}.modeling_{folder}")
    configs, layers, decoders, heads, rotary = (
        getattr(module, prefix + name) for name in (*names, "ForCausalLM", "RotaryEmbedding")
    )
    config_class = layerwise(configs, model_type=f"budwood_{model_type}", **config)
    layer_class = layerwise(layers, layer, rotary_class=rotary)
    decoder_class = layerwise(decoders, LayerwiseModel, config_class=config_class, layer_class=layer_class)
    return config_class, layerwise(heads, LayerwiseCausalLM, config_class=config_class, decoder_class=decoder_class)


def check_alike(config: PretrainedConfig) -> None:
    """Check what is true of all configurations: the stock check of Phi-3 takes all heads to be of one size."""
    PretrainedConfig.validate(config)  # type: ignore[attr-defined]


_TEXT = ("TextConfig", "DecoderLayer", "TextModel")
LAYERWISE_CLASSES: dict[str, tuple[type[PretrainedConfig], type[PreTrainedModel]]] = {
    "gemma2": layerwise_family("gemma2", "Gemma2"),
    "gemma3_text": layerwise_family("gemma3_text", "Gemma3", TypedDecoderLayer, _TEXT),
    "gpt_neox": layerwise_family("gpt_neox", "GPTNeoX", GPTNeoXHeads, ("Config", "Layer", "Model")),
    "granite": layerwise_family("granite", "Granite"),
    "llama": layerwise_family("llama", "Llama"),
    "ministral3": layerwise_family("ministral3", "Ministral3"),
    "mistral": layerwise_family("mistral", "Mistral"),
    "olmo2": layerwise_family("olmo2", "Olmo2"),
    "olmo3": layerwise_family("olmo3", "Olmo3", TypedDecoderLayer),
    "phi3": layerwise_family("phi3", "Phi3", validate=check_alike),
    "qwen2": layerwise_family("qwen2", "Qwen2"),
    "qwen3": layerwise_family("qwen3", "Qwen3"),
    "smollm3": layerwise_family("smollm3", "SmolLM3"),
    "stablelm": layerwise_family("stablelm", "StableLm", StableLmHeads),
    "starcoder2": layerwise_family("starcoder2", "Starcoder2"),
}
"""Configuration and model with layer-wise sizes, by family."""
