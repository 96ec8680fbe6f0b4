"""Members whose layers have the same attention: they are tried one by one where random draws find none in a bin."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import product

import numpy as np
from numpy.typing import NDArray

from budwood.arch.bins import ParameterBin
from budwood.arch.count import layer_parameters, neuron_parameters, population_parameters
from budwood.arch.population import Population, Sizes
from budwood.arch.space import LayerChoices, SearchSpace
from budwood.arch.spec import Architecture, LayerSpec

# Shape legend: A attentions, L layers, N shapes.


@dataclass(frozen=True, slots=True, kw_only=True)
class _Shapes:
    """What some MLP widths bring into a bin, around one hidden size."""

    hidden_size: int
    attentions: Sizes
    """[N] the row of the attention."""
    depths: Sizes
    """[N] one less than the number of layers."""
    least: Sizes
    """[N] the fewest steps of its widths: of all together, in uniform spaces of each."""
    most: Sizes
    """[N]"""


def draw_regular(
    space: SearchSpace, parameter_bin: ParameterBin, rng: np.random.Generator
) -> tuple[Architecture, Sizes] | None:
    """Draw a member of a bin whose layers have the same attention, or as much of it as a smaller layer has.

    In uniform spaces these are all members; in layer-wise ones they reach from the smallest to the largest.

    Returns:
        the member and the ranks of its layers; None where the bin has no such member.
    """
    ranks = np.arange(space.teacher.num_hidden_layers)
    if space.granularity == "fine":
        # Any layer may be the only one: the smallest comes first.
        family, width = space.teacher.family, space.hidden_sizes[0]
        ranks = np.argsort([layer_parameters(family, width, choices.smallest) for choices in space.choices])
    choices = [space.choices[rank] for rank in ranks]
    attentions = _attentions(choices)
    around = partial(_shapes_around, space, parameter_bin, attentions=attentions, choices=choices)
    for shapes, row in _tries(space, parameter_bin, around, rng):
        kept, attention = choices[: shapes.depths[row] + 1], attentions[shapes.attentions[row]]
        sized = partial(_sized, space, shapes.hidden_size, attention, kept)
        fitting = parameter_bin.fitting(range(shapes.least[row], shapes.most[row] + 1), sized)
        if fitting:
            return sized(fitting[int(rng.integers(len(fitting)))]), ranks
    return None


def _tries(
    space: SearchSpace, parameter_bin: ParameterBin, around: Callable[[int], _Shapes], rng: np.random.Generator
) -> Iterator[tuple[_Shapes, int]]:
    """Yield shapes around a hidden size and a row of them: one, or where limits may forbid it all in random order."""
    if parameter_bin.limits:
        for hidden in rng.permutation(space.hidden_sizes).tolist():
            shapes = around(hidden)
            yield from ((shapes, row) for row in rng.permutation(len(shapes.least)).tolist())
    elif found := [shapes for shapes in map(around, space.hidden_sizes) if len(shapes.least)]:
        shapes = found[int(rng.integers(len(found)))]
        yield shapes, int(rng.integers(len(shapes.least)))


def _sized(
    space: SearchSpace, hidden: int, attention: Sizes, choices: Sequence[LayerChoices], steps: int
) -> Architecture:
    """Return the architecture of some steps of widths."""
    steps *= 1 if space.layerwise else len(choices)
    layers = tuple(
        LayerSpec.of(groups, queries, head_dim, width * space.alignment)
        for choice, width in zip(choices, _spread(steps, choices), strict=True)
        for groups, queries, head_dim in [_clip(attention, choice).tolist()]
    )
    return replace(space.teacher, hidden_size=hidden, layers=layers)


def _shapes_around(
    space: SearchSpace, parameter_bin: ParameterBin, hidden: int, *, attentions: Sizes, choices: Sequence[LayerChoices]
) -> _Shapes:
    outer = _counts(space.teacher, hidden, np.zeros((1, 3), dtype=np.int64))
    layers = [_counts(space.teacher, hidden, _clip(attentions, choice)) - outer for choice in choices]
    bare = outer + np.cumsum(layers, axis=0)  # [L, A]
    depths = np.arange(1, len(choices) + 1)[:, None]
    widest = np.cumsum([len(choice.intermediate_sizes) for choice in choices])[:, None]
    # A uniform space widens all layers at once.
    together = np.ones_like(depths) if space.layerwise else depths
    per_step = int(neuron_parameters(space.teacher.family, np.array(hidden))) * space.alignment * together
    least = np.maximum(-((bare - parameter_bin.low) // per_step), depths // together)
    most = np.minimum((parameter_bin.high - bare) // per_step, widest // together)
    legal = _fits(space, hidden, attentions)
    if parameter_bin.limits:
        each = space.alignment * (least * together // depths)
        legal = legal & _may_admit(parameter_bin, hidden, attentions, choices, each)
    depth, attention = np.nonzero((least <= most) & legal)
    return _Shapes(
        hidden_size=hidden,
        attentions=attention,
        depths=depth,
        least=least[depth, attention],
        most=most[depth, attention],
    )


def _counts(teacher: Architecture, hidden: int, attentions: Sizes) -> Sizes:
    """Return [A] the parameters of one layer without neurons, and of what is outside the layers."""
    groups, queries, head_dim = attentions.T[:, :, None]
    bare = Population(np.full(len(attentions), hidden), groups, queries, head_dim, 0 * head_dim)
    return population_parameters(bare, teacher)


def _fits(space: SearchSpace, hidden: int, attentions: Sizes) -> NDArray[np.bool_]:
    """Return [A] whether stock classes and engines accept a hidden size around an attention."""
    if not space.ties_hidden_to_heads:
        return np.ones(len(attentions), dtype=bool)
    return np.array(
        [
            hidden in space.hidden_sizes_around(LayerSpec.of(groups, queries, head_dim, 1))
            for groups, queries, head_dim in attentions.tolist()
        ]
    )


def _may_admit(
    parameter_bin: ParameterBin, hidden: int, attentions: Sizes, choices: Sequence[LayerChoices], least: Sizes
) -> NDArray[np.bool_]:
    """Return [L, A] whether the first layers can keep the limits of a bin.

    Args:
        parameter_bin: the bin.
        hidden: channels.
        attentions: [A, 3]
        choices: of every layer.
        least: [L, A] neurons of every layer at least.
    """
    depth = len(choices)
    present = np.tri(depth, dtype=np.int64)[:, None, :]  # [L, 1, L]
    sizes = np.stack([_clip(attentions, choice) for choice in choices], axis=1)  # [A, L, 3]
    widest = np.array([choice.intermediate_sizes[-1] for choice in choices])

    def population(widths: Sizes) -> Population:
        axes = (*(sizes[None, :, :, axis] for axis in range(3)), widths)
        layers = [np.broadcast_to(axis * present, (*least.shape, depth)).reshape(-1, depth) for axis in axes]
        return Population(np.full(least.size, hidden), *layers)

    narrow, wide = population(np.minimum(least[:, :, None], widest)), population(widest)
    return parameter_bin.may_admit(narrow, wide).reshape(least.shape)


def _attentions(choices: Sequence[LayerChoices]) -> Sizes:
    """Return [A, 3] groups, queries and head dimension of every attention that the largest layers have."""
    longest = [max(axes, key=len) for axes in zip(*(each.axes[:3] for each in choices), strict=True)]
    return np.array(list(product(*longest)), dtype=np.int64)


def _clip(attentions: Sizes, choices: LayerChoices) -> Sizes:
    """Return attentions within what a layer may have."""
    axes = choices.axes[:3]
    return attentions.clip([axis[0] for axis in axes], [axis[-1] for axis in axes])


def _spread(steps: int, choices: Sequence[LayerChoices]) -> list[int]:
    """Return the steps of every layer's width, as equal as what each may have allows."""
    widest = [len(choice.intermediate_sizes) for choice in choices]
    given = [0] * len(widest)
    for done, position in enumerate(sorted(range(len(widest)), key=widest.__getitem__)):
        given[position] = min(widest[position], steps // (len(widest) - done))
        steps -= given[position]
    return given
