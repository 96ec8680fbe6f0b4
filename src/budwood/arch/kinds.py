"""Models of other kinds than dense decoders in full precision, and what to do instead of cutting them."""

from collections.abc import Mapping
from typing import Any

_EXPERTS = ("num_experts", "num_local_experts", "n_routed_experts")
_KINDS: Mapping[str, frozenset[str]] = {
    "mixtures of experts": frozenset(
        {
            "cohere2_moe", "dbrx", "deepseek_v2", "deepseek_v3", "ernie4_5_moe", "glm4_moe", "gpt_oss", "granitemoe",
            "jetmoe", "llama4", "llama4_text", "minimax", "mistral4", "mixtral", "olmoe", "phimoe", "qwen2_moe",
            "qwen3_moe", "qwen3_5_moe",
        }
    ),
    "hybrids and models without attention": frozenset(
        {
            "bamba", "falcon_h1", "falcon_mamba", "granitemoehybrid", "jamba", "lfm2", "mamba", "mamba2", "nemotron_h",
            "qwen3_5", "qwen3_5_text", "qwen3_next", "recurrent_gemma", "rwkv", "zamba", "zamba2",
        }
    ),
}  # fmt: skip
"""Model types by what they are; the list only makes the message better."""


def refuse_other_kinds(config: Mapping[str, Any], supported: str) -> None:
    """Check that a `config.json` describes a dense decoder in full precision, as far as that can be seen.

    Raises:
        ValueError: the model is of another kind.
    """
    model_type = str(config.get("model_type"))
    if config.get("is_encoder_decoder"):
        raise ValueError(f"{model_type}: models with an encoder cannot be cut; {supported}")
    for field in _EXPERTS:
        if config.get(field):
            raise ValueError(
                f"{model_type}: mixtures of experts cannot be cut ({field}={config[field]!r}); take the dense model "
                f"of the same size or tokenizer as the teacher: {supported}"
            )
    for kind, names in _KINDS.items():
        if model_type in names:
            raise ValueError(
                f"{model_type}: {kind} cannot be cut; take a dense model of the same tokenizer as the teacher: "
                f"{supported}"
            )
    if quantisation := config.get("quantization_config"):
        method = quantisation.get("quant_method") if isinstance(quantisation, Mapping) else None
        raise ValueError(
            f"{model_type}: quantised models cannot be cut (quantization_config.quant_method={method!r}); take the "
            "checkpoint that was quantised, or load this one dequantised and save it in full precision"
        )
