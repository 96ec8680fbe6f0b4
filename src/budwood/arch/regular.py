"""Members whose layers have the same attention: they are tried one by one where random draws find none in a bin."""

from collections.abc import Iterator, Sequence
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
    around = [_shapes_around(space, parameter_bin, hidden, attentions, choices) for hidden in space.hidden_sizes]
    found = [shapes for shapes in around if len(shapes.least)]
    if not found:
        return None
    for shapes, row in _tries(found, rng):
        kept, attention = choices[: shapes.depths[row] + 1], attentions[shapes.attentions[row]]
        sized = partial(_sized, space, shapes.hidden_size, attention, kept)
        fitting = parameter_bin.fitting(range(shapes.least[row], shapes.most[row] + 1), sized)
        if fitting:
            return sized(fitting[int(rng.integers(len(fitting)))]), ranks
    return None


def _tries(found: Sequence[_Shapes], rng: np.random.Generator) -> Iterator[tuple[_Shapes, int]]:
    """Yield a row of the shapes around a drawn hidden size; then, because limits may forbid it, all rows of all."""
    first = found[int(rng.integers(len(found)))]
    yield first, int(rng.integers(len(first.least)))
    ends = np.cumsum([len(shapes.least) for shapes in found])
    for place in rng.permutation(ends[-1]).tolist():
        index = int(np.searchsorted(ends, place, side="right"))
        # Counted from the end.
        yield found[index], place - int(ends[index])


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
    space: SearchSpace, parameter_bin: ParameterBin, hidden: int, attentions: Sizes, choices: Sequence[LayerChoices]
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
        legal = legal & _may_admit(parameter_bin, hidden, attentions, choices)
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
    parameter_bin: ParameterBin, hidden: int, attentions: Sizes, choices: Sequence[LayerChoices]
) -> NDArray[np.bool_]:
    """Return [L, A] whether the first layers can keep the limits of a bin."""
    sizes = np.stack([_clip(attentions, choice) for choice in choices], axis=1)  # [A, L, 3]
    depth, num_attentions = len(choices), len(attentions)
    present = np.tri(depth, dtype=np.int64)[:, None, :]  # [L, 1, L]
    groups, queries, head_dim = (sizes[None, :, :, axis] * present for axis in range(3))
    populations = [
        Population(
            hidden_size=np.full(depth * num_attentions, hidden),
            groups=groups.reshape(-1, depth),
            queries=queries.reshape(-1, depth),
            head_dim=head_dim.reshape(-1, depth),
            intermediate_size=(np.array(widths) * present * np.ones_like(groups)).reshape(-1, depth),
        )
        for widths in zip(
            *((choice.intermediate_sizes[0], choice.intermediate_sizes[-1]) for choice in choices), strict=True
        )
    ]
    return parameter_bin.may_admit(*populations).reshape(depth, num_attentions)


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
