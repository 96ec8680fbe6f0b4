"""Law 2 for operators: children stay in the space, change what they should and nothing else."""

from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from strategies import (
    GRANULARITIES,
    KINDS,
    count,
    decoder,
    generators,
    layer,
    llama,
    sample_any,
    spaces,
    spaces_with_bins,
)

from budwood.arch.bins import ParameterBin
from budwood.arch.config import stock_family
from budwood.arch.count import num_parameters
from budwood.arch.family import family_of
from budwood.arch.selection import Indices, LayerSelection, Selection
from budwood.arch.space import Granularity, SearchSpace
from budwood.search.operators import GENES, Constraint, constrain, crossover, mutate, switch_levels

TEACHER = llama(32, 16, *[layer(6, 3, 8, 12)] * 4)
MIXED = llama(32, 16, layer(6, 3, 8, 12), layer(2, 1, 4, 30), layer(4, 4, 6, 5), layer(8, 2, 12, 12))
HEADS = ("groups", "queries")
GENE_AXES = {"heads": HEADS, "head_dim": ("pairs",), "intermediate_size": ("neurons",)}


def kept_layer(rank: int, groups: Indices, queries: Indices, pairs: Indices, neurons: Indices) -> LayerSelection:
    """Return a layer by what it keeps."""
    return LayerSelection(layer=rank, groups=groups, queries=queries, pairs=pairs, neurons=neurons)


def ranks_of(selection: Selection) -> tuple[int, ...]:
    """Return the ranks of the layers, in the order in which they were taken."""
    return tuple(kept.layer for kept in selection.layers)


def changes(parent: Selection, child: Selection) -> list[tuple[str, int | None, Indices, Indices]]:
    """Return `(gene, layer, before, after)` for every axis in which a child differs from its parent."""
    axes: list[tuple[str, int | None, Indices, Indices]] = [
        ("hidden_size", None, parent.hidden, child.hidden),
        ("num_hidden_layers", None, ranks_of(parent), ranks_of(child)),
    ]
    before, after = ({kept.layer: kept for kept in selection.layers} for selection in (parent, child))
    axes += [
        (gene, rank, getattr(before[rank], axis), getattr(after[rank], axis))
        for rank in before.keys() & after.keys()
        for gene, names in GENE_AXES.items()
        for axis in names
    ]
    return [change for change in axes if change[2] != change[3]]


@given(spaces(), generators)
def test_mutants_differ_in_one_gene(space: SearchSpace, rng: np.random.Generator) -> None:
    """Where stock classes tie the hidden size to the heads, it follows them."""
    parent = sample_any(space, rng)
    for _ in range(10):
        child = mutate(parent, space, rng)
        suits = len(child.hidden) in space.hidden_sizes_around(child.layers[0].spec)
        assert child in space if suits else space.ties_hidden_to_heads
        changed = changes(parent, child)
        genes = {gene for gene, *_ in changed}
        assert len(genes) <= 1 or (space.ties_hidden_to_heads and len(genes - {"hidden_size"}) == 1)
        assert not space.layerwise or len({rank for _, rank, _, _ in changed}) <= 1


@given(spaces(), generators)
def test_what_was_taken_last_goes_first(space: SearchSpace, rng: np.random.Generator) -> None:
    """An axis keeps its order: entries are lost from its end and gained at its end, or exchanged at equal size."""
    parent = sample_any(space, rng)
    for _ in range(10):
        for _, _, before, after in changes(parent, mutate(parent, space, rng)):
            surviving = [index for index in before if index in set(after)]
            assert list(after[: len(surviving)]) == surviving
            if len(after) != len(before):
                assert surviving == list(before[: len(after)])
            else:
                assert space.granularity == "fine"
                assert len(surviving) < len(before)


@pytest.mark.parametrize(("granularity", "layerwise"), KINDS)
def test_every_gene_mutates_to_both_ends(*, granularity: Granularity, layerwise: bool) -> None:
    space = SearchSpace(teacher=TEACHER, granularity=granularity, layerwise=layerwise)
    parent, rng = Selection.prefix(replace(TEACHER, hidden_size=9, layers=(layer(2, 2, 6, 7),) * 2)), _rng()
    children = [mutate(parent, space, rng) for _ in range(3000)]
    specs = [kept.spec for child in children for kept in child.layers]
    assert {gene for child in children for gene, *_ in changes(parent, child)} == set(GENES)
    assert {len(child.layers) for child in children} == {1, 2, 3, 4}
    assert {len(child.hidden) for child in children} == set(range(1, 17))
    assert {(spec.num_key_value_heads, spec.heads_per_group) for spec in specs} == {
        (groups, queries) for groups in (1, 2, 3) for queries in (1, 2)
    }
    assert {spec.head_dim for spec in specs} == {4, 6, 8}
    assert {spec.intermediate_size for spec in specs} == set(range(1, 13))
    fine = granularity == "fine"
    assert {index for child in children for index in ranks_of(child)} == {0, 1, 2, 3}
    assert any(9 <= max(child.hidden) != len(child.hidden) - 1 for child in children) == fine
    assert ((3,) in {ranks_of(child)[1:] for child in children}) == fine


@pytest.mark.slow
@pytest.mark.parametrize("layerwise", [False, True])
def test_fine_mutants_exchange_entries_as_often_as_they_change_size(*, layerwise: bool) -> None:
    """Of sixteen sizes one is the parent's, and redrawing it changes nothing."""
    space, rng = SearchSpace(teacher=TEACHER, granularity="fine", layerwise=layerwise), _rng()
    parent = sample_any(space, rng)
    parent = replace(parent, hidden=(5, 15, 0, 8, 2))
    mutants = [mutate(parent, space, rng).hidden for _ in range(5000)]
    exchanged = [hidden for hidden in mutants if len(hidden) == 5 and hidden != parent.hidden]
    resized = [hidden for hidden in mutants if len(hidden) != 5]
    assert len(exchanged) / (len(exchanged) + len(resized) * 16 / 15) == pytest.approx(0.5, abs=0.06)
    assert Counter(len(set(hidden) - set(parent.hidden)) for hidden in exchanged).keys() == {1, 2, 3, 4, 5}
    assert {index for hidden in exchanged for index in hidden} == set(range(16))


@pytest.mark.parametrize(("granularity", "layerwise"), KINDS)
def test_depth_grows_at_the_end_and_shrinks_from_the_end(*, granularity: Granularity, layerwise: bool) -> None:
    """New layers are drawn freshly where layers differ, and repeat the others where they do not."""
    space, rng = SearchSpace(teacher=TEACHER, granularity=granularity, layerwise=layerwise), _rng()
    own = Selection.prefix(
        TEACHER.with_layers((layer(2, 2, 6, 7), layer(2, 1, 4, 5) if layerwise else layer(2, 2, 6, 7)))
    )
    if granularity == "fine":
        own = replace(own, layers=tuple(replace(kept, layer=3 - kept.layer) for kept in own.layers))
    assert own in space
    children = [mutate(own, space, rng) for _ in range(900)]
    deeper = [child.layers for child in children if len(child.layers) > 2]
    shallower = [child.layers for child in children if len(child.layers) < 2]
    assert min(len(deeper), len(shallower)) > 15
    assert all(layers[:2] == own.layers for layers in deeper)
    assert all(layers == own.layers[:1] for layers in shallower)
    added = [kept for layers in deeper for kept in layers[2:]]
    assert {kept.layer for kept in added} == ({0, 1} if granularity == "fine" else {2, 3})
    distinct = {replace(kept, layer=0) for kept in added}
    assert len(distinct) > 30 if layerwise else distinct == {replace(own.layers[0], layer=0)}


@given(spaces_with_bins(), generators)
def test_a_level_switch_keeps_the_number_of_parameters(
    drawn: tuple[SearchSpace, ParameterBin], rng: np.random.Generator
) -> None:
    """Up to half a step of neurons of the layer that pays, or in uniform spaces of every layer."""
    space, parameter_bin = drawn
    parent = sample_any(space, rng)
    for _ in range(5):
        child = switch_levels(parent, space, parameter_bin, rng)
        if child is None:
            continue
        per_step = space.alignment * num_parameters_of_a_neuron(space, child)
        steps = 1 if space.layerwise else len(child.layers)
        assert abs(count(space, child) - count(space, parent)) <= steps * per_step / 2
        if space.layerwise:
            assert child in space
            assert child.hidden == parent.hidden
            assert len({rank for _, rank, _, _ in changes(parent, child)}) <= 2


def num_parameters_of_a_neuron(space: SearchSpace, member: Selection) -> int:
    """Return how many parameters one more neuron adds to one layer of a member."""
    sizes = member.architecture(space.teacher)
    first = replace(sizes.layers[0], intermediate_size=sizes.layers[0].intermediate_size + 1)
    return num_parameters(sizes.with_layers((first, *sizes.layers[1:]))) - num_parameters(sizes)


def test_level_switches_go_small_steps_and_find_their_way() -> None:
    """No size moves by more than an eighth of its range, or to the next size; each is moved now and then."""
    teacher = llama(64, 256, *[layer(12, 4, 32, 512)] * 24)
    space = SearchSpace(teacher=teacher, layerwise=False)
    parent, rng = Selection.prefix(replace(teacher, hidden_size=128, layers=(layer(6, 2, 16, 256),) * 12)), _rng()
    everything = ParameterBin(*space.reach)
    switched = [switch_levels(parent, space, everything, rng) for _ in range(400)]
    children = [child for child in switched if child is not None and child != parent]
    assert {abs(len(child.hidden) - 128) <= 255 / 8 for child in children} == {True}
    assert {len(child.layers) for child in children} == set(range(10, 15))
    assert {child.layers[0].spec.head_dim for child in children} == {14, 16, 18}
    assert {child.layers[0].spec.num_key_value_heads for child in children} == {1, 2, 3}
    assert len({len(child.layers[0].neurons) for child in children}) > 20


@given(spaces(), generators)
def test_crossing_takes_every_gene_from_either_parent(space: SearchSpace, rng: np.random.Generator) -> None:
    first, second = sample_any(space, rng), sample_any(space, rng)
    while len(second.layers) != len(first.layers):
        second = sample_any(space, rng)
    child = crossover(first, second, space, rng)
    assert space.ties_hidden_to_heads or child.hidden in {first.hidden, second.hidden}
    assert ranks_of(child) in {ranks_of(first), ranks_of(second)}
    for kept, *parents in zip(child.layers, first.layers, second.layers, strict=True):
        assert (kept.groups, kept.queries) in {(parent.groups, parent.queries) for parent in parents}
        assert kept.pairs in {parent.pairs for parent in parents}
        assert kept.neurons in {parent.neurons for parent in parents}
    if not space.ties_hidden_to_heads and (space.teacher.is_uniform or not space.layerwise):
        assert child in space


@pytest.mark.parametrize(
    ("granularity", "layerwise", "num_children"),
    [("coarse", False, 2**4), ("coarse", True, 2**7), ("fine", False, 2**5), ("fine", True, 2**8)],
)
def test_crossing_makes_every_combination(*, granularity: Granularity, layerwise: bool, num_children: int) -> None:
    """Hidden size, heads with groups, head dimension and neurons fall independently, in layer-wise spaces per layer.

    In fine spaces the choice of layers does too.
    """
    space, rng = SearchSpace(teacher=TEACHER, granularity=granularity, layerwise=layerwise), _rng()
    if granularity == "coarse":
        first = Selection.prefix(replace(TEACHER, hidden_size=5, layers=(layer(6, 3, 8, 12),) * 2))
        second = Selection.prefix(replace(TEACHER, hidden_size=9, layers=(layer(2, 1, 4, 3),) * 2))
    else:
        one, other = ((2, 0), (1,), (3, 1), (11, 4, 7)), ((1,), (0,), (0, 1, 2), (5, 6, 0))
        first = Selection(hidden=(5, 15, 0), layers=tuple(kept_layer(rank, *one) for rank in (3, 1)))
        second = Selection(hidden=(5, 15, 1), layers=tuple(kept_layer(rank, *other) for rank in (0, 2)))
    assert first in space
    assert second in space
    assert len({crossover(first, second, space, rng) for _ in range(3000)}) == num_children


def test_crossing_refuses_unequal_depths() -> None:
    space, whole = SearchSpace(teacher=TEACHER, layerwise=True), Selection.prefix(TEACHER)
    with pytest.raises(ValueError, match="equal depth, got 4 and 1"):
        crossover(whole, replace(whole, layers=whole.layers[:1]), space, _rng())


def test_children_that_want_what_a_layer_lacks_are_rejected() -> None:
    """In a teacher of mixed layers, positions may take over entries that exist only in another layer."""
    space, rng = SearchSpace(teacher=MIXED, granularity="fine", layerwise=True), _rng()
    everything = ParameterBin(*space.reach)
    first = Selection(hidden=(0, 1), layers=(kept_layer(1, (0,), (1,), (0, 1), (29, 3)),))
    second = Selection(hidden=(0, 1), layers=(kept_layer(0, (2, 1), (0,), (3, 2), (11, 4)),))
    children = [crossover(first, second, space, rng) for _ in range(200)]
    kept = [constrain(child, space, everything, rng, "rejection") for child in children]
    assert [child in space for child in children] == [child is not None for child in kept]
    assert 0 < kept.count(None) < len(kept)


@pytest.mark.parametrize("granularity", GRANULARITIES)
@pytest.mark.parametrize(("family", "groups"), [("gpt_neox", 6), ("gemma2", 3)])
def test_native_children_are_what_stock_classes_express(family: str, groups: int, granularity: Granularity) -> None:
    """Most children of tied sizes are members, because the hidden size follows the heads."""
    teacher = decoder(family, 32, 48, *[layer(6, groups, 8, 64)] * 3)
    space = SearchSpace(teacher=teacher, granularity=granularity, layerwise=False, native_only=True)
    everything, rng = ParameterBin(*space.reach), _rng()
    parents = [sample_any(space, rng) for _ in range(200)]
    mutants = [mutate(parent, space, rng) for parent in parents]
    crossed = [
        crossover(one, other, space, rng)
        for one in parents[:20]
        for other in parents
        if len(one.layers) == len(other.layers)
    ]
    for children in (mutants, crossed):
        kept = [constrain(child, space, everything, rng, "rejection") for child in children]
        natives = [child for child in kept if child is not None]
        assert len(natives) > 0.95 * len(children)
        for child in natives:
            assert stock_family(family_of(family), hidden_size=len(child.hidden), layer=child.layers[0].spec)


@pytest.mark.parametrize("constraint", ["repair", "rejection"])
@given(drawn=spaces_with_bins(), rng=generators)
def test_constrained_children_lie_in_the_space_and_in_the_bin(
    constraint: Constraint, drawn: tuple[SearchSpace, ParameterBin], rng: np.random.Generator
) -> None:
    space, parameter_bin = drawn
    parents = [sample_any(space, rng) for _ in range(6)]
    children = [mutate(parent, space, rng) for parent in parents] + [
        crossover(parents[0], other, space, rng) for other in parents if len(other.layers) == len(parents[0].layers)
    ]
    for child in children:
        kept = constrain(child, space, parameter_bin, rng, constraint)
        if child in space and count(space, child) in parameter_bin:
            assert kept == child
        elif constraint == "rejection":
            assert kept is None
        elif kept is not None:
            assert kept in space
            assert count(space, kept) in parameter_bin


@pytest.mark.parametrize(("granularity", "layerwise"), KINDS)
def test_repair_saves_children_that_rejection_loses(*, granularity: Granularity, layerwise: bool) -> None:
    space, rng = SearchSpace(teacher=TEACHER, granularity=granularity, layerwise=layerwise), _rng()
    parameter_bin = ParameterBin.around(0.4 * num_parameters(TEACHER))
    children = [sample_any(space, rng) for _ in range(300)]
    repaired, rejected = (
        [constrain(child, space, parameter_bin, rng, constraint) for child in children]
        for constraint in ("repair", "rejection")
    )
    saved, lost = len(children) - repaired.count(None), rejected.count(None)
    assert saved > 2 * (len(children) - lost) > 0


def _rng() -> np.random.Generator:
    return np.random.default_rng(0)


@pytest.mark.parametrize("layerwise", [False, True])
def test_without_exchanges_a_fine_mutant_that_keeps_its_sizes_keeps_its_entries(*, layerwise: bool) -> None:
    """The paper's mutation draws a size again, and adds or removes entries; it never replaces them."""
    space, rng = SearchSpace(teacher=TEACHER, granularity="fine", layerwise=layerwise), _rng()
    parent = replace(sample_any(space, rng), hidden=(5, 15, 0, 8, 2))
    for _ in range(300):
        child = mutate(parent, space, rng, exchange=False)
        for kept, before in zip(_axes(child), _axes(parent), strict=False):
            common = min(len(kept), len(before))
            assert kept[:common] == before[:common]


def _axes(member: Selection) -> list[tuple[int, ...]]:
    """Return the channels, the layers, and what layers that were there before keep."""
    layers = [
        tuple(getattr(kept, axis)) for kept in member.layers for axis in ("groups", "queries", "pairs", "neurons")
    ]
    return [tuple(member.hidden), tuple(kept.layer for kept in member.layers), *layers]
