"""Hypothesis strategies for architectures and search spaces, and the models whose sizes are public."""

import contextlib
import itertools
from dataclasses import replace
from typing import Any

import numpy as np
from hypothesis import strategies as st

from budwood.arch.bins import ParameterBin
from budwood.arch.count import num_parameters
from budwood.arch.family import FAMILIES, family_of
from budwood.arch.sampling import choose_entries, draw_many
from budwood.arch.selection import Selection
from budwood.arch.servable import ServingEngine
from budwood.arch.space import Granularity, SearchSpace
from budwood.arch.spec import Architecture, LayerSpec
from budwood.search.settings import SearchSettings

GRANULARITIES: tuple[Granularity, ...] = ("coarse", "fine")
PARTLY_TURNING = ("gpt_neox", "phi3", "stablelm")
"""Model types of which only a part of a head turns."""
KINDS = tuple(itertools.product(GRANULARITIES, (False, True)))
"""`(granularity, layerwise)` of the paper's four spaces."""


def layer(heads: int, groups: int, head_dim: int, neurons: int) -> LayerSpec:
    """Return a layer by its four sizes."""
    return LayerSpec(
        num_attention_heads=heads, num_key_value_heads=groups, head_dim=head_dim, intermediate_size=neurons
    )


def decoder(family: str, vocab_size: int, hidden_size: int, *layers: LayerSpec, tied: bool = True) -> Architecture:
    """Return a model by its layers."""
    return Architecture(
        family=family, vocab_size=vocab_size, hidden_size=hidden_size, tie_word_embeddings=tied, layers=layers
    )


def llama(vocab_size: int, hidden_size: int, *layers: LayerSpec, tied: bool = True) -> Architecture:
    """Return a Llama by its layers."""
    return decoder("llama", vocab_size, hidden_size, *layers, tied=tied)


def pythia(vocab_size: int, num_layers: int, hidden_size: int, heads: int) -> Architecture:
    """Return a Pythia: heads without groups fill the hidden size, and the MLP is four times as wide."""
    spec = layer(heads, heads, hidden_size // heads, 4 * hidden_size)
    return decoder("gpt_neox", vocab_size, hidden_size, *[spec] * num_layers, tied=False)


SMOLLM2_135M = llama(49152, 576, *[layer(9, 3, 64, 1536)] * 30)
SIZES = {
    "model_type": "llama",
    "vocab_size": 257,
    "hidden_size": 16,
    "intermediate_size": 24,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
}
"""Of a tiny Llama of bytes, as settings state them."""

generators = st.integers(0, 2**32 - 1).map(np.random.default_rng)
"""Seeded random generators."""


@st.composite
def layer_specs(draw: st.DrawFn, *, grouped: bool = True) -> LayerSpec:
    """Draw a small layer, with grouped queries or without."""
    groups, queries = draw(st.integers(1, 4)), draw(st.integers(1, 3 if grouped else 1))
    return layer(groups * queries, groups, 2 * draw(st.integers(1, 8)), draw(st.integers(1, 48)))


@st.composite
def architectures(draw: st.DrawFn, *, uniform: bool | None = None) -> Architecture:
    """Draw a small architecture of any family, tied or not, whose layers are equal, differ, or either."""
    family = draw(st.sampled_from(sorted(FAMILIES)))
    specs = layer_specs(grouped=FAMILIES[family].grouped)
    depth = draw(st.integers(1, 4))
    if draw(st.booleans()) if uniform is None else uniform:
        layers = [draw(specs)] * depth
    else:
        layers = draw(st.lists(specs, min_size=depth, max_size=depth))
    vocab_size, hidden_size = draw(st.integers(1, 64)), draw(st.integers(1, 48))
    return decoder(family, vocab_size, hidden_size, *layers, tied=draw(st.booleans()))


@st.composite
def spaces(draw: st.DrawFn) -> SearchSpace:
    """Draw a search space of a small teacher of any family, in all its variants."""
    teacher, layerwise = draw(architectures()), draw(st.booleans())
    native_only = not layerwise and draw(st.booleans())
    fills = native_only and family_of(teacher.family).stock_heads == "fill"
    if fills:
        heads = min(spec.num_attention_heads for spec in teacher.layers)
        head_dim = min(spec.head_dim for spec in teacher.layers)
        teacher = decoder(
            teacher.family, teacher.vocab_size, heads * head_dim, *teacher.layers, tied=teacher.tie_word_embeddings
        )
    widest = min(teacher.hidden_size, *(spec.intermediate_size for spec in teacher.layers))
    space = SearchSpace(
        teacher=teacher,
        granularity=draw(st.sampled_from(GRANULARITIES)),
        layerwise=layerwise,
        # Heads have even dimensions, so any of them add up to a multiple of two.
        alignment=draw(st.integers(1, min(widest, 2 if fills else 8))),
        native_only=native_only,
    )
    return draw(st.sampled_from(_served(space)))


def _served(space: SearchSpace) -> list[SearchSpace]:
    """Return a space, and what engines leave of it."""
    engines: tuple[tuple[ServingEngine, ...], ...] = (("vllm",), ("llama.cpp",), ("vllm", "llama.cpp"))
    found = [space]
    for chosen in engines:
        with contextlib.suppress(ValueError):
            found.append(replace(space, servable=chosen))
    return found


def sample_any(space: SearchSpace, rng: np.random.Generator) -> Selection:
    """Draw a member, every size uniformly and then the entries that are kept (paper, section 2.2)."""
    while True:
        draws = draw_many(space, 1, rng)
        if 0 < draws.population.hidden_size[0] <= space.teacher.hidden_size:
            return choose_entries(space, draws.population.architecture(0, space.teacher), draws.ranks[0], rng)


@st.composite
def members(draw: st.DrawFn) -> tuple[SearchSpace, Selection]:
    """Draw a search space and one of its members."""
    space = draw(spaces())
    return space, sample_any(space, draw(generators))


@st.composite
def spaces_with_bins(draw: st.DrawFn) -> tuple[SearchSpace, ParameterBin]:
    """Draw a search space and a bin that spans four of its members, so that many more lie inside."""
    space, rng = draw(spaces()), draw(generators)
    counts = [count(space, sample_any(space, rng)) for _ in range(4)]
    return space, ParameterBin(min(counts), max(counts) + 1)


def count(space: SearchSpace, member: Selection) -> int:
    """Return the number of parameters of a member."""
    return num_parameters(member.architecture(space.teacher))


def base_config(architecture: Architecture) -> dict[str, Any]:
    """Return what a configuration of an architecture's family holds beside the sizes."""
    family, depth = family_of(architecture.family), architecture.num_hidden_layers
    kinds = ("sliding_attention", "full_attention")
    layer_lists = {
        "layer_types": [kinds[position % len(kinds)] for position in range(depth)],
        "no_rope_layers": [position % 2 for position in range(depth)],
    }
    return {
        "model_type": family.model_type,
        "vocab_size": architecture.vocab_size,
        "tie_word_embeddings": architecture.tie_word_embeddings,
        "max_position_embeddings": 128,
        "use_sliding_window": True,
        "sliding_window": 8,
        **dict.fromkeys(("bos_token_id", "eos_token_id", "pad_token_id")),
        **family.required,
        **family.biases,
        **{name: layer_lists[name] for name in family.layer_lists},
    }


def ropes(architecture: Architecture) -> list[dict[str, Any]]:
    """Return standard rotary embeddings for every layer, of half the dimensions where a family rotates only some."""
    standard: dict[str, Any] = {"rope_type": "default", "rope_theta": 10_000.0}
    if family_of(architecture.family).model_type == "ministral3":
        standard |= {"llama_4_scaling_beta": 0.1, "original_max_position_embeddings": 32}
    if family_of(architecture.family).model_type not in PARTLY_TURNING:
        return [standard] * architecture.num_hidden_layers
    return [standard | {"partial_rotary_factor": 1.0 if spec.head_dim % 4 else 0.5} for spec in architecture.layers]


def changed(settings: SearchSettings, **fields: Any) -> SearchSettings:
    """Return settings of a search with some fields replaced, validated again."""
    return SearchSettings(**settings.model_dump() | fields)
