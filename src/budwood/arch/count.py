"""Parameters, floating-point operations and cache size of an architecture, in closed form.

Everything is a sum over layers of five features (one per layer, query, key, head dimension and neuron), each with a
coefficient per channel and one on its own. The coefficients follow from the family table.
"""

from collections.abc import Sequence
from functools import lru_cache, reduce
from math import prod
from operator import add
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from budwood.arch.family import Axes, Axis, family_of
from budwood.arch.population import Population, Sizes
from budwood.arch.spec import Architecture, LayerSpec

_FEATURES: tuple[Axis, ...] = ((), ("group", "query", "qk"), ("group", "qk"), ("qk",), ("neuron",))
_NEURON = _FEATURES.index(("neuron",))
_MATRIX_DIMS = 2
_PAPER_CONTEXT = 2048
"""Tokens over which the paper charges attention, whatever a candidate reads."""

Count = TypeVar("Count", int, Sizes)
Features = tuple[int, int, int, int, int]
"""Layers; dimensions of all query heads; of all key heads; of one head; neurons: each summed over the layers."""
Coefficients = tuple[tuple[int, int], ...]
"""For every feature, how many parameters it brings per channel, and how many whatever the channels."""


def num_parameters(architecture: Architecture) -> int:
    """Return the exact number of distinct parameters; a tied head counts once."""
    hidden_size = architecture.hidden_size
    outer = hidden_size * _outer_parameters_per_channel(
        architecture.family, architecture.vocab_size, tied=architecture.tie_word_embeddings
    )
    return outer + layer_parameters(architecture.family, hidden_size, *architecture.layers)


def layer_parameters(model_type: str, hidden_size: int, *layers: LayerSpec) -> int:
    """Return the number of parameters of decoder layers."""
    return _combine(_coefficients(model_type, matrices_only=False), hidden_size, _features(layers))


def population_parameters(population: Population, teacher: Architecture) -> Sizes:
    """Return [N] the number of parameters of every architecture of a population."""
    coefficients = _coefficients(teacher.family, matrices_only=False)
    inner: Sizes = _combine(coefficients, population.hidden_size, _population_features(population))
    outer = _outer_parameters_per_channel(teacher.family, teacher.vocab_size, tied=teacher.tie_word_embeddings)
    return inner + outer * population.hidden_size


def population_flops_per_token(population: Population, teacher: Architecture, *, context: float) -> NDArray[np.float64]:
    """Return [N] the FLOPs that the layers of every architecture take per token, as `layer_flops_per_token`."""
    features = _population_features(population)
    matrices: Sizes = _combine(_coefficients(teacher.family, matrices_only=True), population.hidden_size, features)
    return 2.0 * matrices + 4 * features[1] * context


def neuron_parameters(model_type: str, hidden_size: Sizes) -> Sizes:
    """Return how many parameters one MLP neuron adds to a layer, for every hidden size."""
    per_channel, alone = _coefficients(model_type, matrices_only=False)[_NEURON]
    return per_channel * hidden_size + alone


def forward_flops_per_token(architecture: Architecture, *, context: int, causal: bool = False) -> int:
    """Return the FLOPs of a forward pass, per token.

    Every matmul weight counts two, the head included (tied or not), the embedding look-up, biases and norms not.
    Attention counts `4 · heads · head_dim · context` per layer, whatever its window. With `causal=False` this
    reproduces tables 9 to 12 of "Where to begin" at context 2048.

    Args:
        architecture: what is run.
        context: tokens per sequence.
        causal: charge only the half of the attention matrix that a causal mask keeps.
    """
    layers = layer_flops_per_token(architecture, *architecture.layers, context=context, causal=causal)
    return _head_flops(architecture) + layers


def pass_flops(architecture: Architecture, num_tokens: int, *, context: int, num_logits: int) -> int:
    """Return the FLOPs of a forward pass that makes the logits of some positions alone.

    Args:
        architecture: what is run.
        num_tokens: that are read.
        context: tokens per sequence.
        num_logits: positions whose logits are made.
    """
    layers = layer_flops_per_token(architecture, *architecture.layers, context=context)
    return num_tokens * layers + num_logits * _head_flops(architecture)


def layer_flops_per_token(architecture: Architecture, *layers: LayerSpec, context: int, causal: bool = False) -> int:
    """Return what some decoder layers add to `forward_flops_per_token`."""
    features = _features(layers)
    attention = 4 * features[1] * context
    matrices = _combine(_coefficients(architecture.family, matrices_only=True), architecture.hidden_size, features)
    return 2 * matrices + (attention // 2 if causal else attention)


def training_flops_per_token(architecture: Architecture, *, context: int, causal: bool = False) -> int:
    """Return the FLOPs of a forward and backward pass, per token: three forwards (paper, appendix B)."""
    return 3 * forward_flops_per_token(architecture, context=context, causal=causal)


def paper_search_flops(
    center: Architecture, *, num_evaluations: int = 5050, num_sequences: int = 1000, sequence_length: int = 512
) -> float:
    """Return what the paper charges for one search (section B.2, table 9).

    Every candidate is charged as the model at the centre of its bin, and attention over 2,048 tokens, though it sees
    `sequence_length`. What a search of ours cost is in the ledger: candidate by candidate, over what it read.

    Args:
        center: the model at the centre of the bin.
        num_evaluations: candidates; the paper's 5,050.
        num_sequences: sequences that each of them reads; the paper's 1,000.
        sequence_length: tokens of a sequence; the paper's 512.
    """
    tokens = num_evaluations * num_sequences * sequence_length
    return float(tokens * forward_flops_per_token(center, context=_PAPER_CONTEXT))


def kv_cache_bytes_per_token(architecture: Architecture, *, bytes_per_value: int = 2) -> int:
    """Return the bytes that generation keeps for every token of context."""
    return sum(
        layer_kv_bytes(layer.num_key_value_heads, layer.head_dim, bytes_per_value=bytes_per_value)
        for layer in architecture.layers
    )


def layer_kv_bytes(groups: Count, head_dim: Count, *, bytes_per_value: int = 2) -> Count:
    """Return what one layer, or every layer of an array, adds to `kv_cache_bytes_per_token`."""
    return 2 * groups * head_dim * bytes_per_value


def _head_flops(architecture: Architecture) -> int:
    return 2 * architecture.vocab_size * architecture.hidden_size


def _features(layers: tuple[LayerSpec, ...]) -> Features:
    queries = keys = dims = neurons = 0
    for layer in layers:
        queries += layer.num_attention_heads * layer.head_dim
        keys += layer.num_key_value_heads * layer.head_dim
        dims += layer.head_dim
        neurons += layer.intermediate_size
    return len(layers), queries, keys, dims, neurons


def _population_features(population: Population) -> tuple[Sizes, ...]:
    """Return [N] every feature of the architectures of a population."""
    groups, head_dim = population.groups, population.head_dim
    queries, keys = groups * population.queries * head_dim, groups * head_dim
    each = (groups > 0, queries, keys, head_dim, population.intermediate_size)
    return tuple(feature.sum(1) for feature in each)


def _combine(coefficients: Coefficients, hidden_size: Count, features: Sequence[Count]) -> Count:
    pairs = zip(coefficients, features, strict=True)
    return reduce(add, (feature * (per_channel * hidden_size + alone) for (per_channel, alone), feature in pairs))


@lru_cache
def _coefficients(model_type: str, *, matrices_only: bool) -> Coefficients:
    counts = [[0, 0] for _ in _FEATURES]
    for module in family_of(model_type).layer_modules:
        for _, axes in module.parameters:
            if not matrices_only or len(axes) == _MATRIX_DIMS:
                per_channel, feature = _monomial(axes)
                counts[_FEATURES.index(feature)][0 if per_channel else 1] += 1
    return tuple((per_channel, alone) for per_channel, alone in counts)


def _monomial(axes: Axes) -> tuple[bool, Axis]:
    """Return whether a parameter grows with the channels, and the feature that it also grows with."""
    names = [("qk" if name == "value" else name) for axis in axes for name in axis]
    return "hidden" in names, tuple(name for name in names if name != "hidden")


@lru_cache
def _outer_parameters_per_channel(model_type: str, vocab_size: int, *, tied: bool) -> int:
    lengths = {"vocab": vocab_size, "hidden": 1}
    modules = family_of(model_type).outer_modules(tied=tied)
    shapes = [axes for module in modules for _, axes in module.parameters]
    return sum(prod(lengths[name] for axis in axes for name in axis) for axes in shapes)
