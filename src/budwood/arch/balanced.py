"""Members that a rule of thumb suggests: where a search can begin instead of with random draws.

What is best lies far from most draws. It keeps about the same share of the layers as of each layer's neurons, and more
of the channels, up to twice this share: of half and of three quarters of a model all of them. Or it keeps as many
channels, and more layers of fewer neurons and heads. Where layers may differ, those that rank better keep more neurons,
and the more so the more layers there are.
"""

from dataclasses import replace
from functools import partial
from math import floor

import numpy as np

from budwood.arch.bins import ParameterBin
from budwood.arch.count import num_parameters
from budwood.arch.sampling import choose_entries, resize
from budwood.arch.selection import Selection
from budwood.arch.space import LayerChoices, SearchSpace
from budwood.arch.spec import Architecture, LayerSpec

MOST_CHANNELS = 2.0
"""Share of channels over that of layers; the least is 1."""
FILLED = 0.9
"""How far up the parameters of a bin they lie: more of them are better."""
TAPER = 0.5
"""Of the deepest member of a layer-wise space: its best layer keeps so much more of the neurons than its layers on
average, its last so much less, and those between lie on a line. The shallowest has equal layers."""
_LEAST_NEURONS, _MOST_NEURONS = 0.5, 1.25
"""Share of neurons over that of layers."""
_LEAST_GROUPS = 0.5
"""Share of the groups that is left, or that of the channels where these are fewer."""
_NUM_HIDDEN_SIZES = 64
"""That are tried at every depth."""


def balanced_members(
    space: SearchSpace, parameter_bin: ParameterBin, count: int, rng: np.random.Generator
) -> list[Selection]:
    """Return members of a bin that the rule suggests, spread from the shallowest to the deepest.

    Args:
        space: the members are of it; layers have equal heads, as far as the teacher's have.
        parameter_bin: they lie in it, near the top of what the space reaches there.
        count: how many at most; a bin may have fewer, and none where it lies at the edge of the space.
        rng: chooses the entries that members of fine spaces keep.
    """
    if not count:
        return []
    lowest, highest = max(parameter_bin.low, space.reach[0]), min(parameter_bin.high, space.reach[1])
    target = round(lowest + FILLED * (highest - lowest))
    solve = partial(_solve, space, parameter_bin, target, rng)
    shapes = (_shape(space, depth, parameter_bin, target) for depth in space.num_layers_choices)
    base = next((shape for shape in shapes if shape is not None and solve(shape) is not None), None)
    if base is None:
        return []
    deeper = [depth for depth in space.num_layers_choices if depth >= len(base.layers)]
    alike = {depth: member for depth in deeper if (member := solve(_stack(space, base, depth)))}
    tapers = np.linspace(0, TAPER if space.layerwise else 0, len(alike))
    places = np.unique(np.linspace(0, len(alike) - 1, min(count, len(alike))).round().astype(int))
    chosen = [(list(alike)[place], tapers[place]) for place in places]
    return [(solve(_stack(space, base, depth, taper)) if taper else None) or alike[depth] for depth, taper in chosen]


def _shape(space: SearchSpace, depth: int, parameter_bin: ParameterBin, target: int) -> Architecture | None:
    """Return the balanced shape of a depth that comes nearest to a parameter count, or to limits alone."""
    share, whole = depth / space.teacher.num_hidden_layers, space.teacher.hidden_size
    stride = max(1, len(space.hidden_sizes) // _NUM_HIDDEN_SIZES)
    shapes = []
    for hidden in space.hidden_sizes[::-stride]:
        if share <= hidden / whole <= MOST_CHANNELS * share:
            layers = tuple(_layer(choices, share, hidden / whole) for choices in space.choices[:depth])
            if hidden in space.hidden_sizes_around(layers[0]):
                shapes.append(replace(space.teacher, hidden_size=hidden, layers=layers))
    if parameter_bin.least_load:
        return min(shapes, key=lambda shape: abs(parameter_bin.load(shape) - 1), default=None)
    return min(shapes, key=lambda shape: abs(num_parameters(shape) - target), default=None)


def _layer(choices: LayerChoices, neurons: float, groups: float) -> LayerSpec:
    """Return the layer that keeps some shares; groups are kept whole."""
    width = _nearest(choices.intermediate_sizes, neurons)
    return LayerSpec.of(_nearest(choices.groups, groups), choices.queries[-1], choices.head_dims[-1], width)


def _stack(space: SearchSpace, base: Architecture, depth: int, taper: float = 0.0) -> Architecture:
    """Return so many layers with the channels of a shape, fewer heads, and most neurons where they rank best."""
    share, channels = len(base.layers) / space.teacher.num_hidden_layers, base.hidden_size / space.teacher.hidden_size
    groups = max(channels * len(base.layers) / depth, min(channels, _LEAST_GROUPS))
    lines = np.linspace(1 + taper, 1 - taper, depth)
    layers = [_layer(choices, share * line, groups) for choices, line in zip(space.choices, lines, strict=False)]
    return replace(base, layers=tuple(layers))


def _nearest(sizes: range, share: float) -> int:
    """Return the size that comes nearest to a share of the largest."""
    return sizes[min(max(floor(share * len(sizes) + 0.5), 1), len(sizes)) - 1]


def _solve(
    space: SearchSpace, parameter_bin: ParameterBin, target: int, rng: np.random.Generator, shape: Architecture
) -> Selection | None:
    """Return a member of the bin with a shape, its widths scaled to the target where that is possible."""
    filled = choose_entries(space, shape, np.arange(len(shape.layers)), rng)
    for member in (resize(space, filled, parameter_bin, target, rng), filled):
        if member is not None and member in space and parameter_bin.admits(member.architecture(space.teacher)):
            depth = len(member.layers)
            whole = sum(layer.intermediate_size for layer in space.pool.layers[:depth])
            neurons = sum(layer.spec.intermediate_size for layer in member.layers) / whole
            if _LEAST_NEURONS <= neurons / (depth / space.teacher.num_hidden_layers) <= _MOST_NEURONS:
                return member
    return None
