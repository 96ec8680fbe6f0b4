"""Law 2 for draws: they stay inside, every axis reaches its ends, sizes spread over the bin."""

import itertools
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from scipy.stats import kstest
from strategies import (
    KINDS,
    SMOLLM2_135M,
    count,
    decoder,
    generators,
    layer,
    llama,
    sample_any,
    spaces,
    spaces_with_bins,
)

from budwood.arch import sampling as sampling_module
from budwood.arch.bins import ParameterBin
from budwood.arch.count import num_parameters
from budwood.arch.regular import draw_regular
from budwood.arch.sampling import (
    Sampling,
    choose_entries,
    draw_indices,
    draw_layer,
    draw_target,
    resize,
    resize_indices,
    sample,
)
from budwood.arch.selection import Selection
from budwood.arch.space import Granularity, SearchSpace
from budwood.arch.spec import Architecture

SMALL = llama(96, 64, *[layer(8, 4, 32, 256)] * 4)
MIXED = llama(96, 64, layer(8, 4, 32, 256), layer(4, 2, 16, 512), layer(4, 4, 32, 128), layer(8, 2, 24, 256))
TINY = llama(5, 6, *[layer(4, 2, 6, 3)] * 2)
NEOX = decoder("gpt_neox", 96, 64, *[layer(8, 8, 8, 256)] * 4)


@pytest.mark.parametrize("sampling", ["constructive", "rejection"])
@given(drawn=spaces_with_bins(), rng=generators)
def test_draws_lie_in_the_space_and_in_the_bin(
    sampling: Sampling, drawn: tuple[SearchSpace, ParameterBin], rng: np.random.Generator
) -> None:
    space, parameter_bin = drawn
    for _ in range(5):
        member = sample(space, parameter_bin, rng, sampling)
        assert member in space
        assert count(space, member) in parameter_bin


@pytest.mark.parametrize("sampling", ["constructive", "rejection"])
@pytest.mark.parametrize(("granularity", "layerwise"), KINDS)
def test_bins_of_two_counts_are_hit_exactly(*, granularity: Granularity, layerwise: bool, sampling: Sampling) -> None:
    space, rng = SearchSpace(teacher=TINY, granularity=granularity, layerwise=layerwise), np.random.default_rng(0)
    for low in {count(space, sample_any(space, rng)) for _ in range(20)}:
        assert count(space, sample(space, ParameterBin(low, low + 1), rng, sampling)) in {low, low + 1}


@pytest.mark.slow
@pytest.mark.parametrize("free", [False, True], ids=["in a bin", "free"])
@pytest.mark.parametrize(("granularity", "layerwise"), KINDS)
def test_every_axis_reaches_both_ends(*, granularity: Granularity, layerwise: bool, free: bool) -> None:
    """Also when counts are constructed: the bin then holds the whole space."""
    space = SearchSpace(teacher=TINY, granularity=granularity, layerwise=layerwise)
    everything, rng = ParameterBin(*space.reach), np.random.default_rng(0)
    drawn = [sample_any(space, rng) if free else sample(space, everything, rng) for _ in range(400)]
    specs = [kept.spec for member in drawn for kept in member.layers]
    assert {len(member.hidden) for member in drawn} == {1, 2, 3, 4, 5, 6}
    assert {len(member.layers) for member in drawn} == {1, 2}
    assert {(spec.num_key_value_heads, spec.heads_per_group) for spec in specs} == {(1, 1), (1, 2), (2, 1), (2, 2)}
    assert {spec.head_dim for spec in specs} == {4, 6}
    assert {spec.intermediate_size for spec in specs} == {1, 2, 3}
    ranks = {tuple(kept.layer for kept in member.layers) for member in drawn}
    neurons = {tuple(kept.neurons) for member in drawn for kept in member.layers}
    if granularity == "coarse":
        assert ranks == {(0,), (0, 1)}
        assert neurons == {(0,), (0, 1), (0, 1, 2)}
    else:
        assert ranks == {(0,), (1,), (0, 1), (1, 0)}
        assert neurons == {order for size in (1, 2, 3) for order in itertools.permutations(range(3), size)}


def test_layers_are_drawn_within_their_own_sizes() -> None:
    space, rng = SearchSpace(teacher=MIXED, granularity="fine", layerwise=True), np.random.default_rng(0)
    for rank, spec in enumerate(MIXED.layers):
        drawn = [draw_layer(space, rank, rng) for _ in range(400)]
        assert {kept.layer for kept in drawn} == {rank}
        assert {len(kept.groups) for kept in drawn} == set(range(1, spec.num_key_value_heads + 1))
        assert max(kept.spec.heads_per_group for kept in drawn) == spec.heads_per_group
        assert {kept.spec.head_dim for kept in drawn} == set(range(4, spec.head_dim + 1, 2))
        assert spec.intermediate_size // 2 < max(max(kept.neurons) for kept in drawn) < spec.intermediate_size


def test_uniform_draws_keep_what_all_layers_have() -> None:
    """Two groups of one query, 16 head dimensions and 128 neurons are common to the mixed layers."""
    space, rng = SearchSpace(teacher=MIXED, granularity="fine", layerwise=False), np.random.default_rng(0)
    drawn = [sample_any(space, rng).layers[0] for _ in range(300)]
    assert {index for kept in drawn for index in kept.groups} == {0, 1}
    assert {index for kept in drawn for index in kept.queries} == {0}
    assert {index for kept in drawn for index in kept.pairs} == set(range(8))
    assert {index for kept in drawn for index in kept.neurons} == set(range(128))


def test_indices_are_any_in_fine_spaces_and_the_first_in_coarse_ones() -> None:
    rng = np.random.default_rng(0)
    coarse, fine = (
        SearchSpace(teacher=TINY, granularity=granularity, layerwise=True) for granularity in ("coarse", "fine")
    )
    assert draw_indices(coarse, 2, 4, rng) == range(2)
    assert resize_indices(coarse, range(2), 3, 4, rng) == range(3)
    assert {draw_indices(fine, 2, 4, rng) for _ in range(300)} == set(itertools.permutations(range(4), 2))
    assert resize_indices(fine, (3, 1, 2), 2, 4, rng) == (3, 1)
    assert {resize_indices(fine, (3, 1), 3, 5, rng) for _ in range(60)} == {(3, 1, 0), (3, 1, 2), (3, 1, 4)}


@given(spaces_with_bins(), generators)
def test_resizing_changes_the_neurons_alone(drawn: tuple[SearchSpace, ParameterBin], rng: np.random.Generator) -> None:
    """A longer set of neurons begins with the shorter one."""
    space, parameter_bin = drawn
    member = sample_any(space, rng)
    resized = resize(space, member, parameter_bin, draw_target(space, parameter_bin, rng), rng)
    if resized is None:
        return
    assert resized in space
    assert count(space, resized) in parameter_bin
    assert _without_neurons(resized) == _without_neurons(member)
    for kept, before in zip(resized.layers, member.layers, strict=True):
        common = min(len(kept.neurons), len(before.neurons))
        assert kept.neurons[:common] == before.neurons[:common]


def _without_neurons(member: Selection) -> Selection:
    return replace(member, layers=tuple(replace(kept, neurons=range(1)) for kept in member.layers))


def test_resizing_keeps_the_proportions_of_the_layers() -> None:
    space = SearchSpace(teacher=SMOLLM2_135M, layerwise=True)
    member = Selection.prefix(SMOLLM2_135M.with_layers((layer(9, 3, 64, 200), layer(9, 3, 64, 600))))
    target = count(space, member) + 1_000_000
    resized = resize(space, member, ParameterBin.around(target), target, np.random.default_rng(0))
    assert resized is not None
    first, second = (len(kept.neurons) for kept in resized.layers)
    assert second == pytest.approx(3 * first, abs=2)


def test_resizing_takes_only_neurons_that_all_layers_of_a_uniform_space_have() -> None:
    space, rng = SearchSpace(teacher=MIXED, granularity="fine", layerwise=False), np.random.default_rng(0)
    narrow = draw_layer(space, 1, rng)
    member = Selection(hidden=range(32), layers=(replace(narrow, neurons=(5, 127)),))
    wide = replace(member, layers=(replace(narrow, neurons=range(100)),))
    target = count(space, wide)
    resized = resize(space, member, ParameterBin.around(target), target, rng)
    assert resized is not None
    assert resized.layers[0].neurons[:2] == (5, 127)
    assert len(resized.layers[0].neurons) == 100
    assert max(resized.layers[0].neurons) == 127


def test_resizing_gives_up_where_no_width_fits() -> None:
    space, target = SearchSpace(teacher=SMALL, layerwise=False), num_parameters(SMALL)
    smallest = Selection.prefix(space.smallest())
    assert resize(space, smallest, ParameterBin.around(target), target, np.random.default_rng(0)) is None


def test_a_bin_that_reaches_past_the_teacher_is_drawn_from_within_it() -> None:
    space, rng = SearchSpace(teacher=SMALL, layerwise=False), np.random.default_rng(0)
    top = num_parameters(SMALL)
    targets = [draw_target(space, ParameterBin(top // 2, 10 * top), rng) for _ in range(100)]
    assert min(targets) >= top // 2
    assert max(targets) <= top


@pytest.mark.slow
@pytest.mark.parametrize(("layerwise", "num_draws"), [(False, 600), (True, 300)])
def test_sizes_spread_evenly_over_a_bin_with_room(*, layerwise: bool, num_draws: int) -> None:
    """The bin lies at a fifth of the teacher, where nearly every member can be widened or narrowed into it."""
    places = _places_in_bin(SearchSpace(teacher=SMOLLM2_135M, layerwise=layerwise), 0.2, num_draws)
    assert kstest(places, "uniform").pvalue > 0.01
    assert np.mean(np.abs(places - 0.5) > 0.45) < 0.15  # a tenth of the bin


@pytest.mark.parametrize("teacher", [SMALL, MIXED], ids=["alike", "mixed"])
@pytest.mark.parametrize(("granularity", "layerwise"), KINDS)
def test_sizes_spread_evenly_over_bins_of_every_space(
    *, granularity: Granularity, layerwise: bool, teacher: Architecture
) -> None:
    space = SearchSpace(teacher=teacher, granularity=granularity, layerwise=layerwise)
    places = _places_in_bin(space, 0.5 * space.reach[1] / num_parameters(teacher), 250)
    assert kstest(places, "uniform").pvalue > 0.01


@pytest.mark.slow
def test_sizes_spread_evenly_over_a_bin_that_few_shapes_reach() -> None:
    """Larger counts have fewer shapes; a count drawn again with every batch of shapes would lie low in the bin."""
    places = _places_in_bin(SearchSpace(teacher=SMALL, layerwise=False), 0.85, 200)
    assert kstest(places, "uniform").pvalue > 0.01


def test_sizes_spread_evenly_where_stock_classes_tie_the_hidden_size() -> None:
    places = _places_in_bin(SearchSpace(teacher=NEOX, layerwise=False, native_only=True), 0.4, 250)
    assert kstest(places, "uniform").pvalue > 0.01


def _places_in_bin(space: SearchSpace, fraction: float, num_draws: int) -> np.ndarray:
    parameter_bin, rng = ParameterBin.around(fraction * num_parameters(space.teacher)), np.random.default_rng(0)
    counts = [count(space, sample(space, parameter_bin, rng)) for _ in range(num_draws)]
    return (np.array(counts) - parameter_bin.low) / (parameter_bin.high - parameter_bin.low)


@given(spaces(), generators)
def test_the_same_generator_draws_the_same(space: SearchSpace, rng: np.random.Generator) -> None:
    everything, seed = ParameterBin(space.reach[0], space.reach[1] + 1), int(rng.integers(2**32))
    first, second = (sample(space, everything, np.random.default_rng(seed)) for _ in range(2))
    assert first == second


@pytest.mark.parametrize("sampling", ["constructive", "rejection"])
@pytest.mark.parametrize(("low", "high"), [(1, 10), (10**9, 2 * 10**9)])
def test_unreachable_bins_are_refused_with_the_range(sampling: Sampling, low: int, high: int) -> None:
    space = SearchSpace(teacher=SMOLLM2_135M, layerwise=False)
    with pytest.raises(ValueError, match=r"cannot be reached: .* have [\d,]+ to 134,515,008 parameters"):
        sample(space, ParameterBin(low, high), np.random.default_rng(0), sampling)


def test_nearly_unreachable_bins_are_refused_with_the_draws(monkeypatch: pytest.MonkeyPatch) -> None:
    """Only the teacher itself has this count."""
    monkeypatch.setattr(sampling_module, "MAX_DRAWS", 1200)
    space = SearchSpace(teacher=SMOLLM2_135M, layerwise=False)
    message = r"1,200 rejection draws \(acceptance below 8e-04\).*to 134,515,008 parameters.*widen the bin"
    with pytest.raises(ValueError, match=message):
        sample(space, ParameterBin(134_515_008, 134_515_009), np.random.default_rng(0), "rejection")


@given(drawn=spaces_with_bins(), rng=generators)
def test_members_with_equal_layers_are_found_without_luck(
    drawn: tuple[SearchSpace, ParameterBin], rng: np.random.Generator
) -> None:
    """In uniform spaces these are all members."""
    space, parameter_bin = drawn
    smallest, largest = space.reach
    bins = [ParameterBin(smallest, smallest + 1), ParameterBin(largest, largest + 1)]
    bins += [] if space.layerwise else [parameter_bin, ParameterBin(parameter_bin.low, parameter_bin.low + 1)]
    for each in bins:
        found = draw_regular(space, each, rng)
        assert found is not None
        member = choose_entries(space, *found, rng)
        assert member in space
        assert count(space, member) in each


@pytest.mark.parametrize(("granularity", "layerwise"), KINDS)
@pytest.mark.parametrize("end", [0, 1])
def test_the_ends_of_a_space_are_drawn_though_hardly_any_draw_meets_them(
    *, granularity: Granularity, layerwise: bool, end: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sampling_module, "MAX_DRAWS", 100)
    space = SearchSpace(teacher=MIXED, granularity=granularity, layerwise=layerwise)
    wanted = space.reach[end]
    member = sample(space, ParameterBin(wanted - end, wanted + 1 - end), np.random.default_rng(0))
    assert member in space
    assert count(space, member) == wanted


def test_a_gap_between_the_counts_of_a_space_has_no_member() -> None:
    """One layer of one neuron whose only head fills four or six channels."""
    space = SearchSpace(teacher=decoder("gpt_neox", 64, 6, layer(1, 1, 6, 1)), layerwise=False, native_only=True)
    smallest, largest = space.reach
    with pytest.raises(ValueError, match=rf"no sub-network has {smallest + 1} to {largest - 1:,} parameters.* have"):
        sample(space, ParameterBin(smallest + 1, largest - 1), np.random.default_rng(0))


def test_a_space_of_two_counts_is_drawn_from_though_targets_miss_both() -> None:
    """One layer of one neuron whose only head fills four or six channels, for a vocabulary of 64."""
    teacher = decoder("gpt_neox", 64, 6, layer(1, 1, 6, 1))
    space, rng = SearchSpace(teacher=teacher, layerwise=False, native_only=True), np.random.default_rng(0)
    everything = ParameterBin(*space.reach)
    drawn = [sample(space, everything, rng) for _ in range(8)]
    assert all(member in space for member in drawn)
    assert {count(space, member) for member in drawn} == set(space.reach)
