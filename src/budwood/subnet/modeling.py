"""Llama with layers of different sizes; travels with each checkpoint that needs it, so it imports only transformers.

Every layer is the stock Llama layer of its own configuration, `config.per_layer_config[i]`: heads, groups, head
dimension, rotary embedding and MLP width. Load with `AutoModelForCausalLM.from_pretrained(folder,
trust_remote_code=True)`.
"""

from typing import Any, cast

from torch import Tensor, nn
from transformers import LlamaConfig, LlamaForCausalLM, LlamaModel, LlamaPreTrainedModel
from transformers.models.llama.modeling_llama import LlamaDecoderLayer, LlamaRMSNorm, LlamaRotaryEmbedding


class LayerwiseLlamaConfig(LlamaConfig):
    """A Llama configuration whose `per_layer_config` names what each layer has of its own."""

    model_type = "budwood_llama"


class LayerwiseLlamaDecoderLayer(LlamaDecoderLayer):
    """A stock layer that turns its own head dimension."""

    def __init__(self, config: LlamaConfig, layer_idx: int) -> None:
        """Build the layer from its own configuration."""
        super().__init__(config, layer_idx)
        self.rotary_emb = LlamaRotaryEmbedding(config)

    def forward(self, hidden_states: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        """Run the layer with the rotary embedding of its own head dimension."""
        kwargs["position_embeddings"] = self.rotary_emb(hidden_states, position_ids=kwargs["position_ids"])
        output: Tensor = super().forward(hidden_states, *args, **kwargs)
        return output


class NoRotaryEmbedding(nn.Module):
    """Stands where stock Llama computes one embedding for all layers."""

    def forward(self, hidden_states: Tensor, position_ids: Tensor) -> None:
        """Compute nothing: every layer has an embedding of its own."""


class LayerwiseLlamaModel(LlamaModel):
    """The decoder with layer-wise sizes."""

    config: LayerwiseLlamaConfig

    def __init__(self, config: LayerwiseLlamaConfig) -> None:
        """Build all layers, each from its own configuration."""
        LlamaPreTrainedModel.__init__(self, config)
        self.padding_idx = config.pad_token_id
        self.vocab_size = config.vocab_size
        self.embed_tokens = nn.Embedding(config.vocab_size, config.hidden_size, self.padding_idx)
        layers = range(config.num_hidden_layers)
        self.layers = nn.ModuleList(
            [LayerwiseLlamaDecoderLayer(cast("LlamaConfig", config.per_layer_config[i]), i) for i in layers]
        )
        self.norm = LlamaRMSNorm(config.hidden_size, eps=config.rms_norm_eps)
        self.rotary_emb = NoRotaryEmbedding()  # type: ignore[assignment]
        self.gradient_checkpointing = False
        self.post_init()  # type: ignore[no-untyped-call]


class LayerwiseLlamaForCausalLM(LlamaForCausalLM):
    """Causal language model with layer-wise sizes."""

    config: LayerwiseLlamaConfig
    _no_split_modules: list[str] = ["LayerwiseLlamaDecoderLayer"]  # noqa: RUF012

    def __init__(self, config: LayerwiseLlamaConfig) -> None:
        """Build the decoder and the head."""
        LlamaPreTrainedModel.__init__(self, config)
        self.model = LayerwiseLlamaModel(config)
        self.vocab_size = config.vocab_size
        self.lm_head = nn.Linear(config.hidden_size, config.vocab_size, bias=False)
        self.post_init()  # type: ignore[no-untyped-call]
