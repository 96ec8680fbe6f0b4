"""Tiny teachers of every family, whose random weights make every defect visible."""

from collections.abc import Sequence
from itertools import cycle, product
from typing import Any, TypeVar

import pytest
import torch
from _pytest.mark.structures import ParameterSet
from torch import Tensor
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedModel

from budwood.arch.config import architecture_from_config
from budwood.arch.family import FAMILIES, MODEL_TYPES, Axis, axis_lengths, family_of
from budwood.arch.selection import Indices, LayerSelection, Selection
from budwood.arch.spec import Architecture
from budwood.models.certificate import Expected, expect
from budwood.models.checkpoint import build_empty
from budwood.models.device import Compute
from budwood.models.stream import LayerStream, parts_of
from budwood.subnet.importance import Importance, importance_in
from budwood.subnet.ordering import OrderedTeacher

VOCAB_SIZE, HIDDEN_SIZE, HEAD_DIM, NEURONS, DEPTH = 97, 48, 16, 40, 4
FULL = Compute(torch.device("cpu"), "float32")
HALF = Compute(torch.device("cpu"), "bfloat16")

SETTINGS: dict[str, dict[str, Any]] = {
    "gemma2": {"query_pre_attn_scalar": 24, "sliding_window": 8, "attn_implementation": "eager"},
    "gemma3_text": {
        "query_pre_attn_scalar": 24,
        "sliding_window": 8,
        "layer_types": ["sliding_attention", "sliding_attention", "full_attention", "sliding_attention"],
        "rope_parameters": {
            "sliding_attention": {"rope_type": "default", "rope_theta": 100.0},
            "full_attention": {"rope_type": "linear", "rope_theta": 10_000.0, "factor": 2.0},
        },
    },
    "gpt_neox": {"num_attention_heads": 3, "rotary_pct": 0.25},
    "granite": {
        "embedding_multiplier": 3.0,
        "attention_multiplier": 0.15,
        "residual_multiplier": 0.6,
        "logits_scaling": 2.5,
    },
    "ministral3": {
        "sliding_window": None,
        "rope_parameters": {
            "rope_type": "yarn",
            "rope_theta": 1000.0,
            "factor": 4.0,
            "original_max_position_embeddings": 8,
            "mscale": 1.0,
            "mscale_all_dim": 0.5,
            "llama_4_scaling_beta": 0.3,
        },
    },
    "mistral": {"sliding_window": 8},
    "olmo3": {
        "sliding_window": 8,
        "layer_types": ["sliding_attention", "full_attention", "sliding_attention", "full_attention"],
        "rope_parameters": {
            "sliding_attention": {"rope_type": "default", "rope_theta": 1_000.0},
            "full_attention": {
                "rope_type": "yarn",
                "rope_theta": 1_000.0,
                "factor": 4.0,
                "original_max_position_embeddings": 32,
            },
        },
    },
    "phi3": {
        "hidden_size": 96,
        "initializer_range": 0.1,
        "sliding_window": 12,
        "original_max_position_embeddings": 20,
        "rope_parameters": {
            "rope_type": "longrope",
            "rope_theta": 1000.0,
            "partial_rotary_factor": 0.75,
            "short_factor": [1.0, 1.0, 1.1, 1.2, 1.5, 2.0],
            "long_factor": [1.0, 1.3, 2.0, 4.0, 6.0, 9.0],
        },
    },
    "qwen3": {"use_sliding_window": True, "sliding_window": 8, "max_window_layers": 2},
    "smollm3": {"no_rope_layers": [1, 1, 0, 1]},
    "stablelm": {
        "hidden_size": 96,
        "initializer_range": 0.1,
        "rope_parameters": {"rope_theta": 1000.0, "partial_rotary_factor": 0.25},
    },
    "starcoder2": {"sliding_window": 8},
}
BIASED = {
    "granite": "granite+attention_bias+mlp_bias",
    "llama": "llama+attention_bias+mlp_bias",
    "qwen3": "qwen3+attention_bias",
    "stablelm": "stablelm+use_qkv_bias",
}
"""Families whose config has switched all biases on."""
NAMES = sorted({*MODEL_TYPES, *BIASED.values()} - {"granite", "stablelm"})
"""Every family; those that choose biases with all of them, and the usual ones without."""
HOLDERS = {
    "attention.query_key_value": ("attention.query", "attention.key", "attention.value"),
    "self_attn.qkv_proj": ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"),
    "mlp.gate_up_proj": ("mlp.gate_proj", "mlp.up_proj"),
}
"""Modules that hold several, and what the table calls those."""
TEACHERS = {
    f"{family} {kind}": (family, tied) for family in NAMES for kind, tied in (("tied", True), ("untied", False))
}
ONE_EACH = [f"{family} {'untied' if place % 2 else 'tied'}" for place, family in enumerate(NAMES)]
"""Every family once, tied and untied in turn."""
TYPICAL = ["gemma3_text tied", "gpt_neox untied", "llama untied"]
"""Three that have nearly every concept of the table between them, tied as they are not in `ONE_EACH`."""

Value = TypeVar("Value")


def _row(name: str, *values: object) -> ParameterSet:
    """Return a case; quick tests leave it out unless it is of a typical family."""
    quick = name.split(maxsplit=1)[0] in {typical.split()[0] for typical in TYPICAL}
    return pytest.param(name, *values, marks=() if quick else pytest.mark.slow)


def across(values: Sequence[Value], each: int = 1, without: tuple[str, ...] = ()) -> list[ParameterSet]:
    """Pair teachers with values: every family with `each` of them in turn, the typical ones with all.

    So a law is tried on every family, and under all conditions on families that differ most.
    """
    turn = cycle(values)
    pairs = [*((name, next(turn)) for name in ONE_EACH for _ in range(each)), *product(TYPICAL, values)]
    return [_row(*pair) for pair in pairs if not pair[0].startswith(without)]


def families(*further: str, without: tuple[str, ...] = ()) -> list[ParameterSet]:
    """Return every family once, and further teachers."""
    return [_row(name) for name in (*ONE_EACH, *further) if not name.startswith(without)]


every_family = pytest.mark.parametrize("teacher", families(), indirect=True)
every_family_and_tie = pytest.mark.parametrize("teacher", families(*TYPICAL), indirect=True)
typical = pytest.mark.parametrize("teacher", TYPICAL, indirect=True)


def tiny_teacher(family: str, *, tied: bool, **changes: Any) -> PreTrainedModel:
    """Return a model of 4 layers and 3 groups of 2 queries (GPT-NeoX: of one), with random norms and biases."""
    settings = {
        "vocab_size": VOCAB_SIZE,
        "hidden_size": HIDDEN_SIZE,
        "intermediate_size": NEURONS,
        "num_hidden_layers": DEPTH,
        "num_attention_heads": 6,
        "max_position_embeddings": 128,
        "tie_word_embeddings": tied,
        "initializer_range": 0.2,
        "bos_token_id": 0,
        "eos_token_id": 0,
        "pad_token_id": None,
    }
    entry = FAMILIES[family]
    if entry.grouped:
        settings |= {"num_key_value_heads": 3, "head_dim": HEAD_DIM}
    own = settings | entry.biases | SETTINGS.get(entry.model_type, {}) | changes
    config = AutoConfig.for_model(entry.model_type, **own)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = AutoModelForCausalLM.from_config(config).eval()
        with torch.no_grad():
            for name, parameter in model.named_parameters():
                if "norm" in name and name.endswith("weight"):
                    parameter.uniform_(0.5, 1.5)
                elif name.endswith("bias"):
                    parameter.normal_(0, 0.3)
    return model


def architecture_of(model: PreTrainedModel) -> Architecture:
    """Return a model's architecture."""
    return architecture_from_config(model.config.to_dict())


def expected_of(model: PreTrainedModel, tokens: Tensor) -> Expected:
    """Return what the folder of a model in memory must compute."""
    decoder = family_of(architecture_of(model).family).decoder
    empty = build_empty(model.config, type(model))
    return expect(empty, parts_of(model, decoder), decoder, tokens, model.device)


def weights_of(model: PreTrainedModel) -> dict[str, Tensor]:
    """Return a model's parameters by the names of its family's table: fused projections apart."""
    weights = {name: parameter.detach() for name, parameter in model.named_parameters()}
    architecture = architecture_of(model)
    for name in [name for name in weights if any(holder in name for holder in HOLDERS)]:
        layer, whole = architecture.layers[int(name.split(".")[2])], weights.pop(name)
        queries, keys = (n * layer.head_dim for n in (layer.num_attention_heads, layer.num_key_value_heads))
        if "query_key_value" in name:
            heads = whole.unflatten(0, (layer.num_attention_heads, 3, layer.head_dim))
            parts = [heads[:, part].flatten(0, 1) for part in range(3)]
        else:
            parts = list(whole.split((queries, keys, keys)) if "qkv" in name else whole.chunk(2))
        holder = next(holder for holder in HOLDERS if holder in name)
        weights |= {name.replace(holder, part): value for part, value in zip(HOLDERS[holder], parts, strict=True)}
    return weights


def select(hidden: int, ranks: list[int], *sizes: tuple[int, int, int, int]) -> Selection:
    """Select the first entries of every axis; sizes of a layer are groups, queries, head dimensions, neurons."""
    layers = tuple(
        LayerSelection(
            layer=rank, groups=range(groups), queries=range(queries), pairs=range(dims // 2), neurons=range(neurons)
        )
        for rank, (groups, queries, dims, neurons) in zip(
            ranks, sizes * (1 if len(sizes) > 1 else len(ranks)), strict=True
        )
    )
    return Selection(hidden=range(hidden), layers=layers)


def kept_in_layer(ordered: OrderedTeacher, hidden: Indices, layer: LayerSelection) -> dict[str, list[int]]:
    """Spell out, by definition, which positions of every basic axis a layer of a child keeps."""
    depth = ordered.ranking[layer.layer]
    rope, ranking = ordered.layer_rope(depth), ordered.pair_rankings[depth]
    half = int(2 * len(ranking) * rope.get("partial_rotary_factor", 1.0)) // 2
    pairs = sorted(ranking[pair] for pair in layer.pairs)
    turning = [pair for pair in pairs if pair < half]
    dims = turning + [pair + half for pair in turning]
    dims += [dim for pair in pairs if pair >= half for dim in (2 * pair, 2 * pair + 1)]
    first = list(range(2 * len(pairs)))
    prefix = isinstance(layer.pairs, range)
    return {
        "hidden": list(hidden),
        "group": list(layer.groups),
        "query": list(layer.queries),
        "qk": first if prefix and ordered.rope == "rebuild" else dims,
        "value": first if prefix or ordered.singular_values else dims,
        "neuron": list(layer.neurons),
    }


def kept_mask(axis: Axis, architecture: Architecture, layer: int, kept: dict[str, list[int]]) -> Tensor:
    """Return [n] which positions of a dimension are kept."""
    lengths = axis_lengths(architecture, architecture.layers[layer])
    mask = torch.ones(1, dtype=torch.bool)
    for name in axis:
        own = torch.zeros(lengths[name], dtype=torch.bool)
        own[kept.get(name, list(range(lengths[name])))] = True
        mask = (mask[:, None] & own).flatten()
    return mask


def measure_importance(
    model: PreTrainedModel, architecture: Architecture, windows: torch.Tensor, *, batch_size: int = 4
) -> Importance:
    """Return the importance of a teacher in memory by the text of a test."""
    decoder = family_of(architecture.family).decoder
    return importance_in(LayerStream(model, decoder, windows.split(batch_size)), architecture)
