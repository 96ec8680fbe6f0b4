"""Mutation and crossover of candidates (paper, section 2.2); pure functions of a random generator.

What they do to the indices of an axis, `resize_indices` decides: coarse spaces know only prefixes, fine ones any sets.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Literal, TypeVar

import numpy as np

from budwood.arch.bins import ParameterBin
from budwood.arch.count import neuron_parameters, num_parameters
from budwood.arch.sampling import draw_layer, draw_target, pick, resize, resize_indices
from budwood.arch.selection import Indices, LayerSelection, Selection
from budwood.arch.space import SearchSpace

Constraint = Literal["repair", "rejection"]
Gene = Literal["num_hidden_layers", "hidden_size", "heads", "head_dim", "intermediate_size"]
Inherited = TypeVar("Inherited")

_STEP = 1 / 8
"""Of the range of a dimension: the farthest that a level switch goes, unless the next size is farther."""

GENES: tuple[Gene, ...] = ("num_hidden_layers", "hidden_size", "heads", "head_dim", "intermediate_size")
"""Dimensions that mutate. Groups and the queries of a group are one gene: together they are the heads."""
LAYER_GENES = GENES[2:]
"""Those that a layer has of its own."""


def mutate(
    parent: Selection,
    space: SearchSpace,
    rng: np.random.Generator,
    reach: float = 1.0,
    genes: Sequence[Gene] = GENES,
    *,
    exchange: bool = True,
) -> Selection:
    """Redraw one dimension; in layer-wise spaces that of one layer.

    A larger dimension gains freshly drawn entries, a smaller one loses those it took last; layers are entries too.
    Where stock classes tie the hidden size to the heads, it follows them. The result may lie outside the bin, or have
    heads that no hidden size suits.

    Args:
        parent: what is changed.
        space: where the child belongs.
        rng: draws.
        reach: how far from the parent's size the new one may be, as a share of the dimension's range; anywhere in the
            paper.
        genes: dimensions that may change.
        exchange: whether a dimension of a fine space as often keeps its size and exchanges entries; not in the paper.
    """
    gene, draw = genes[int(rng.integers(len(genes)))], _Redraw(space, rng, reach, exchange=exchange)
    if gene == "hidden_size":
        sizes = space.hidden_sizes_around(parent.layers[0].spec)
        return replace(parent, hidden=draw(parent.hidden, sizes, space.teacher.hidden_size))
    if gene == "num_hidden_layers":
        return replace(parent, layers=_mutate_depth(parent.layers, draw))
    position = int(rng.integers(len(parent.layers)))
    changed = _mutate_layer(parent.layers[position], gene, draw)
    layers = tuple(
        changed if place == position else layer if space.layerwise else replace(changed, layer=layer.layer)
        for place, layer in enumerate(parent.layers)
    )
    return _fit_hidden(replace(parent, layers=layers), space, rng)


def switch_levels(
    parent: Selection,
    space: SearchSpace,
    parameter_bin: ParameterBin,
    rng: np.random.Generator,
    *,
    exchange: bool = True,
) -> Selection | None:
    """Change one dimension by a small step and let neurons pay, so that the number of parameters nearly stays.

    In layer-wise spaces one layer changes and the neurons of another pay; in uniform ones those of all layers. What is
    near the best gets nearer by moving its budget, not by leaving it.

    Returns:
        the child, or None where neurons cannot pay.
    """
    budget = num_parameters(parent.architecture(space.teacher))
    if not space.layerwise:
        child = mutate(parent, space, rng, _STEP, genes=GENES[:-1], exchange=exchange)
        return resize(space, child, parameter_bin, budget, rng)
    if len(parent.layers) == 1:
        return None
    changed, payer = rng.permutation(len(parent.layers))[:2].tolist()
    layers = list(parent.layers)
    gene = LAYER_GENES[rng.integers(len(LAYER_GENES))]
    layers[changed] = _mutate_layer(layers[changed], gene, _Redraw(space, rng, _STEP, exchange=exchange))
    debt = num_parameters(replace(parent, layers=tuple(layers)).architecture(space.teacher)) - budget
    per_step = space.alignment * int(neuron_parameters(space.teacher.family, np.array(len(parent.hidden))))
    rank = layers[payer].layer
    size = len(layers[payer].neurons) - space.alignment * round(debt / per_step)
    if size not in space.choices[rank].intermediate_sizes:
        return None
    length = space.pool.layers[rank].intermediate_size
    layers[payer] = replace(layers[payer], neurons=resize_indices(space, layers[payer].neurons, size, length, rng))
    return replace(parent, layers=tuple(layers))


def crossover(first: Selection, second: Selection, space: SearchSpace, rng: np.random.Generator) -> Selection:
    """Inherit every dimension from either parent with equal probability, in layer-wise spaces per layer.

    Which of the teacher's layers are kept comes from one parent as a whole. Where the teacher's layers differ in size,
    the result may want of a layer what it lacks, and is then no member.

    Raises:
        ValueError: the parents differ in depth (the paper crosses only equal ones).
    """
    if len(first.layers) != len(second.layers):
        raise ValueError(f"crossover needs parents of equal depth, got {len(first.layers)} and {len(second.layers)}")
    ranks = [layer.layer for layer in _either(first.layers, second.layers, rng)]
    pairs = list(zip(first.layers, second.layers, strict=True))
    if space.layerwise:
        inherited = [_inherit_layer(*pair, rng) for pair in pairs]
    else:
        inherited = [_inherit_layer(*pairs[0], rng)] * len(pairs)
    layers = tuple(replace(layer, layer=rank) for layer, rank in zip(inherited, ranks, strict=True))
    return _fit_hidden(Selection(hidden=_either(first.hidden, second.hidden, rng), layers=layers), space, rng)


def constrain(
    child: Selection,
    space: SearchSpace,
    parameter_bin: ParameterBin,
    rng: np.random.Generator,
    constraint: Constraint,
) -> Selection | None:
    """Bring a child into the bin (Algorithm 1, CONSTRAIN).

    `repair` keeps a child that is inside, limits included, and solves the MLP widths of one that is not; `rejection`
    only keeps.

    Returns:
        a member inside the bin, or None where the caller has to draw again.
    """
    kept: Selection | None = child
    if not parameter_bin.admits(child.architecture(space.teacher)):
        target = draw_target(space, parameter_bin, rng)
        kept = resize(space, child, parameter_bin, target, rng) if constraint == "repair" else None
    return kept if kept is not None and kept in space else None


@dataclass(frozen=True, slots=True)
class _Redraw:
    """Gives an axis another size, or in fine spaces as often other entries."""

    space: SearchSpace
    rng: np.random.Generator
    reach: float
    """How far the new size may be, as a share of the range."""
    exchange: bool = field(kw_only=True)

    def __call__(self, indices: Indices, sizes: Sequence[int], length: int) -> Indices:
        """Return the new indices of an axis that has some of `length` entries, and may have one of some sizes."""
        exchanges = self.exchange and self.space.granularity == "fine" and len(indices) < length
        if exchanges and self.rng.integers(2):
            return _exchange(indices, length, self.rng)
        size = pick(_within(self.reach, sizes, len(indices)), self.rng)
        return resize_indices(self.space, indices, size, length, self.rng)


def _mutate_depth(layers: Sequence[LayerSelection], redraw: _Redraw) -> tuple[LayerSelection, ...]:
    space, taken = redraw.space, {layer.layer: layer for layer in layers}
    ranks = redraw(tuple(taken), space.num_layers_choices, space.teacher.num_hidden_layers)
    for rank in ranks:
        if rank not in taken:
            taken[rank] = draw_layer(space, rank, redraw.rng) if space.layerwise else replace(layers[0], layer=rank)
    return tuple(taken[rank] for rank in ranks)


def _mutate_layer(layer: LayerSelection, gene: Gene, redraw: _Redraw) -> LayerSelection:
    choices, whole = redraw.space.choices[layer.layer], redraw.space.pool.layers[layer.layer]
    if gene == "heads":
        return replace(
            layer,
            groups=redraw(layer.groups, choices.groups, whole.num_key_value_heads),
            queries=redraw(layer.queries, choices.queries, whole.heads_per_group),
        )
    if gene == "head_dim":
        return replace(layer, pairs=redraw(layer.pairs, [size // 2 for size in choices.head_dims], whole.head_dim // 2))
    return replace(layer, neurons=redraw(layer.neurons, choices.intermediate_sizes, whole.intermediate_size))


def _within(reach: float, sizes: Sequence[int], size: int) -> Sequence[int]:
    """Return the sizes that are near one, the next ones at least; all of them where everything is within reach."""
    if reach >= 1 or len(sizes) == 1:
        return sizes
    nearest = min(abs(other - size) for other in sizes if other != size)
    farthest = max(nearest, reach * (sizes[-1] - sizes[0]))
    return [other for other in sizes if abs(other - size) <= farthest]


def _exchange(indices: Indices, length: int, rng: np.random.Generator) -> Indices:
    """Replace some entries, at least one, by as many that an axis lacks; these count as taken last."""
    missing = rng.permutation(np.setdiff1d(np.arange(length), indices))
    count = int(rng.integers(1, min(len(indices), len(missing)) + 1))
    given_up = set(rng.permutation(len(indices))[:count].tolist())
    kept = (index for place, index in enumerate(indices) if place not in given_up)
    return (*kept, *missing[:count].tolist())


def _fit_hidden(child: Selection, space: SearchSpace, rng: np.random.Generator) -> Selection:
    """Let the hidden size follow heads that a stock class does not accept around it."""
    sizes = space.hidden_sizes_around(child.layers[0].spec)
    if not sizes or len(child.hidden) in sizes:
        return child
    return replace(child, hidden=resize_indices(space, child.hidden, pick(sizes, rng), space.teacher.hidden_size, rng))


def _inherit_layer(first: LayerSelection, second: LayerSelection, rng: np.random.Generator) -> LayerSelection:
    heads, head_dim, neurons = (_either(first, second, rng) for _ in range(3))
    return replace(heads, pairs=head_dim.pairs, neurons=neurons.neurons)


def _either(first: Inherited, second: Inherited, rng: np.random.Generator) -> Inherited:
    return (first, second)[rng.integers(2)]
