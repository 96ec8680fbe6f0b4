"""Exports of every kind, cut from tiny teachers whose random weights make every defect visible."""

from dataclasses import dataclass
from pathlib import Path

import torch
from teachers import SETTINGS, TEACHERS, select, tiny_teacher

from budwood.arch.family import FAMILIES
from budwood.arch.selection import LayerSelection, Selection
from budwood.models.checkpoint import load_model, own_weights, save_checkpoint
from budwood.models.prompts import record_prompts, write_check
from budwood.models.teacher import byte_tokenizer
from budwood.subnet.extract import extract_child
from budwood.subnet.ordering import Ordering, open_ordered

HEAD_DIM = 64
SIZES = {
    "vocab_size": 257,
    "hidden_size": 128,
    "intermediate_size": 96,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": HEAD_DIM,
    "max_position_embeddings": 600,
    "initializer_range": 0.08,
}
FAMILY_SIZES = {
    "gpt_neox": {"num_attention_heads": 2, "num_key_value_heads": None, "head_dim": None},
    "ministral3": {
        "rope_parameters": {
            "rope_type": "yarn",
            "rope_theta": 1000.0,
            "factor": 4.0,
            "original_max_position_embeddings": 100,
            "llama_4_scaling_beta": 0.3,
        }
    },
    # Windows end a file of llama.cpp, and so does the first of two lists of factors.
    "mistral": {"sliding_window": None},
    "olmo3": {
        "sliding_window": 48,
        "rope_parameters": {
            "sliding_attention": {"rope_type": "default", "rope_theta": 1000.0},
            "full_attention": {
                "rope_type": "yarn",
                "rope_theta": 1000.0,
                "factor": 6.0,
                "original_max_position_embeddings": 100,
            },
        },
    },
    "phi3": {
        "hidden_size": 256,
        "sliding_window": None,
        "max_position_embeddings": 1200,
        "original_max_position_embeddings": 600,
        "rope_parameters": {
            "rope_type": "longrope",
            "rope_theta": 1e4,
            "partial_rotary_factor": 0.75,
            "short_factor": [1 + pair / 10 for pair in range(24)],
            "long_factor": [2 + pair / 5 for pair in range(24)],
        },
    },
    "qwen3": {"use_sliding_window": False},
    "stablelm": {"hidden_size": 256},
    "starcoder2": {"sliding_window": None},
    # Capped logits and a GELU from a table of float16: llama.cpp rounds more here than elsewhere.
    "gemma2": {"sliding_window": 48, "initializer_range": 0.04},
    "gemma3_text": {"sliding_window": 48},
    "smollm3": {"no_rope_layers": [1, 1, 1, 0]},
}
WHOLE, PREFIX, STRIDED = range(32), range(24), range(0, 32, 2)
ARBITRARY = (0, 1, 2, 3, 5, 6, 8, 9, 11, 12, 14, 17, 18, 20, 21, 23, 24, 25, 26, 27, 28, 29, 30, 31)


@dataclass(frozen=True)
class Kind:
    """A teacher and what is cut out of it."""

    teacher: str
    """A name of `TEACHERS`."""
    selection: Selection
    gguf: str
    """llama.cpp's architecture, or why it has none."""


def uniform(pairs, *, heads=(2, 2), hidden=128, layers=range(4)):
    """Select equal layers with some rotary pairs."""
    groups, queries = heads
    kept = {"groups": range(groups), "queries": range(queries), "pairs": tuple(pairs), "neurons": range(64)}
    return Selection(hidden=range(hidden), layers=tuple(LayerSelection(layer=rank, **kept) for rank in layers))


MLP = select(96, [0, 1, 2], (2, 2, HEAD_DIM, 96), (2, 2, HEAD_DIM, 40), (2, 2, HEAD_DIM, 32))
HEADS = select(96, [0, 1, 2], (2, 2, HEAD_DIM, 96), (1, 2, HEAD_DIM, 40), (2, 1, HEAD_DIM, 32))
ALL = select(96, [0, 1, 2], (2, 1, HEAD_DIM, 96), (1, 1, 32, 40), (2, 1, 48, 32))
DIFFER, HEADS_DIFFER = "its sizes differ by layer", "its head dimension differs by layer"
FACTORS = "need a factor each"

KINDS = {
    "llama-whole": Kind("llama tied", uniform(WHOLE), "llama"),
    "llama-prefix": Kind("llama untied", uniform(PREFIX), "llama"),
    "llama-strided": Kind("llama tied", uniform(STRIDED), "llama"),
    "llama-arbitrary": Kind("llama untied", uniform(ARBITRARY), "llama"),
    "llama-undivided": Kind("llama tied", uniform(ARBITRARY, heads=(1, 2), hidden=81), "llama"),
    "qwen2-filled": Kind("qwen2 tied", uniform(WHOLE, heads=(2, 1)), "qwen2"),
    "qwen2-whole": Kind("qwen2 tied", uniform(WHOLE), "llama"),
    "qwen2-arbitrary": Kind("qwen2 untied", uniform(ARBITRARY), "llama"),
    "qwen3-strided": Kind("qwen3 tied", uniform(STRIDED), "qwen3"),
    "qwen3-arbitrary": Kind("qwen3 untied", uniform(ARBITRARY), FACTORS),
    "gemma2-prefix": Kind("gemma2 tied", uniform(PREFIX), "gemma2"),
    "gemma2-unequal": Kind("gemma2 tied", uniform(WHOLE, layers=(0, 1, 3)), "gemma2"),
    "gemma3-strided": Kind("gemma3_text tied", uniform(STRIDED), "gemma3"),
    "gemma3-sliding": Kind("gemma3_text tied", uniform(WHOLE, heads=(1, 2), layers=(0, 1, 3)), "gemma3"),
    "gemma3-full": Kind("gemma3_text tied", uniform(WHOLE, hidden=96, layers=(2,)), "gemma3"),
    "gemma3-arbitrary": Kind("gemma3_text tied", uniform(ARBITRARY), FACTORS),
    "gpt_neox-whole": Kind("gpt_neox untied", uniform(WHOLE, heads=(2, 1)), "gptneox"),
    "gpt_neox-tied": Kind("gpt_neox tied", uniform(WHOLE, heads=(1, 1), hidden=64), "gptneox"),
    "olmo2-filled": Kind("olmo2 untied", uniform(WHOLE, heads=(1, 2)), "olmo2"),
    "olmo2-tied": Kind("olmo2 tied", uniform(STRIDED, heads=(2, 2)), "olmo2"),
    "olmo2-unfilled": Kind("olmo2 tied", uniform(WHOLE), "its heads do not add up to the hidden size"),
    "olmo3-filled": Kind("olmo3 untied", uniform(WHOLE, heads=(1, 2)), "olmo2"),
    "olmo3-full": Kind("olmo3 tied", uniform(WHOLE, heads=(2, 1), layers=(1, 3)), "olmo2"),
    "olmo3-strided": Kind("olmo3 tied", uniform(STRIDED), FACTORS),
    "smollm3-whole": Kind("smollm3 tied", uniform(WHOLE), "smollm3"),
    "smollm3-turning": Kind("smollm3 tied", uniform(ARBITRARY, layers=range(3)), "llama"),
    "llama-biased": Kind("llama+attention_bias+mlp_bias untied", uniform(ARBITRARY, heads=(1, 2)), "llama"),
    "qwen3-biased": Kind("qwen3+attention_bias tied", uniform(STRIDED), "it has biases"),
    "granite-whole": Kind("granite+attention_bias+mlp_bias untied", uniform(WHOLE), "granite"),
    "granite-arbitrary": Kind("granite+attention_bias+mlp_bias tied", uniform(ARBITRARY), "granite"),
    "ministral3-arbitrary": Kind("ministral3 tied", uniform(ARBITRARY), "mistral3"),
    "phi3-whole": Kind("phi3 untied", uniform(WHOLE, hidden=256), "phi3"),
    "phi3-prefix": Kind("phi3 tied", uniform(range(16)), "phi3"),
    "stablelm-filled": Kind("stablelm+use_qkv_bias tied", uniform(WHOLE, heads=(1, 2)), "stablelm"),
    "starcoder2-filled": Kind("starcoder2 tied", uniform(WHOLE, heads=(2, 1)), "starcoder2"),
    "starcoder2-unfilled": Kind("starcoder2 tied", uniform(WHOLE), "its heads do not add up to the hidden size"),
    "llama-layerwise-biased": Kind("llama+attention_bias+mlp_bias tied", HEADS, "deci"),
    "llama-layerwise-mlp": Kind("llama tied", MLP, "deci"),
    "llama-layerwise-heads": Kind("llama untied", HEADS, "deci"),
    "llama-layerwise-all": Kind("llama tied", ALL, HEADS_DIFFER),
    "mistral-layerwise-heads": Kind("mistral tied", HEADS, "deci"),
    "qwen2-layerwise-all": Kind("qwen2 tied", ALL, HEADS_DIFFER),
    "qwen3-layerwise-all": Kind("qwen3 untied", ALL, HEADS_DIFFER),
    "gemma2-layerwise-all": Kind("gemma2 tied", ALL, HEADS_DIFFER),
    "gpt_neox-layerwise-all": Kind("gpt_neox tied", ALL, HEADS_DIFFER),
    "olmo2-layerwise-heads": Kind("olmo2 tied", HEADS, DIFFER),
    "smollm3-layerwise-all": Kind("smollm3 tied", ALL, HEADS_DIFFER),
}
"""All kinds of exports; vLLM serves every one."""


def write_export(kind: Kind, target: Path) -> Path:
    """Cut a child out of a tiny teacher and write it with its prompts."""
    family, tied = TEACHERS[kind.teacher]
    model_type = FAMILIES[family].model_type
    settings = SETTINGS.get(model_type, {}) | SIZES | FAMILY_SIZES.get(model_type, {})
    settings = {name: value for name, value in settings.items() if value is not None or name == "sliding_window"}
    teacher = tiny_teacher(family, tied=tied, **settings)
    source = save_checkpoint(teacher, byte_tokenizer(), target.with_name(f"{target.name}-teacher"))
    parent = open_ordered(source, Ordering(ordering="native", layer_score="influence"))
    child = own_weights(extract_child(parent, kind.selection))
    folder = save_checkpoint(child, byte_tokenizer(), target)
    write_check(folder, record_prompts(load_model(folder, torch.float32)))
    return folder
