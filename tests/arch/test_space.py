"""Spaces know their members and how many there are."""

import itertools
import math
import time
from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from strategies import (
    GRANULARITIES,
    KINDS,
    SMOLLM2_135M,
    architectures,
    count,
    decoder,
    generators,
    layer,
    llama,
    members,
    pythia,
    sample_any,
    spaces,
)

from budwood.arch.bins import ParameterBin
from budwood.arch.config import stock_family
from budwood.arch.count import num_parameters
from budwood.arch.family import family_of
from budwood.arch.sampling import sample
from budwood.arch.selection import Indices, LayerSelection, Selection
from budwood.arch.space import Granularity, SearchSpace, log10_paper_size
from budwood.arch.spec import Architecture

PYTHIA_69B = pythia(50432, 32, 4096, 32)
PYTHIA_12B = pythia(50688, 36, 5120, 40)
TINY = llama(5, 4, *[layer(4, 2, 6, 3)] * 2)
MIXED = llama(5, 2, layer(2, 2, 4, 2), layer(2, 1, 2, 3))
NEOX = decoder("gpt_neox", 5, 8, layer(2, 2, 6, 2))
GEMMA = decoder("gemma2", 5, 6, *[layer(4, 2, 4, 2)] * 2)


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
    *, granularity: Granularity, layerwise: bool, size_69b: float, size_12b: float, digits: float
) -> None:
    sizes = [log10_paper_size(teacher, granularity, layerwise=layerwise) for teacher in (PYTHIA_69B, PYTHIA_12B)]
    assert sizes == pytest.approx([size_69b, size_12b], abs=digits)
    space = SearchSpace(teacher=PYTHIA_69B, granularity=granularity, layerwise=layerwise)
    assert space.log10_size("paper") == sizes[0]


def test_grouped_queries_leave_few_legal_heads() -> None:
    """The audit's example: SmolLM2-135M has 3 x 3 pairs of groups and queries."""
    heads = {
        (spec.num_key_value_heads, spec.heads_per_group)
        for spec in SearchSpace(teacher=SMOLLM2_135M, layerwise=False).choices[0].attentions()
    }
    assert heads == set(itertools.product((1, 2, 3), repeat=2))


@pytest.mark.slow
@pytest.mark.parametrize("granularity", GRANULARITIES)
@pytest.mark.parametrize(
    ("teacher", "layerwise", "alignment", "native_only"),
    [
        (TINY, False, 1, False),
        (TINY, False, 2, False),
        (TINY, False, 1, True),
        (MIXED, False, 1, False),
        (MIXED, False, 2, False),
        (MIXED, True, 1, False),
        (MIXED, True, 2, False),
        (NEOX, False, 1, True),
        (NEOX, False, 2, True),
        (GEMMA, False, 1, True),
        (GEMMA, False, 2, True),
    ],
)
def test_size_and_reach_are_those_of_all_members(
    *, granularity: Granularity, teacher: Architecture, layerwise: bool, alignment: int, native_only: bool
) -> None:
    """Every selection from the teacher is tried, of a uniform space from the longest axes of all layers."""
    space = SearchSpace(
        teacher=teacher, granularity=granularity, layerwise=layerwise, alignment=alignment, native_only=native_only
    )
    found = {selection.key(): count(space, selection) for selection in _selections(space) if selection in space}
    assert math.log10(len(found)) == pytest.approx(space.log10_size(), abs=1e-12)
    assert (min(found.values()), max(found.values())) == space.reach


def _selections(space: SearchSpace) -> Iterator[Selection]:
    teacher = space.teacher
    for ranks in _index_sets(space, teacher.num_hidden_layers):
        if space.layerwise:
            stacks = itertools.product(*[list(_layers(space, rank)) for rank in ranks])
        else:
            stacks = (tuple(replace(kept, layer=rank) for rank in ranks) for kept in _layers(space, 0))
        for layers, hidden in itertools.product(stacks, list(_index_sets(space, teacher.hidden_size))):
            yield Selection(hidden=hidden, layers=layers)


def _layers(space: SearchSpace, rank: int) -> Iterator[LayerSelection]:
    specs = space.teacher.layers[rank : rank + 1] if space.layerwise else space.teacher.layers
    lengths = [
        max(spec.num_key_value_heads for spec in specs),
        max(spec.heads_per_group for spec in specs),
        max(spec.head_dim for spec in specs) // 2,
        max(spec.intermediate_size for spec in specs),
    ]
    for groups, queries, pairs, neurons in itertools.product(*[list(_index_sets(space, length)) for length in lengths]):
        yield LayerSelection(layer=rank, groups=groups, queries=queries, pairs=pairs, neurons=neurons)


def _index_sets(space: SearchSpace, length: int) -> Iterator[Indices]:
    for size in range(1, length + 1):
        yield from (range(size),) if space.granularity == "coarse" else itertools.combinations(range(length), size)


@pytest.mark.slow
def test_large_tied_spaces_are_counted_in_seconds() -> None:
    """Gemma-2-2B has 1,016 attentions and up to 2,304 hidden sizes around each."""
    teacher = decoder("gemma2", 256_000, 2304, *[layer(8, 4, 256, 9216)] * 26)
    space = SearchSpace(teacher=teacher, granularity="fine", layerwise=False, native_only=True)
    started = time.perf_counter()
    # 2^9216 sets of neurons and 2^26 of layers; the rest is attention and hidden channels.
    assert 0 < space.log10_size() - (9216 + 26) * math.log10(2) < 2304
    assert time.perf_counter() - started < 20


@pytest.mark.parametrize("granularity", GRANULARITIES)
def test_stock_classes_that_accept_any_heads_take_nothing_away(granularity: Granularity) -> None:
    """Llama has a stand-in for what its own class refuses."""
    free, native = (
        SearchSpace(teacher=SMOLLM2_135M, granularity=granularity, layerwise=False, native_only=native_only)
        for native_only in (False, True)
    )
    assert native.log10_size() == free.log10_size()
    assert native.reach == free.reach


@given(spaces(), generators)
def test_members_lie_between_smallest_and_largest(space: SearchSpace, rng: np.random.Generator) -> None:
    for _ in range(10):
        member = sample_any(space, rng)
        assert member in space
        assert space.reach[0] <= count(space, member) <= space.reach[1]


@given(architectures())
def test_a_whole_teacher_is_the_largest_of_its_layerwise_spaces(teacher: Architecture) -> None:
    for granularity in GRANULARITIES:
        space = SearchSpace(teacher=teacher, granularity=granularity, layerwise=True)
        assert Selection.prefix(teacher) in space
        assert space.largest() == teacher
    assert (Selection.prefix(teacher) in SearchSpace(teacher=teacher, layerwise=False)) == teacher.is_uniform


@given(members())
def test_selections_beyond_the_teacher_are_no_members(drawn: tuple[SearchSpace, Selection]) -> None:
    space, member = drawn
    teacher, first = space.teacher, member.layers[0]
    spec = space.pool.layers[first.layer]
    lengths = {
        "groups": spec.num_key_value_heads,
        "queries": spec.heads_per_group,
        "pairs": spec.head_dim // 2,
        "neurons": spec.intermediate_size,
    }
    outside = [
        replace(member, hidden=range(teacher.hidden_size + space.alignment)),
        replace(member, hidden=(teacher.hidden_size,)),
        replace(member, layers=(*member.layers, replace(first, layer=teacher.num_hidden_layers))),
        *(
            replace(member, layers=tuple(replace(kept, **{axis: beyond}) for kept in member.layers))
            for axis, length in lengths.items()
            for beyond in (range(length + 1), (length,))
            if space.layerwise is False or len(member.layers) == 1
        ),
    ]
    assert not any(selection in space for selection in outside)


@pytest.mark.parametrize(("granularity", "layerwise"), KINDS)
def test_what_makes_a_member(*, granularity: Granularity, layerwise: bool) -> None:
    """Only fine spaces take others than the first entries, only layer-wise ones let layers differ."""
    space = SearchSpace(teacher=TINY, granularity=granularity, layerwise=layerwise)
    whole = Selection.prefix(TINY)
    first, second = whole.layers
    fine = granularity == "fine"
    assert whole in space
    assert (replace(whole, hidden=(3, 1)) in space) == fine
    assert (replace(whole, layers=(second,)) in space) == fine
    assert (replace(whole, layers=(second, first)) in space) == fine
    assert (replace(whole, layers=(first, replace(second, groups=range(1)))) in space) == layerwise
    assert (replace(whole, layers=(first, replace(second, neurons=(0, 2)))) in space) == (fine and layerwise)
    assert replace(whole, layers=(replace(first, pairs=range(1)),)) not in space


@pytest.mark.parametrize("granularity", GRANULARITIES)
@pytest.mark.parametrize("alignment", [1, 4])
@pytest.mark.parametrize("family", ["gpt_neox", "gemma2"])
def test_native_members_are_what_stock_classes_express(family: str, alignment: int, granularity: Granularity) -> None:
    spec = layer(6, 6, 8, 64) if family == "gpt_neox" else layer(6, 3, 8, 64)
    teacher = decoder(family, 32, 48, *[spec] * 3)
    space = SearchSpace(
        teacher=teacher, granularity=granularity, layerwise=False, alignment=alignment, native_only=True
    )
    free, rng = replace(space, native_only=False), np.random.default_rng(0)
    parameter_bin = ParameterBin.around(0.4 * num_parameters(teacher), 0.2)
    drawn = [sample_any(space, rng) for _ in range(100)] + [sample(space, parameter_bin, rng) for _ in range(50)]
    for member in drawn:
        spec = member.layers[0].spec
        assert stock_family(family_of(family), hidden_size=len(member.hidden), layer=spec)
        heads = spec.num_attention_heads
        assert len(member.hidden) % heads == 0
        assert family == "gemma2" or len(member.hidden) == heads * spec.head_dim
    # All that stock classes express is a member, all else is not.
    for member in [sample_any(free, rng) for _ in range(300)]:
        expressible = stock_family(family_of(family), hidden_size=len(member.hidden), layer=member.layers[0].spec)
        assert (member in space) == (expressible is not None)


@pytest.mark.parametrize(("granularity", "layerwise"), KINDS)
@pytest.mark.parametrize("alignment", [64, 128])
def test_widths_are_aligned(*, granularity: Granularity, layerwise: bool, alignment: int) -> None:
    space = SearchSpace(teacher=SMOLLM2_135M, granularity=granularity, layerwise=layerwise, alignment=alignment)
    parameter_bin, rng = ParameterBin.around(0.4 * num_parameters(SMOLLM2_135M)), np.random.default_rng(0)
    for member in [sample(space, parameter_bin, rng) for _ in range(5)] + [sample_any(space, rng) for _ in range(5)]:
        assert len(member.hidden) % alignment == 0
        assert all(len(kept.neurons) % alignment == 0 for kept in member.layers)


@pytest.mark.parametrize(("low", "high"), [(1, 10), (10**9, 2 * 10**9)])
@pytest.mark.parametrize(("granularity", "layerwise"), KINDS)
def test_unreachable_bins_are_refused_with_the_range(
    *, granularity: Granularity, layerwise: bool, low: int, high: int
) -> None:
    space = SearchSpace(teacher=SMOLLM2_135M, granularity=granularity, layerwise=layerwise)
    smallest = num_parameters(llama(49152, 1, layer(1, 1, 4, 1)))
    with pytest.raises(ValueError, match=f"cannot be reached.*{smallest:,} to 134,515,008 parameters"):
        space.require_reachable(ParameterBin(low, high))


@pytest.mark.parametrize("alignment", [0, 4])
def test_alignments_beyond_the_teacher_are_refused(alignment: int) -> None:
    with pytest.raises(ValueError, match=f"alignment must lie between 1 and 3, got {alignment}"):
        SearchSpace(teacher=TINY, layerwise=False, alignment=alignment)


def test_native_layerwise_spaces_are_refused() -> None:
    with pytest.raises(ValueError, match=r"native_only: .* set layerwise: false"):
        SearchSpace(teacher=TINY, layerwise=True, native_only=True)


def test_native_spaces_without_a_member_are_refused() -> None:
    """Heads of even dimensions never add up to five channels, nor can four dimensions fill fewer channels."""
    with pytest.raises(ValueError, match=r"native_only: no heads .* alignment=5 within hidden_size=8"):
        SearchSpace(
            teacher=decoder("gpt_neox", 5, 8, layer(2, 2, 4, 9)), layerwise=False, native_only=True, alignment=5
        )
    with pytest.raises(ValueError, match=r"native_only: no heads .* alignment=1 within hidden_size=3"):
        SearchSpace(teacher=decoder("gpt_neox", 5, 3, layer(2, 2, 4, 9)), layerwise=False, native_only=True)
