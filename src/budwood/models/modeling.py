"""Decoders whose layers differ in size; travels with each checkpoint that needs it, so it imports only transformers.

Every layer is its family's stock layer, built from a configuration of its own, `config.per_layer_config[i]`: heads,
groups, head dimension, rotary embedding and MLP width. All else is the stock model. Load with
`AutoModelForCausalLM.from_pretrained(folder, trust_remote_code=True)`.
"""

import copy
from typing import Any, ClassVar

from torch import Tensor, nn
from transformers import (
    Gemma2Config,
    Gemma2ForCausalLM,
    Gemma2Model,
    Gemma3ForCausalLM,
    Gemma3TextConfig,
    Gemma3TextModel,
    GPTNeoXConfig,
    GPTNeoXForCausalLM,
    GPTNeoXModel,
    GraniteConfig,
    GraniteForCausalLM,
    GraniteModel,
    LlamaConfig,
    LlamaForCausalLM,
    LlamaModel,
    Ministral3Config,
    Ministral3ForCausalLM,
    Ministral3Model,
    MistralConfig,
    MistralForCausalLM,
    MistralModel,
    Olmo2Config,
    Olmo2ForCausalLM,
    Olmo2Model,
    Olmo3Config,
    Olmo3ForCausalLM,
    Olmo3Model,
    Phi3Config,
    Phi3ForCausalLM,
    Phi3Model,
    PretrainedConfig,
    PreTrainedModel,
    Qwen2Config,
    Qwen2ForCausalLM,
    Qwen2Model,
    Qwen3Config,
    Qwen3ForCausalLM,
    Qwen3Model,
    SmolLM3Config,
    SmolLM3ForCausalLM,
    SmolLM3Model,
    StableLmConfig,
    StableLmForCausalLM,
    StableLmModel,
    Starcoder2Config,
    Starcoder2ForCausalLM,
    Starcoder2Model,
)
from transformers.modeling_layers import GradientCheckpointingLayer
from transformers.models.gemma2.modeling_gemma2 import Gemma2DecoderLayer, Gemma2RotaryEmbedding
from transformers.models.gemma3.modeling_gemma3 import Gemma3DecoderLayer, Gemma3RotaryEmbedding
from transformers.models.gpt_neox.modeling_gpt_neox import GPTNeoXLayer, GPTNeoXRotaryEmbedding
from transformers.models.granite.modeling_granite import GraniteDecoderLayer, GraniteRotaryEmbedding
from transformers.models.llama.modeling_llama import LlamaDecoderLayer, LlamaRotaryEmbedding
from transformers.models.ministral3.modeling_ministral3 import Ministral3DecoderLayer, Ministral3RotaryEmbedding
from transformers.models.mistral.modeling_mistral import MistralDecoderLayer, MistralRotaryEmbedding
from transformers.models.olmo2.modeling_olmo2 import Olmo2DecoderLayer, Olmo2RotaryEmbedding
from transformers.models.olmo3.modeling_olmo3 import Olmo3DecoderLayer, Olmo3RotaryEmbedding
from transformers.models.phi3.modeling_phi3 import Phi3DecoderLayer, Phi3RotaryEmbedding
from transformers.models.qwen2.modeling_qwen2 import Qwen2DecoderLayer, Qwen2RotaryEmbedding
from transformers.models.qwen3.modeling_qwen3 import Qwen3DecoderLayer, Qwen3RotaryEmbedding
from transformers.models.smollm3.modeling_smollm3 import SmolLM3DecoderLayer, SmolLM3RotaryEmbedding
from transformers.models.stablelm.modeling_stablelm import StableLmDecoderLayer, StableLmRotaryEmbedding
from transformers.models.starcoder2.modeling_starcoder2 import Starcoder2DecoderLayer, Starcoder2RotaryEmbedding


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
        """Run the stock layer with position embeddings of its own head dimension."""
        # Attention asks its configuration for the attention implementation, which is switched in the model's.
        if self.stock._attn_implementation != self.whole._attn_implementation:  # noqa: SLF001
            self.stock._attn_implementation = self.whole._attn_implementation  # noqa: SLF001
        kwargs["position_embeddings"] = self.embed_positions(hidden_states, kwargs["position_ids"])
        output: Tensor = super().forward(hidden_states, *args, **kwargs)
        return output

    def embed_positions(self, hidden_states: Tensor | None, position_ids: Tensor) -> Any:
        """Return the layer's position embeddings."""
        return self.rotary_emb(hidden_states, position_ids)


class TypedDecoderLayer(LayerwiseDecoderLayer):
    """A layer of a family whose rotary embeddings go by the types of layers."""

    def __init__(self, config: PretrainedConfig, layer_idx: int) -> None:
        """Build the layer and note its type."""
        super().__init__(config, layer_idx)
        self.layer_type = config.layer_types[layer_idx]

    def embed_positions(self, hidden_states: Tensor | None, position_ids: Tensor) -> Any:
        """Return the layer's position embeddings."""
        return self.rotary_emb(hidden_states, position_ids, self.layer_type)


def one_headed(own_config: PretrainedConfig) -> PretrainedConfig:
    """Return a layer's configuration with a single head, for stock layers whose heads fill the hidden size."""
    one_head = copy.copy(own_config)
    one_head.num_attention_heads = 1
    if hasattr(one_head, "num_key_value_heads"):
        one_head.num_key_value_heads = 1
    return one_head


class NoRotaryEmbedding(nn.Module):
    """Stands where a stock decoder computes one embedding for all layers."""

    def forward(self, hidden_states: Tensor, position_ids: Tensor, layer_type: str | None = None) -> None:
        """Compute nothing: every layer has an embedding of its own."""


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


class LayerwiseLlamaConfig(LlamaConfig):
    """A Llama configuration whose `per_layer_config` names what each layer has of its own."""

    model_type = "budwood_llama"


class LayerwiseLlamaDecoderLayer(LayerwiseDecoderLayer, LlamaDecoderLayer):
    """A Llama layer of its own size."""

    rotary_class = LlamaRotaryEmbedding


class LayerwiseLlamaModel(LayerwiseModel, LlamaModel):
    """A Llama decoder with layer-wise sizes."""

    config: LayerwiseLlamaConfig
    layer_class = LayerwiseLlamaDecoderLayer


class LayerwiseLlamaForCausalLM(LayerwiseCausalLM, LlamaForCausalLM):
    """Llama with layer-wise sizes."""

    config: LayerwiseLlamaConfig
    decoder_class = LayerwiseLlamaModel


class LayerwiseQwen2Config(Qwen2Config):
    """A Qwen2 configuration whose `per_layer_config` names what each layer has of its own."""

    model_type = "budwood_qwen2"


class LayerwiseQwen2DecoderLayer(LayerwiseDecoderLayer, Qwen2DecoderLayer):
    """A Qwen2 layer of its own size."""

    rotary_class = Qwen2RotaryEmbedding


class LayerwiseQwen2Model(LayerwiseModel, Qwen2Model):
    """A Qwen2 decoder with layer-wise sizes."""

    config: LayerwiseQwen2Config
    layer_class = LayerwiseQwen2DecoderLayer


class LayerwiseQwen2ForCausalLM(LayerwiseCausalLM, Qwen2ForCausalLM):
    """Qwen2 with layer-wise sizes."""

    config: LayerwiseQwen2Config
    decoder_class = LayerwiseQwen2Model


class LayerwiseQwen3Config(Qwen3Config):
    """A Qwen3 configuration whose `per_layer_config` names what each layer has of its own."""

    model_type = "budwood_qwen3"


class LayerwiseQwen3DecoderLayer(LayerwiseDecoderLayer, Qwen3DecoderLayer):
    """A Qwen3 layer of its own size."""

    rotary_class = Qwen3RotaryEmbedding


class LayerwiseQwen3Model(LayerwiseModel, Qwen3Model):
    """A Qwen3 decoder with layer-wise sizes."""

    config: LayerwiseQwen3Config
    layer_class = LayerwiseQwen3DecoderLayer


class LayerwiseQwen3ForCausalLM(LayerwiseCausalLM, Qwen3ForCausalLM):
    """Qwen3 with layer-wise sizes."""

    config: LayerwiseQwen3Config
    decoder_class = LayerwiseQwen3Model


class LayerwiseSmolLM3Config(SmolLM3Config):
    """A SmolLM3 configuration whose `per_layer_config` names what each layer has of its own."""

    model_type = "budwood_smollm3"


class LayerwiseSmolLM3DecoderLayer(LayerwiseDecoderLayer, SmolLM3DecoderLayer):
    """A SmolLM3 layer of its own size."""

    rotary_class = SmolLM3RotaryEmbedding


class LayerwiseSmolLM3Model(LayerwiseModel, SmolLM3Model):
    """A SmolLM3 decoder with layer-wise sizes."""

    config: LayerwiseSmolLM3Config
    layer_class = LayerwiseSmolLM3DecoderLayer


class LayerwiseSmolLM3ForCausalLM(LayerwiseCausalLM, SmolLM3ForCausalLM):
    """SmolLM3 with layer-wise sizes."""

    config: LayerwiseSmolLM3Config
    decoder_class = LayerwiseSmolLM3Model


class LayerwiseOlmo2Config(Olmo2Config):
    """An OLMo 2 configuration whose `per_layer_config` names what each layer has of its own."""

    model_type = "budwood_olmo2"


class LayerwiseOlmo2DecoderLayer(LayerwiseDecoderLayer, Olmo2DecoderLayer):
    """An OLMo 2 layer of its own size."""

    rotary_class = Olmo2RotaryEmbedding


class LayerwiseOlmo2Model(LayerwiseModel, Olmo2Model):
    """An OLMo 2 decoder with layer-wise sizes."""

    config: LayerwiseOlmo2Config
    layer_class = LayerwiseOlmo2DecoderLayer


class LayerwiseOlmo2ForCausalLM(LayerwiseCausalLM, Olmo2ForCausalLM):
    """OLMo 2 with layer-wise sizes."""

    config: LayerwiseOlmo2Config
    decoder_class = LayerwiseOlmo2Model


class LayerwiseOlmo3Config(Olmo3Config):
    """An OLMo 3 configuration whose `per_layer_config` names what each layer has of its own."""

    model_type = "budwood_olmo3"


class LayerwiseOlmo3DecoderLayer(TypedDecoderLayer, Olmo3DecoderLayer):
    """An OLMo 3 layer of its own size."""

    rotary_class = Olmo3RotaryEmbedding


class LayerwiseOlmo3Model(LayerwiseModel, Olmo3Model):
    """An OLMo 3 decoder with layer-wise sizes."""

    config: LayerwiseOlmo3Config
    layer_class = LayerwiseOlmo3DecoderLayer


class LayerwiseOlmo3ForCausalLM(LayerwiseCausalLM, Olmo3ForCausalLM):
    """OLMo 3 with layer-wise sizes."""

    config: LayerwiseOlmo3Config
    decoder_class = LayerwiseOlmo3Model


class LayerwiseGemma2Config(Gemma2Config):
    """A Gemma 2 configuration whose `per_layer_config` names what each layer has of its own."""

    model_type = "budwood_gemma2"


class LayerwiseGemma2DecoderLayer(LayerwiseDecoderLayer, Gemma2DecoderLayer):
    """A Gemma 2 layer of its own size."""

    rotary_class = Gemma2RotaryEmbedding


class LayerwiseGemma2Model(LayerwiseModel, Gemma2Model):
    """A Gemma 2 decoder with layer-wise sizes."""

    config: LayerwiseGemma2Config
    layer_class = LayerwiseGemma2DecoderLayer


class LayerwiseGemma2ForCausalLM(LayerwiseCausalLM, Gemma2ForCausalLM):
    """Gemma 2 with layer-wise sizes."""

    config: LayerwiseGemma2Config
    decoder_class = LayerwiseGemma2Model


class LayerwiseMistralConfig(MistralConfig):
    """A Mistral configuration whose `per_layer_config` names what each layer has of its own."""

    model_type = "budwood_mistral"


class LayerwiseMistralDecoderLayer(LayerwiseDecoderLayer, MistralDecoderLayer):
    """A Mistral layer of its own size."""

    rotary_class = MistralRotaryEmbedding


class LayerwiseMistralModel(LayerwiseModel, MistralModel):
    """A Mistral decoder with layer-wise sizes."""

    config: LayerwiseMistralConfig
    layer_class = LayerwiseMistralDecoderLayer


class LayerwiseMistralForCausalLM(LayerwiseCausalLM, MistralForCausalLM):
    """Mistral with layer-wise sizes."""

    config: LayerwiseMistralConfig
    decoder_class = LayerwiseMistralModel


class LayerwiseMinistral3Config(Ministral3Config):
    """A Ministral 3 configuration whose `per_layer_config` names what each layer has of its own."""

    model_type = "budwood_ministral3"


class LayerwiseMinistral3DecoderLayer(LayerwiseDecoderLayer, Ministral3DecoderLayer):
    """A Ministral 3 layer of its own size."""

    rotary_class = Ministral3RotaryEmbedding


class LayerwiseMinistral3Model(LayerwiseModel, Ministral3Model):
    """A Ministral 3 decoder with layer-wise sizes."""

    config: LayerwiseMinistral3Config
    layer_class = LayerwiseMinistral3DecoderLayer


class LayerwiseMinistral3ForCausalLM(LayerwiseCausalLM, Ministral3ForCausalLM):
    """Ministral 3 with layer-wise sizes."""

    config: LayerwiseMinistral3Config
    decoder_class = LayerwiseMinistral3Model


class LayerwiseGraniteConfig(GraniteConfig):
    """A Granite configuration whose `per_layer_config` names what each layer has of its own."""

    model_type = "budwood_granite"


class LayerwiseGraniteDecoderLayer(LayerwiseDecoderLayer, GraniteDecoderLayer):
    """A Granite layer of its own size."""

    rotary_class = GraniteRotaryEmbedding


class LayerwiseGraniteModel(LayerwiseModel, GraniteModel):
    """A Granite decoder with layer-wise sizes."""

    config: LayerwiseGraniteConfig
    layer_class = LayerwiseGraniteDecoderLayer


class LayerwiseGraniteForCausalLM(LayerwiseCausalLM, GraniteForCausalLM):
    """Granite with layer-wise sizes."""

    config: LayerwiseGraniteConfig
    decoder_class = LayerwiseGraniteModel


class LayerwisePhi3Config(Phi3Config):
    """A Phi-3 configuration whose `per_layer_config` names what each layer has of its own."""

    model_type = "budwood_phi3"

    def validate(self) -> None:
        """Check what holds for all configurations: the stock check takes all heads to be of one size."""
        PretrainedConfig.validate(self)  # type: ignore[attr-defined]


class LayerwisePhi3DecoderLayer(LayerwiseDecoderLayer, Phi3DecoderLayer):
    """A Phi-3 layer of its own size."""

    rotary_class = Phi3RotaryEmbedding


class LayerwisePhi3Model(LayerwiseModel, Phi3Model):
    """A Phi-3 decoder with layer-wise sizes."""

    config: LayerwisePhi3Config
    layer_class = LayerwisePhi3DecoderLayer


class LayerwisePhi3ForCausalLM(LayerwiseCausalLM, Phi3ForCausalLM):
    """Phi-3 with layer-wise sizes."""

    config: LayerwisePhi3Config
    decoder_class = LayerwisePhi3Model


class LayerwiseStarcoder2Config(Starcoder2Config):
    """A StarCoder2 configuration whose `per_layer_config` names what each layer has of its own."""

    model_type = "budwood_starcoder2"


class LayerwiseStarcoder2DecoderLayer(LayerwiseDecoderLayer, Starcoder2DecoderLayer):
    """A StarCoder2 layer of its own size."""

    rotary_class = Starcoder2RotaryEmbedding


class LayerwiseStarcoder2Model(LayerwiseModel, Starcoder2Model):
    """A StarCoder2 decoder with layer-wise sizes."""

    config: LayerwiseStarcoder2Config
    layer_class = LayerwiseStarcoder2DecoderLayer


class LayerwiseStarcoder2ForCausalLM(LayerwiseCausalLM, Starcoder2ForCausalLM):
    """StarCoder2 with layer-wise sizes."""

    config: LayerwiseStarcoder2Config
    decoder_class = LayerwiseStarcoder2Model


class LayerwiseStableLmConfig(StableLmConfig):
    """A StableLM configuration whose `per_layer_config` names what each layer has of its own."""

    model_type = "budwood_stablelm"


class LayerwiseStableLmDecoderLayer(LayerwiseDecoderLayer, StableLmDecoderLayer):
    """A StableLM layer of its own size."""

    rotary_class = StableLmRotaryEmbedding

    @staticmethod
    def stock_config(own_config: PretrainedConfig) -> PretrainedConfig:
        """Return a configuration of one head: more may not fit into the hidden size."""
        return one_headed(own_config)

    def __init__(self, config: PretrainedConfig, layer_idx: int) -> None:
        """Build the stock layer and give its attention heads of `head_dim`."""
        super().__init__(config, layer_idx)
        own, attention = config.per_layer_config[layer_idx], self.self_attn
        attention.num_heads, attention.num_key_value_heads = own.num_attention_heads, own.num_key_value_heads
        attention.num_key_value_groups = own.num_attention_heads // own.num_key_value_heads
        attention.head_dim, attention.scaling = own.head_dim, own.head_dim**-0.5
        attention.rotary_ndims = int(own.head_dim * own.rope_parameters["partial_rotary_factor"])
        queries, keys = own.num_attention_heads * own.head_dim, own.num_key_value_heads * own.head_dim
        attention.q_proj = nn.Linear(own.hidden_size, queries, bias=own.use_qkv_bias)
        attention.k_proj = nn.Linear(own.hidden_size, keys, bias=own.use_qkv_bias)
        attention.v_proj = nn.Linear(own.hidden_size, keys, bias=own.use_qkv_bias)
        attention.o_proj = nn.Linear(queries, own.hidden_size, bias=False)


class LayerwiseStableLmModel(LayerwiseModel, StableLmModel):
    """A StableLM decoder with layer-wise sizes."""

    config: LayerwiseStableLmConfig
    layer_class = LayerwiseStableLmDecoderLayer


class LayerwiseStableLmForCausalLM(LayerwiseCausalLM, StableLmForCausalLM):
    """StableLM with layer-wise sizes."""

    config: LayerwiseStableLmConfig
    decoder_class = LayerwiseStableLmModel


class LayerwiseGemma3Config(Gemma3TextConfig):
    """A Gemma 3 text configuration whose `per_layer_config` names what each layer has of its own."""

    model_type = "budwood_gemma3_text"


class LayerwiseGemma3DecoderLayer(TypedDecoderLayer, Gemma3DecoderLayer):
    """A Gemma 3 layer of its own size."""

    rotary_class = Gemma3RotaryEmbedding


class LayerwiseGemma3TextModel(LayerwiseModel, Gemma3TextModel):
    """A Gemma 3 decoder with layer-wise sizes."""

    config: LayerwiseGemma3Config
    layer_class = LayerwiseGemma3DecoderLayer


class LayerwiseGemma3ForCausalLM(LayerwiseCausalLM, Gemma3ForCausalLM):
    """Gemma 3 with layer-wise sizes."""

    config: LayerwiseGemma3Config
    decoder_class = LayerwiseGemma3TextModel


class LayerwiseGPTNeoXConfig(GPTNeoXConfig):
    """A GPT-NeoX configuration whose `per_layer_config` names what each layer has of its own."""

    model_type = "budwood_gpt_neox"


class LayerwiseGPTNeoXLayer(LayerwiseDecoderLayer, GPTNeoXLayer):
    """A GPT-NeoX layer of its own size, whose heads need not add up to the hidden size."""

    rotary_class = GPTNeoXRotaryEmbedding

    @staticmethod
    def stock_config(own_config: PretrainedConfig) -> PretrainedConfig:
        """Return a configuration of one head: more may not fit into the hidden size."""
        return one_headed(own_config)

    def __init__(self, config: PretrainedConfig, layer_idx: int) -> None:
        """Build the stock layer and give its attention heads of `head_dim`."""
        super().__init__(config, layer_idx)
        own_config = config.per_layer_config[layer_idx]
        width = own_config.num_attention_heads * own_config.head_dim
        attention, bias = self.attention, own_config.attention_bias
        attention.query_key_value = nn.Linear(own_config.hidden_size, 3 * width, bias=bias)
        attention.dense = nn.Linear(width, own_config.hidden_size, bias=bias)
        attention.head_size = own_config.head_dim
        attention.rotary_ndims = int(own_config.head_dim * own_config.rope_parameters.get("partial_rotary_factor", 1.0))
        attention.scaling = own_config.head_dim**-0.5


class LayerwiseGPTNeoXModel(LayerwiseModel, GPTNeoXModel):
    """A GPT-NeoX decoder with layer-wise sizes."""

    config: LayerwiseGPTNeoXConfig
    layer_class = LayerwiseGPTNeoXLayer


class LayerwiseGPTNeoXForCausalLM(LayerwiseCausalLM, GPTNeoXForCausalLM):
    """GPT-NeoX with layer-wise sizes."""

    config: LayerwiseGPTNeoXConfig
    decoder_class = LayerwiseGPTNeoXModel


LAYERWISE_CLASSES: dict[str, tuple[type[PretrainedConfig], type[PreTrainedModel]]] = {
    "gemma2": (LayerwiseGemma2Config, LayerwiseGemma2ForCausalLM),
    "gemma3_text": (LayerwiseGemma3Config, LayerwiseGemma3ForCausalLM),
    "gpt_neox": (LayerwiseGPTNeoXConfig, LayerwiseGPTNeoXForCausalLM),
    "granite": (LayerwiseGraniteConfig, LayerwiseGraniteForCausalLM),
    "llama": (LayerwiseLlamaConfig, LayerwiseLlamaForCausalLM),
    "ministral3": (LayerwiseMinistral3Config, LayerwiseMinistral3ForCausalLM),
    "mistral": (LayerwiseMistralConfig, LayerwiseMistralForCausalLM),
    "olmo2": (LayerwiseOlmo2Config, LayerwiseOlmo2ForCausalLM),
    "olmo3": (LayerwiseOlmo3Config, LayerwiseOlmo3ForCausalLM),
    "phi3": (LayerwisePhi3Config, LayerwisePhi3ForCausalLM),
    "qwen2": (LayerwiseQwen2Config, LayerwiseQwen2ForCausalLM),
    "qwen3": (LayerwiseQwen3Config, LayerwiseQwen3ForCausalLM),
    "smollm3": (LayerwiseSmolLM3Config, LayerwiseSmolLM3ForCausalLM),
    "stablelm": (LayerwiseStableLmConfig, LayerwiseStableLmForCausalLM),
    "starcoder2": (LayerwiseStarcoder2Config, LayerwiseStarcoder2ForCausalLM),
}
"""Configuration and model with layer-wise sizes, by family."""
