"""Tiny teachers as GGUF files, and what each says of its rotary embedding."""

from pathlib import Path
from typing import Any

import numpy as np
from ggufs import header_of, tensors_of, write_gguf
from numpy.typing import NDArray
from teachers import HEAD_DIM, tiny_teacher
from transformers import PreTrainedModel

THETA = 10_000.0
ROPES: dict[str, dict[str, Any]] = {
    "default": {},
    "linear": {"factor": 2.5},
    "llama3": {"factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0, "original_max_position_embeddings": 32},
    "yarn": {"factor": 4.0, "original_max_position_embeddings": 32},
}
WITHOUT_WINDOW = {"mistral": {"sliding_window": None}, "qwen3": {"use_sliding_window": False}}


def teacher_without_window(family: str, **changes: Any) -> PreTrainedModel:
    """Return a tiny teacher that sees all positions, as whatever ggml reads under `llama`, `qwen2` or `qwen3` does."""
    return tiny_teacher(family, **WITHOUT_WINDOW.get(family, {}) | changes)


def rope_of(kind: str, theta: float = THETA) -> dict[str, Any]:
    """Return the parameters of a rotary embedding."""
    return {"rope_type": kind, "rope_theta": theta} | ROPES[kind]


GEMMA3 = {
    "num_hidden_layers": 7,
    "layer_types": ["sliding_attention"] * 5 + ["full_attention", "sliding_attention"],
    "query_pre_attn_scalar": HEAD_DIM,
    "rope_parameters": {"sliding_attention": rope_of("default"), "full_attention": rope_of("default", 1e6)},
}
"""Every sixth layer is a full one."""


def stored_rope(model: PreTrainedModel) -> tuple[dict[str, Any], dict[str, NDArray[np.float32]]]:
    """Return the keys and tensors with which llama.cpp's converter states a rotary embedding."""
    rope = model.config.rope_parameters.get("full_attention", model.config.rope_parameters)
    kind = rope["rope_type"]
    if kind == "llama3":
        # The formula of Meta, in the converter's form: a divisor for every frequency.
        plain = rope["rope_theta"] ** (-np.arange(0, model.config.head_dim, 2) / model.config.head_dim)
        turns = rope["original_max_position_embeddings"] * plain / (2 * np.pi)
        smooth = np.clip((turns - 1) / (4 - 1), 0, 1)
        return {}, {"rope_freqs.weight": (1 / ((1 - smooth) / 8 + smooth)).astype(np.float32)}
    keys = {} if kind in ("default", "longrope") else {"rope.scaling.type": kind, "rope.scaling.factor": rope["factor"]}
    if kind == "yarn":
        keys["rope.scaling.original_context_length"] = rope["original_max_position_embeddings"]
    return keys, {}


def written(
    folder: Path,
    model: PreTrainedModel,
    architecture: str | None = None,
    keys: dict[str, Any] | None = None,
    tensors: dict[str, Any] | None = None,
) -> Path:
    """Write a model with some keys and tensors added, or left out where they are None."""
    own_keys, own_tensors = stored_rope(model)
    header = header_of(model) | own_keys | (keys or {})
    stored = tensors_of(model) | own_tensors | (tensors or {})
    return write_gguf(
        folder / "model.gguf",
        architecture or model.config.model_type,
        {key: value for key, value in header.items() if value is not None},
        {key: value for key, value in stored.items() if value is not None},
    )


def split(folder: Path, model: PreTrainedModel, **count: int) -> list[Path]:
    """Write a model in two parts, as llama-gguf-split does, and return their names."""
    stored = list(tensors_of(model).items())
    files = []
    for part, some in enumerate((stored[:7], stored[7:])):
        keys = {f" split.{key}": value for key, value in {"no": part, "count": 2, "tensors.count": len(stored)}.items()}
        keys |= {f" split.{key}": value for key, value in count.items()}
        header = keys | (header_of(model) if part == 0 else {})
        files.append(write_gguf(folder / f"tiny-{part + 1:05}-of-00002.gguf", "llama", header, dict(some)))
    return files
