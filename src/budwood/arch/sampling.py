"""Drawing members of a search space: uniformly, or inside a parameter bin."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from budwood.arch.bins import ParameterBin
from budwood.arch.count import neuron_parameters, num_parameters, population_parameters
from budwood.arch.population import Population, Sizes
from budwood.arch.regular import draw_regular
from budwood.arch.selection import Indices, LayerSelection, Selection
from budwood.arch.space import SearchSpace
from budwood.arch.spec import Architecture, LayerSpec

Sampling = Literal["constructive", "rejection"]
Widths = NDArray[np.float64]

MAX_DRAWS = 20_000
"""Draws after which a bin counts as practically unreachable."""
_DRAWS_PER_BATCH = 100
_BATCHES_PER_TARGET = 10
_WATER_FILLING_ROUNDS = 4


@dataclass(frozen=True, slots=True)
class Draws:
    """Sizes drawn from a space, and the ranks of the layers that have them."""

    population: Population
    ranks: Sizes
    """[N, L] the first `num_hidden_layers` entries of a row are the ranks of its layers."""


def sample(
    space: SearchSpace, parameter_bin: ParameterBin, rng: np.random.Generator, sampling: Sampling = "constructive"
) -> Selection:
    """Draw a member inside a bin.

    `constructive` draws a parameter count uniformly from the bin and solves the MLP widths for it; where no draw comes
    near, it tries the members whose layers have the same sizes one by one, which in a uniform space are all. A shape
    that would pass a limit of the bin gets the widest MLPs that keep it.
    `rejection` draws until a member happens to lie in the bin (paper, section 2.2).

    Raises:
        ValueError: no member is found; the message gives the reachable range, and the number of draws where members
            may have been missed.
    """
    space.require_reachable(parameter_bin)
    draw = _construct if sampling == "constructive" else _reject
    architecture, ranks = draw(space, parameter_bin, rng)
    return choose_entries(space, architecture, ranks, rng)


def draw_many(space: SearchSpace, count: int, rng: np.random.Generator) -> Draws:
    """Draw the sizes of many members, each uniformly, whatever the parameter count.

    Where stock classes tie the hidden size to heads that allow none, it is 0: such a row is no member.
    """
    depth = space.teacher.num_hidden_layers
    ranks = np.tile(np.arange(depth), (count, 1))
    if space.granularity == "fine":
        ranks = rng.permuted(ranks, axis=1)
    columns = depth if space.layerwise else 1
    sizes = [
        _pick_by_rank(legal, ranks[:, :columns], rng)
        for legal in zip(*(choices.axes for choices in space.choices), strict=True)
    ]
    num_layers = rng.integers(1, depth + 1, size=count)
    groups, queries, head_dim, neurons = (size * (np.arange(depth) < num_layers[:, None]) for size in sizes)
    population = Population(
        hidden_size=_draw_hidden(space, groups[:, 0] * queries[:, 0], head_dim[:, 0], rng),
        groups=groups,
        queries=queries,
        head_dim=head_dim,
        intermediate_size=neurons,
    )
    return Draws(population, ranks)


def draw_layer(space: SearchSpace, rank: int, rng: np.random.Generator) -> LayerSelection:
    """Draw the layer of a rank, every size uniformly."""
    sizes = LayerSpec.of(*(pick(legal, rng) for legal in space.choices[rank].axes))
    return _fill_layer(space, sizes, rank, rng)


def choose_entries(space: SearchSpace, architecture: Architecture, ranks: Sizes, rng: np.random.Generator) -> Selection:
    """Choose the entries that a sub-network of given sizes keeps: the first ones, in fine spaces any.

    Drawing sizes before sets keeps every size as likely as any other; a coin for each index would make almost all
    members half as wide as the teacher.
    """
    if space.granularity == "coarse":
        return Selection.prefix(architecture)
    specs = zip(architecture.layers, ranks.tolist(), strict=False)
    if space.layerwise:
        layers = tuple(_fill_layer(space, spec, rank, rng) for spec, rank in specs)
    else:
        shared = _fill_layer(space, architecture.layers[0], 0, rng)
        layers = tuple(replace(shared, layer=rank) for _, rank in specs)
    return Selection(
        hidden=draw_indices(space, architecture.hidden_size, space.teacher.hidden_size, rng), layers=layers
    )


def draw_indices(space: SearchSpace, size: int, length: int, rng: np.random.Generator) -> Indices:
    """Return the indices that an axis keeps: the first ones, in fine spaces any, in random order."""
    if space.granularity == "coarse":
        return range(size)
    return tuple(rng.permutation(length)[:size].tolist())


def resize_indices(space: SearchSpace, indices: Indices, size: int, length: int, rng: np.random.Generator) -> Indices:
    """Shorten an axis by what it took last, or lengthen it by entries that it lacks (paper, section 2.2)."""
    if space.granularity == "coarse":
        return range(size)
    kept = tuple(indices[:size])
    missing = np.setdiff1d(np.arange(length), kept)
    return kept + tuple(rng.permutation(missing)[: size - len(kept)].tolist())


def draw_target(space: SearchSpace, parameter_bin: ParameterBin, rng: np.random.Generator) -> int:
    """Draw a parameter count uniformly from the part of a bin within the space; of limits alone return the largest."""
    smallest, largest = space.reach
    if parameter_bin.least_load:
        return largest
    return int(rng.integers(max(parameter_bin.low, smallest), min(parameter_bin.high, largest) + 1))


def resize(
    space: SearchSpace, member: Selection, parameter_bin: ParameterBin, target: int, rng: np.random.Generator
) -> Selection | None:
    """Scale the MLP widths of a selection until it has a parameter count.

    Returns:
        the resized selection, as near to the target as whole widths come and limits allow, or None where its other
        sizes leave no legal widths for it or it falls out of the bin.
    """
    ranks = [layer.layer for layer in member.layers]
    resized = _resize(space, member.architecture(space.teacher), ranks, parameter_bin, target)
    if resized is None:
        return None
    sizes = [layer.intermediate_size for layer in resized.layers]
    lengths = [space.pool.layers[rank].intermediate_size for rank in ranks]
    if space.layerwise:
        neurons = [
            resize_indices(space, layer.neurons, size, length, rng)
            for layer, size, length in zip(member.layers, sizes, lengths, strict=True)
        ]
    else:
        neurons = [resize_indices(space, member.layers[0].neurons, sizes[0], lengths[0], rng)] * len(ranks)
    layers = tuple(replace(layer, neurons=kept) for layer, kept in zip(member.layers, neurons, strict=True))
    return replace(member, layers=layers)


def pick(choices: Sequence[int], rng: np.random.Generator) -> int:
    """Draw one of the choices uniformly."""
    return choices[int(rng.integers(len(choices)))]


def _construct(space: SearchSpace, parameter_bin: ParameterBin, rng: np.random.Generator) -> tuple[Architecture, Sizes]:
    for batch in range(MAX_DRAWS // _DRAWS_PER_BATCH):
        # Kept over many draws of shapes: counts that few shapes reach are then as likely as any other.
        if batch % _BATCHES_PER_TARGET == 0:
            target = draw_target(space, parameter_bin, rng)
        draws = draw_many(space, _DRAWS_PER_BATCH, rng)
        for row in np.flatnonzero(_possible(space, draws, parameter_bin, target)):
            resized = _resize(space, *_row(space, draws, int(row)), parameter_bin, target)
            if resized is not None:
                return resized, draws.ranks[row]
    found = draw_regular(space, parameter_bin, rng)
    if found is None:
        raise ValueError(_unreachable(space, parameter_bin, "constructive") + _lightest(space, parameter_bin, rng))
    return found


def _row(space: SearchSpace, draws: Draws, row: int) -> tuple[Architecture, list[int]]:
    return draws.population.architecture(row, space.teacher), draws.ranks[row].tolist()


def _possible(space: SearchSpace, draws: Draws, parameter_bin: ParameterBin, target: int) -> NDArray[np.bool_]:
    """Return [N] whether a shape is legal, and some MLP widths bring it to a target within the limits of a bin.

    Give or take one step of its parameters; of limits alone any number of them will do.
    """
    population = draws.population
    present = population.groups > 0
    narrowest = replace(population, intermediate_size=space.alignment * present)
    most = np.array([choices.intermediate_sizes[-1] for choices in space.choices])[draws.ranks] * present
    low, high = (parameter_bin.low, parameter_bin.high) if parameter_bin.least_load else (target, target)
    least = population_parameters(narrowest, space.teacher)
    per_neuron = neuron_parameters(space.teacher.family, population.hidden_size)
    legal = _legal(space, draws)
    if parameter_bin.limits:
        # As many neurons as the bin asks for at least, in whole ones of every layer.
        missing = (parameter_bin.low - least).clip(0) // np.maximum(per_neuron * present.sum(1), 1)
        widths = np.minimum(most, (space.alignment + missing[:, None]) * present)
        narrow, wide = (replace(population, intermediate_size=each) for each in (widths, most))
        legal &= parameter_bin.may_admit(narrow, wide)
    # Rounding every width to a step may miss the target by half of all steps.
    steps = space.alignment * present.sum(1)
    enough, little = high - least >= -per_neuron * steps / 2, low - least <= per_neuron * (most.sum(1) - steps / 2)
    return np.asarray(legal & enough & little)


def _reject(space: SearchSpace, parameter_bin: ParameterBin, rng: np.random.Generator) -> tuple[Architecture, Sizes]:
    for _ in range(MAX_DRAWS // _DRAWS_PER_BATCH):
        draws = draw_many(space, _DRAWS_PER_BATCH, rng)
        counts = population_parameters(draws.population, space.teacher)
        inside = (counts >= parameter_bin.low) & (counts <= parameter_bin.high) & _legal(space, draws)
        inside &= parameter_bin.may_admit(draws.population, draws.population)
        if inside.any():
            row = int(inside.argmax())
            return draws.population.architecture(row, space.teacher), draws.ranks[row]
    raise ValueError(_unreachable(space, parameter_bin, "rejection"))


def _unreachable(space: SearchSpace, parameter_bin: ParameterBin, sampling: Sampling) -> str:
    if sampling == "constructive" and not space.layerwise and not parameter_bin.limits:
        return (
            f"no sub-network has {parameter_bin.low:,} to {parameter_bin.high:,} parameters: {space.describe_reach()}"
        )
    return (
        f"no sub-network in {parameter_bin} among {MAX_DRAWS:,} {sampling} draws (acceptance below "
        f"{1 / MAX_DRAWS:.0e}): the bin is at the edge of what the space reaches ({space.describe_reach()}); "
        "widen the bin or move it inwards"
    )


def _legal(space: SearchSpace, draws: Draws) -> NDArray[np.bool_]:
    hidden = draws.population.hidden_size
    return np.asarray((hidden > 0) & (hidden <= space.teacher.hidden_size))


def _lightest(space: SearchSpace, parameter_bin: ParameterBin, rng: np.random.Generator) -> str:
    """Return in words the least that some draws with so many parameters take of the limits of a bin."""
    parameters = ParameterBin(parameter_bin.low, parameter_bin.high)
    draws = draw_many(space, MAX_DRAWS // _DRAWS_PER_BATCH, rng)
    rows = np.flatnonzero(_possible(space, draws, parameters, parameters.low))
    scaled = [_scale(space, *_row(space, draws, int(row)), parameters.low) for row in rows]
    loads = [parameter_bin.load(each) for each in scaled if num_parameters(each) in parameters]
    return f"; the lightest of {len(loads)} draws takes {min(loads):.0%} of its limits" if any(loads) else ""


def _pick_by_rank(choices: Sequence[range], ranks: Sizes, rng: np.random.Generator) -> Sizes:
    """Return [N, L] one choice of the layer at each rank, uniformly."""
    starts, steps, counts = np.array([(each.start, each.step, len(each)) for each in choices]).T
    return np.asarray(starts[ranks] + steps[ranks] * rng.integers(counts[ranks]))


def _draw_hidden(space: SearchSpace, heads: Sizes, head_dim: Sizes, rng: np.random.Generator) -> Sizes:
    """Return [N] a hidden size for each of many heads."""
    if not space.ties_hidden_to_heads:
        return np.asarray(space.alignment * rng.integers(1, len(space.hidden_sizes) + 1, size=len(heads)))
    if space.heads_fit == "fill":
        return np.where(heads * head_dim % space.alignment == 0, heads * head_dim, 0)
    step = np.lcm(heads, space.alignment)
    return np.asarray(step * rng.integers(1, np.maximum(space.teacher.hidden_size // step, 1) + 1))


def _fill_layer(space: SearchSpace, spec: LayerSpec, rank: int, rng: np.random.Generator) -> LayerSelection:
    """Choose the entries of a layer of given sizes."""
    whole = space.pool.layers[rank]
    return LayerSelection(
        layer=rank,
        groups=draw_indices(space, spec.num_key_value_heads, whole.num_key_value_heads, rng),
        queries=draw_indices(space, spec.heads_per_group, whole.heads_per_group, rng),
        pairs=draw_indices(space, spec.head_dim // 2, whole.head_dim // 2, rng),
        neurons=draw_indices(space, spec.intermediate_size, whole.intermediate_size, rng),
    )


def _resize(
    space: SearchSpace, architecture: Architecture, ranks: list[int], parameter_bin: ParameterBin, target: int
) -> Architecture | None:
    """Return an architecture with the widths for a parameter count, or none where no legal ones come near it.

    Where limits forbid that count, with the widest that keep them.
    """
    scaled = _scale(space, architecture, ranks, target)
    per_step = int(neuron_parameters(architecture.family, np.array(architecture.hidden_size))) * space.alignment
    near = abs(num_parameters(scaled) - target) <= per_step * len(scaled.layers) / 2
    if not near and not parameter_bin.least_load:
        return None
    if parameter_bin.limits and not parameter_bin.admits(scaled):
        counts = range(min(parameter_bin.low, target), target + 1, per_step)
        fitting = parameter_bin.fitting(counts, lambda count: _scale(space, architecture, ranks, count))
        scaled = _scale(space, architecture, ranks, fitting[-1]) if fitting else scaled
    return scaled if parameter_bin.admits(scaled) else None


def _scale(space: SearchSpace, architecture: Architecture, ranks: list[int], target: int) -> Architecture:
    """Return an architecture with the legal widths that bring it nearest to a parameter count."""
    per_neuron = int(neuron_parameters(architecture.family, np.array(architecture.hidden_size)))
    widths = np.array([layer.intermediate_size for layer in architecture.layers], dtype=float)
    largest = np.array([space.choices[rank].intermediate_sizes[-1] for rank in ranks[: len(widths)]])
    fixed = num_parameters(architecture) - per_neuron * int(widths.sum())
    wanted = _scale_widths(widths, (target - fixed) / per_neuron, largest)
    steps = np.clip(np.rint(wanted / space.alignment).astype(int) * space.alignment, space.alignment, largest)
    return architecture.with_layers(
        tuple(
            LayerSpec.of(layer.num_key_value_heads, layer.heads_per_group, layer.head_dim, int(width))
            for layer, width in zip(architecture.layers, steps, strict=True)
        )
    )


def _scale_widths(widths: Widths, total: float, largest: Sizes) -> Widths:
    """Scale widths to a sum, by one factor, without passing the largest widths."""
    scaled: Widths = widths * (total / widths.sum())
    for _ in range(_WATER_FILLING_ROUNDS):
        full = scaled >= largest
        free = scaled[~full].sum()
        if not full.any() or free <= 0:
            break
        scaled[~full] *= (total - largest[full].sum()) / free
        scaled = np.minimum(scaled, largest)
    return scaled
