"""Mutation and crossover of coarse candidates (paper, section 2.2); pure functions of a random generator."""

from dataclasses import replace
from typing import Literal

import numpy as np

from budwood.arch.bins import ParameterBin
from budwood.arch.count import num_parameters
from budwood.arch.space import SearchSpace, pick
from budwood.arch.spec import Architecture, LayerSpec

Constraint = Literal["repair", "rejection"]
Gene = Literal["num_hidden_layers", "hidden_size", "heads", "head_dim", "intermediate_size"]

GENES: tuple[Gene, ...] = ("num_hidden_layers", "hidden_size", "heads", "head_dim", "intermediate_size")
"""Dimensions that mutate. Groups and heads are one gene, since only some pairs of them are legal."""


def mutate(parent: Architecture, space: SearchSpace, rng: np.random.Generator) -> Architecture:
    """Redraw one dimension; in layer-wise spaces that of one layer.

    A deeper child gains freshly drawn layers, a shallower one loses its last. The result may lie outside the bin.
    """
    gene = GENES[rng.integers(len(GENES))]
    if gene == "hidden_size":
        return replace(parent, hidden_size=pick(space.hidden_sizes, rng))
    if gene == "num_hidden_layers":
        return parent.with_layers(_change_depth(parent.layers, space, rng))
    position = int(rng.integers(parent.num_hidden_layers)) if space.layerwise else 0
    changed = _change_layer(parent.layers[position], gene, space.sample_layer(rng))
    if not space.layerwise:
        return parent.with_layers((changed,) * parent.num_hidden_layers)
    return parent.with_layers((*parent.layers[:position], changed, *parent.layers[position + 1 :]))


def crossover(first: Architecture, second: Architecture, space: SearchSpace, rng: np.random.Generator) -> Architecture:
    """Inherit every dimension from either parent with equal probability, in layer-wise spaces per layer.

    Raises:
        ValueError: the parents differ in depth (the paper crosses only equal ones).
    """
    if first.num_hidden_layers != second.num_hidden_layers:
        raise ValueError(
            f"crossover needs parents of equal depth, got {first.num_hidden_layers} and {second.num_hidden_layers}"
        )
    if space.layerwise:
        pairs = zip(first.layers, second.layers, strict=True)
        layers = tuple(_inherit_layer(one, other, rng) for one, other in pairs)
    else:
        layers = (_inherit_layer(first.layers[0], second.layers[0], rng),) * first.num_hidden_layers
    return replace(first, hidden_size=(first, second)[rng.integers(2)].hidden_size, layers=layers)


def constrain(
    child: Architecture,
    space: SearchSpace,
    parameter_bin: ParameterBin,
    rng: np.random.Generator,
    constraint: Constraint,
) -> Architecture | None:
    """Bring a child into the bin (Algorithm 1, CONSTRAIN).

    `repair` keeps a child that is inside and solves the MLP widths of one that is not; `rejection` only keeps.

    Returns:
        a member inside the bin, or None where the caller has to draw again.
    """
    if num_parameters(child) in parameter_bin:
        return child
    if constraint == "rejection":
        return None
    return space.resize(child, parameter_bin, space.draw_target(parameter_bin, rng))


def _change_depth(layers: tuple[LayerSpec, ...], space: SearchSpace, rng: np.random.Generator) -> tuple[LayerSpec, ...]:
    depth = pick(space.num_layers_choices, rng)
    if depth <= len(layers):
        return layers[:depth]
    extra = depth - len(layers)
    added = tuple(space.sample_layer(rng) for _ in range(extra)) if space.layerwise else layers[:1] * extra
    return layers + added


def _change_layer(layer: LayerSpec, gene: Gene, drawn: LayerSpec) -> LayerSpec:
    if gene == "heads":
        return _take_heads(layer, drawn)
    if gene == "head_dim":
        return replace(layer, head_dim=drawn.head_dim)
    return replace(layer, intermediate_size=drawn.intermediate_size)


def _inherit_layer(first: LayerSpec, second: LayerSpec, rng: np.random.Generator) -> LayerSpec:
    heads, head_dim, neurons = ((first, second)[choice] for choice in rng.integers(2, size=3))
    return replace(_take_heads(first, heads), head_dim=head_dim.head_dim, intermediate_size=neurons.intermediate_size)


def _take_heads(layer: LayerSpec, other: LayerSpec) -> LayerSpec:
    return replace(layer, num_attention_heads=other.num_attention_heads, num_key_value_heads=other.num_key_value_heads)
