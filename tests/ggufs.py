"""Tiny GGUF files, written as llama.cpp's converter writes them and without any code of budwood."""

import itertools
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from gguf import GGMLQuantizationType, GGUFWriter
from tokenizers.pre_tokenizers import ByteLevel
from torch import Tensor
from transformers import PreTrainedModel

NAMES = {
    "model.embed_tokens": "token_embd",
    "model.norm": "output_norm",
    "lm_head": "output",
    "input_layernorm": "attn_norm",
    "post_attention_layernorm": "ffn_norm",
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "self_attn.q_norm": "attn_q_norm",
    "self_attn.k_norm": "attn_k_norm",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
}
GEMMA_NAMES = NAMES | {
    "post_attention_layernorm": "post_attention_norm",
    "pre_feedforward_layernorm": "ffn_norm",
    "post_feedforward_layernorm": "post_ffw_norm",
}
_LAYER = re.compile(r"model\.layers\.(\d+)\.(.+)")


def header_of(model: PreTrainedModel) -> dict[str, Any]:
    """Return what a converter writes of a model with a plain rotary embedding, without the architecture's name."""
    config = model.config
    return {
        "context_length": config.max_position_embeddings,
        "embedding_length": config.hidden_size,
        "block_count": config.num_hidden_layers,
        "feed_forward_length": config.intermediate_size,
        "attention.head_count": config.num_attention_heads,
        "attention.head_count_kv": config.num_key_value_heads,
        "attention.key_length": config.head_dim,
        "attention.value_length": config.head_dim,
        "attention.layer_norm_rms_epsilon": config.rms_norm_eps,
        "rope.freq_base": config.rope_parameters.get("full_attention", config.rope_parameters)["rope_theta"],
        "rope.dimension_count": config.head_dim,
    }


def tensors_of(model: PreTrainedModel) -> dict[str, np.ndarray]:
    """Return the tensors that a converter writes."""
    kind = model.config.model_type
    tensors = {}
    for name, weight in model.named_parameters():
        stem, suffix = name.rsplit(".", 1)
        layer = _LAYER.fullmatch(stem)
        names = GEMMA_NAMES if kind.startswith("gemma") else NAMES
        own = f"blk.{layer[1]}.{names[layer[2]]}" if layer else names[stem]
        if kind in ("llama", "mistral") and own.endswith(("attn_q", "attn_k")):
            stored = permuted(weight, model.config.head_dim)
        else:
            stored = weight + 1 if kind.startswith("gemma") and "norm" in own else weight
        tensors[f"{own}.{suffix}"] = stored.detach().float().numpy()
    return tensors


def permuted(weight: Tensor, head_dim: int) -> Tensor:
    """Put the two dimensions of every rotary pair side by side, as `LlamaModel.permute` of llama.cpp does."""
    heads = len(weight) // head_dim
    return weight.reshape(heads, 2, head_dim // 2, *weight.shape[1:]).swapaxes(1, 2).reshape(weight.shape)


def write_gguf(file: Path, architecture: str, header: Mapping[str, Any], tensors: Mapping[str, np.ndarray]) -> Path:
    """Write a file with a tokenizer of single bytes.

    Keys with a space in front are written as they are, others after the architecture; bytes are blocks of Q8_0.
    """
    writer = GGUFWriter(file, architecture)
    rows = len(tensors["token_embd.weight"]) if "token_embd.weight" in tensors else 2
    alphabet = sorted(ByteLevel.alphabet())
    spare = (f"<{number}>" for number in itertools.count())
    writer.add_tokenizer_model("gpt2")
    tokens = itertools.islice(itertools.chain(alphabet, spare), rows - 1)
    writer.add_token_list([*tokens, alphabet[0] + alphabet[1]])
    writer.add_token_merges([f"{alphabet[0]} {alphabet[1]}"])
    writer.add_bos_token_id(0)
    writer.add_eos_token_id(0)
    for name, value in header.items():
        key = name[1:] if name.startswith(" ") else f"{architecture}.{name}"
        _add(writer, key, value)
    for name, tensor in tensors.items():
        quantised = GGMLQuantizationType.Q8_0 if tensor.dtype == np.uint8 else None
        writer.add_tensor(name, np.ascontiguousarray(tensor), raw_dtype=quantised)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return file


def _add(writer: GGUFWriter, key: str, value: Any) -> None:
    if isinstance(value, bool):
        writer.add_bool(key, value)
    elif isinstance(value, int):
        writer.add_uint32(key, value)
    elif isinstance(value, float):
        writer.add_float32(key, value)
    elif isinstance(value, str):
        writer.add_string(key, value)
    else:
        writer.add_array(key, value)
