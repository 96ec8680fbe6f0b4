"""Hypothesis strategies for architectures and search spaces, and the models whose sizes are public."""

import numpy as np
from hypothesis import strategies as st

from budwood.arch.bins import ParameterBin
from budwood.arch.count import num_parameters
from budwood.arch.family import FAMILIES
from budwood.arch.space import SearchSpace
from budwood.arch.spec import Architecture, LayerSpec


def layer(heads: int, groups: int, head_dim: int, neurons: int) -> LayerSpec:
    """Return a layer by its four sizes."""
    return LayerSpec(
        num_attention_heads=heads, num_key_value_heads=groups, head_dim=head_dim, intermediate_size=neurons
    )


def llama(vocab_size: int, hidden_size: int, *layers: LayerSpec, tied: bool = True) -> Architecture:
    """Return a Llama by its layers."""
    return Architecture(
        family="llama", vocab_size=vocab_size, hidden_size=hidden_size, tie_word_embeddings=tied, layers=layers
    )


SMOLLM2_135M = llama(49152, 576, *[layer(9, 3, 64, 1536)] * 30)

generators = st.integers(0, 2**32 - 1).map(np.random.default_rng)
"""Seeded random generators."""


@st.composite
def layer_specs(draw: st.DrawFn) -> LayerSpec:
    """Draw a small layer, with grouped queries or without."""
    groups, queries = draw(st.integers(1, 4)), draw(st.integers(1, 3))
    return layer(groups * queries, groups, 2 * draw(st.integers(1, 8)), draw(st.integers(1, 48)))


@st.composite
def architectures(draw: st.DrawFn, *, uniform: bool | None = None) -> Architecture:
    """Draw a small architecture of any family, tied or not, whose layers are equal, differ, or either."""
    depth = draw(st.integers(1, 4))
    if draw(st.booleans()) if uniform is None else uniform:
        layers = (draw(layer_specs()),) * depth
    else:
        layers = tuple(draw(st.lists(layer_specs(), min_size=depth, max_size=depth)))
    return Architecture(
        family=draw(st.sampled_from(sorted(FAMILIES))),
        vocab_size=draw(st.integers(1, 64)),
        hidden_size=draw(st.integers(1, 48)),
        tie_word_embeddings=draw(st.booleans()),
        layers=layers,
    )


@st.composite
def spaces(draw: st.DrawFn) -> SearchSpace:
    """Draw a search space of a small teacher, aligned or not."""
    teacher = draw(architectures(uniform=True))
    widest = min(teacher.hidden_size, teacher.layers[0].intermediate_size)
    return SearchSpace(teacher=teacher, layerwise=draw(st.booleans()), alignment=draw(st.integers(1, min(widest, 8))))


@st.composite
def spaces_with_bins(draw: st.DrawFn) -> tuple[SearchSpace, ParameterBin]:
    """Draw a search space and a bin that spans four of its members, so that many more lie inside."""
    space, rng = draw(spaces()), draw(generators)
    counts = [num_parameters(space.sample_any(rng)) for _ in range(4)]
    return space, ParameterBin(min(counts), max(counts) + 1)
