"""Law 2 for spaces: draws stay inside, every axis reaches its ends, sizes spread over the bin."""

import itertools
import math
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from scipy.stats import kstest
from strategies import SMOLLM2_135M, generators, layer, llama, spaces, spaces_with_bins

from budwood.arch import space as space_module
from budwood.arch.bins import ParameterBin
from budwood.arch.count import num_parameters
from budwood.arch.space import Granularity, Sampling, SearchSpace, log10_paper_size
from budwood.arch.spec import Architecture

PYTHIA_69B = llama(50432, 4096, *[layer(32, 32, 128, 16384)] * 32, tied=False)
PYTHIA_12B = llama(50688, 5120, *[layer(40, 40, 128, 20480)] * 36, tied=False)
SMALL = llama(96, 64, *[layer(8, 4, 32, 256)] * 4)
TINY = llama(5, 6, *[layer(4, 2, 6, 3)] * 2)


@pytest.mark.parametrize(
    ("granularity", "layerwise", "size_69b", "size_12b", "digits"),
    [  # table 16; its fine uniform entries are natural logarithms and stand here as decimal ones
        ("coarse", False, math.log10(4.3293e12), math.log10(9.5127e12), 1e-5),
        ("coarse", True, 244.2175, 281.3676, 1e-4),
        ("fine", False, 6203.3, 7748.2, 0.05),
        ("fine", True, 159984.197, 224611.725, 1e-3),
    ],
)
def test_the_papers_sizes(
    *,
    granularity: Granularity,
    layerwise: bool,
    size_69b: float,
    size_12b: float,
    digits: float,
) -> None:
    sizes = [log10_paper_size(teacher, granularity, layerwise=layerwise) for teacher in (PYTHIA_69B, PYTHIA_12B)]
    assert sizes == pytest.approx([size_69b, size_12b], abs=digits)


def test_grouped_queries_leave_few_legal_heads() -> None:
    """The audit's example: SmolLM2-135M has 3 x 3 pairs of groups and queries."""
    choices = SearchSpace(teacher=SMOLLM2_135M, layerwise=False).head_choices
    assert len(choices) == len(set(choices)) == 9
    assert set(choices) == set(itertools.product((1, 2, 3), repeat=2))


@pytest.mark.parametrize("layerwise", [False, True])
@pytest.mark.parametrize("alignment", [1, 2])
def test_the_size_is_the_number_of_members(*, layerwise: bool, alignment: int) -> None:
    """Every description within the teacher's sizes is tried: the members are as many as `log10_size` says."""
    space = SearchSpace(teacher=TINY, layerwise=layerwise, alignment=alignment)
    specs = [
        layer(groups * queries, groups, head_dim, neurons)
        for groups, queries, head_dim, neurons in itertools.product((1, 2, 3), (1, 2, 3), (2, 4, 6, 8), range(1, 5))
    ]
    described = itertools.chain.from_iterable(itertools.product(specs, repeat=depth) for depth in (1, 2))
    narrow = [replace(TINY, hidden_size=space.hidden_sizes[0], layers=layers) for layers in described]
    members = sum(candidate in space for candidate in narrow) * len(space.hidden_sizes)
    assert math.log10(members) == pytest.approx(space.log10_size(), abs=1e-12)


@given(spaces(), generators)
@settings(deadline=None)
def test_free_draws_are_members_between_smallest_and_largest(space: SearchSpace, rng: np.random.Generator) -> None:
    assert space.smallest() in space
    assert space.largest() in space
    for _ in range(10):
        drawn = space.sample_any(rng)
        assert drawn in space
        counts = [num_parameters(member) for member in (space.smallest(), drawn, space.largest())]
        assert counts == sorted(counts)


@given(spaces())
def test_other_models_are_no_members(space: SearchSpace) -> None:
    teacher, spec = space.largest(), space.largest().layers[0]
    outside = [
        replace(teacher, vocab_size=teacher.vocab_size + 1),
        replace(teacher, tie_word_embeddings=not teacher.tie_word_embeddings),
        replace(teacher, family="gpt_neox"),
        replace(teacher, hidden_size=teacher.hidden_size + space.alignment),
        replace(teacher, layers=(*teacher.layers, spec)),
        replace(teacher, layers=(replace(spec, head_dim=spec.head_dim + 2),)),
        replace(teacher, layers=(replace(spec, intermediate_size=spec.intermediate_size + space.alignment),)),
        replace(teacher, layers=(replace(spec, num_attention_heads=2 * spec.num_attention_heads),)),
    ]
    assert not any(candidate in space for candidate in outside)


@pytest.mark.parametrize("layerwise", [False, True])
def test_only_layerwise_spaces_mix_layers(*, layerwise: bool) -> None:
    mixed = TINY.with_layers((layer(4, 2, 6, 3), layer(1, 1, 4, 1)))
    assert (mixed in SearchSpace(teacher=TINY, layerwise=layerwise)) == layerwise


@pytest.mark.parametrize("layerwise", [False, True])
def test_every_axis_reaches_both_ends(*, layerwise: bool) -> None:
    space, rng = SearchSpace(teacher=TINY, layerwise=layerwise), np.random.default_rng(0)
    drawn = [space.sample_any(rng) for _ in range(400)]
    specs = [spec for candidate in drawn for spec in candidate.layers]
    assert {candidate.hidden_size for candidate in drawn} == {1, 2, 3, 4, 5, 6}
    assert {candidate.num_hidden_layers for candidate in drawn} == {1, 2}
    assert {(spec.num_key_value_heads, spec.heads_per_group) for spec in specs} == {(1, 1), (1, 2), (2, 1), (2, 2)}
    assert {spec.head_dim for spec in specs} == {4, 6}
    assert {spec.intermediate_size for spec in specs} == {1, 2, 3}


@pytest.mark.parametrize("sampling", ["constructive", "rejection"])
@given(drawn=spaces_with_bins(), rng=generators)
@settings(max_examples=40, deadline=None)
def test_draws_lie_in_the_space_and_in_the_bin(
    sampling: Sampling, drawn: tuple[SearchSpace, ParameterBin], rng: np.random.Generator
) -> None:
    space, parameter_bin = drawn
    for _ in range(5):
        member = space.sample(parameter_bin, rng, sampling)
        assert member in space
        assert num_parameters(member) in parameter_bin


@given(spaces_with_bins(), generators)
@settings(deadline=None)
def test_resizing_changes_the_neurons_alone(drawn: tuple[SearchSpace, ParameterBin], rng: np.random.Generator) -> None:
    space, parameter_bin = drawn
    member = space.sample_any(rng)
    target = space.draw_target(parameter_bin, rng)
    resized = space.resize(member, parameter_bin, target)
    if resized is None:
        return
    assert resized in space
    assert num_parameters(resized) in parameter_bin
    assert _without_neurons(resized) == _without_neurons(member)


def _without_neurons(architecture: Architecture) -> Architecture:
    return architecture.with_layers(tuple(replace(spec, intermediate_size=1) for spec in architecture.layers))


def test_resizing_keeps_the_proportions_of_the_layers() -> None:
    space = SearchSpace(teacher=SMOLLM2_135M, layerwise=True)
    member = SMOLLM2_135M.with_layers((layer(9, 3, 64, 200), layer(9, 3, 64, 600)))
    target = num_parameters(member) + 1_000_000
    resized = space.resize(member, ParameterBin.around(target), target)
    assert resized is not None
    first, second = (spec.intermediate_size for spec in resized.layers)
    assert second == pytest.approx(3 * first, abs=2)


def test_resizing_gives_up_where_no_width_fits() -> None:
    space, target = SearchSpace(teacher=SMALL, layerwise=False), num_parameters(SMALL)
    assert space.resize(space.smallest(), ParameterBin.around(target), target) is None


def test_a_bin_that_reaches_past_the_teacher_is_drawn_from_within_it() -> None:
    space, rng = SearchSpace(teacher=SMALL, layerwise=False), np.random.default_rng(0)
    top = num_parameters(SMALL)
    targets = [space.draw_target(ParameterBin(top // 2, 10 * top), rng) for _ in range(100)]
    assert min(targets) >= top // 2
    assert max(targets) <= top


@pytest.mark.parametrize(("layerwise", "num_draws"), [(False, 600), (True, 300)])
def test_sizes_spread_evenly_over_a_bin_with_room(*, layerwise: bool, num_draws: int) -> None:
    """The bin lies at a fifth of the teacher, where nearly every member can be widened or narrowed into it."""
    places = _places_in_bin(SearchSpace(teacher=SMOLLM2_135M, layerwise=layerwise), 0.2, num_draws)
    assert kstest(places, "uniform").pvalue > 0.01
    assert np.mean(np.abs(places - 0.5) > 0.45) < 0.15  # a tenth of the bin


def _places_in_bin(space: SearchSpace, fraction: float, num_draws: int) -> np.ndarray:
    parameter_bin, rng = ParameterBin.around(fraction * num_parameters(space.teacher)), np.random.default_rng(0)
    counts = [num_parameters(space.sample(parameter_bin, rng)) for _ in range(num_draws)]
    return (np.array(counts) - parameter_bin.low) / (parameter_bin.high - parameter_bin.low)


@pytest.mark.parametrize(("layerwise", "fraction"), [(False, 0.5), (True, 0.5), (False, 0.7)])
def test_sizes_spread_evenly_over_bins_that_few_shapes_reach(*, layerwise: bool, fraction: float) -> None:
    places = _places_in_bin(SearchSpace(teacher=SMALL, layerwise=layerwise), fraction, 300)
    assert kstest(places, "uniform").pvalue > 0.01


@pytest.mark.parametrize(("low", "high"), [(1, 10), (10**9, 2 * 10**9)])
def test_unreachable_bins_are_refused_with_the_range(low: int, high: int) -> None:
    space = SearchSpace(teacher=SMOLLM2_135M, layerwise=False)
    reach = f"cannot be reached.*{num_parameters(space.smallest()):,} to 134,515,008 parameters"
    with pytest.raises(ValueError, match=reach):
        space.sample(ParameterBin(low, high), np.random.default_rng(0))


@pytest.mark.parametrize("sampling", ["constructive", "rejection"])
def test_nearly_unreachable_bins_are_refused_with_the_draws(
    sampling: Sampling, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Only the teacher itself has this count."""
    monkeypatch.setattr(space_module, "MAX_DRAWS", 1234)
    space = SearchSpace(teacher=SMOLLM2_135M, layerwise=False)
    with pytest.raises(ValueError, match=rf"1,234 {sampling} draws.*to 134,515,008 parameters.*widen the bin"):
        space.sample(ParameterBin(134_515_008, 134_515_009), np.random.default_rng(0), sampling)


@pytest.mark.parametrize("alignment", [0, 7])
def test_alignments_beyond_the_teacher_are_refused(alignment: int) -> None:
    with pytest.raises(ValueError, match=f"alignment must lie between 1 and 3, got {alignment}"):
        SearchSpace(teacher=TINY, layerwise=False, alignment=alignment)


def test_mixed_teachers_are_refused() -> None:
    with pytest.raises(ValueError, match="same sizes"):
        SearchSpace(teacher=TINY.with_layers((layer(4, 2, 6, 3), layer(1, 1, 6, 3))), layerwise=True)
