"""What members take beside parameters: worked values, and law 2 for bins with limits."""

from contextlib import nullcontext, suppress
from dataclasses import replace
from itertools import product

import numpy as np
import pytest
from evolutions import SMALL, SPACES, TEACHER, run
from hypothesis import given
from hypothesis import strategies as st
from strategies import SMOLLM2_135M, changed, count, decoder, generators, layer, sample_any, spaces

from budwood.arch import sampling as sampling_module
from budwood.arch.balanced import balanced_members
from budwood.arch.bins import ParameterBin, require_disjoint
from budwood.arch.count import forward_flops_per_token, kv_cache_bytes_per_token, num_parameters
from budwood.arch.limits import MEMORY_IN_USE, TOKEN_TIME, Limit, MemoryInUse, TimeTaken
from budwood.arch.population import Population
from budwood.arch.regular import draw_regular
from budwood.arch.sampling import sample
from budwood.arch.space import SearchSpace
from budwood.search.operators import constrain, crossover, mutate, switch_levels
from budwood.search.strategy import open_strategy

MEBIBYTE = 2**20


def memory(teacher, most, *, weight_bits=16, tokens=4096):
    return Limit(MEMORY_IN_USE, float(most), MemoryInUse(teacher, weight_bits, tokens), weight_bits / 8)


def taken_time(teacher, *, context=4096, new=1, batch=1, speed=(1e-4, 5e10, 1e13)):
    names = ("layer_seconds", "bytes_per_second", "flops_per_second")
    read = MemoryInUse(teacher, 16, batch * context)
    return TimeTaken(memory=read, num_tokens=new, batch_size=batch, **dict(zip(names, speed, strict=True)))


def time(teacher, most, **how):
    taken = taken_time(teacher, **how)
    return Limit(TOKEN_TIME, float(most), taken, taken.seconds_per_parameter)


@pytest.mark.parametrize(("weight_bits", "weights"), [(16, 269_030_016), (8, 134_515_008), (4, 67_257_504)])
def test_the_memory_of_smollm2(weight_bits, weights):
    """134,515,008 parameters; 30 layers keep 2 x 3 x 64 values of a token in 2 bytes: 23,040."""
    limit = memory(SMOLLM2_135M, 1, weight_bits=weight_bits)
    assert limit.of(SMOLLM2_135M) == weights + 4096 * 23_040
    assert memory(SMOLLM2_135M, 1, weight_bits=weight_bits, tokens=0).of(SMOLLM2_135M) == weights


def test_the_time_of_smollm2():
    """A token reads 269 MB of weights and 94 MB of keys and values, at 50 GB/s; 30 layers take 0.1 ms each."""
    limit, context = time(SMOLLM2_135M, 0.0025), forward_flops_per_token(SMOLLM2_135M, context=4096)
    assert limit.of(SMOLLM2_135M) == pytest.approx(
        30e-4 + (269_030_016 + 4096 * 23_040) / 5e10 + context / 1e13, rel=1e-4
    )
    assert str(limit) == "time per token of at most 2.5 ms"
    # A prompt reads the weights once, and half of what its tokens see of each other; logits are of the last alone.
    read = time(SMOLLM2_135M, 1, context=0, new=512, speed=(0, np.inf, 1e12))
    causal = 512 * forward_flops_per_token(SMOLLM2_135M, context=512, causal=True) - 511 * 2 * 49_152 * 576
    assert read.of(SMOLLM2_135M) == pytest.approx(causal / 1e12)
    several = time(SMOLLM2_135M, 1, batch=8, speed=(0, 1.0, np.inf))
    assert several.of(SMOLLM2_135M) == 269_030_016 + 8 * 4096 * 23_040


@given(space=spaces(), rng=generators, context=st.integers(0, 5000), new=st.integers(1, 5000), batch=st.integers(1, 9))
def test_operations_of_a_population_are_those_of_its_members(space, rng, context, new, batch):
    members = [sample_any(space, rng).architecture(space.teacher) for _ in range(3)]
    parts = taken_time(space.teacher, context=context, new=new, batch=batch).parts(Population.of(members))
    for (layers, read, flops), each in zip(parts, members, strict=True):
        head = 2 * each.vocab_size * each.hidden_size
        seen = (forward_flops_per_token(each, context=length) - head for length in (context, context + new))
        assert flops == pytest.approx(batch * (new * sum(seen) / 2 + head))
        assert layers == each.num_hidden_layers
        assert read == 2 * num_parameters(each) + batch * context * kv_cache_bytes_per_token(each)


def test_a_bin_in_words_and_what_it_admits():
    limit = memory(SMOLLM2_135M, 256 * MEBIBYTE)
    beside, alone = ParameterBin(1, 2 * 10**8, (limit,)), ParameterBin(1, 2 * 10**8, (limit,), least_load=0.9)
    assert str(beside) == "0.00M-200.00M, memory of at most 256.0 MiB"
    assert str(alone) == "memory of at most 256.0 MiB"
    small = SMOLLM2_135M.with_layers(SMOLLM2_135M.layers[:18])
    taken = 2 * num_parameters(small) + 4096 * 18 * 768
    assert beside.load(small) == pytest.approx(taken / 2**28)
    assert 0.8 < beside.load(small) < 0.9
    assert beside.admits(small)
    assert not alone.admits(small)
    assert not beside.admits(SMOLLM2_135M)
    nothing = Limit("nothing", 1.0, lambda population: np.full(len(population), np.nan), 0.0)
    assert not ParameterBin(1, 2 * 10**8, (nothing,)).admits(small)


def test_bins_with_limits_may_share_parameters():
    free = ParameterBin(1, 10)
    limited = replace(free, limits=(memory(SMOLLM2_135M, 5),))
    require_disjoint({"first": limited, "second": limited, "third": ParameterBin(5, 20)})
    with pytest.raises(ValueError, match=r"'second' .* and 'third' .* overlap"):
        require_disjoint({"first": limited, "second": free, "third": ParameterBin(5, 20)})


@st.composite
def limited(draw, *, alone=None):
    """Draw a space and a bin with a limit that at least one member of four keeps and another may not."""
    space, rng = draw(spaces()), draw(generators)
    drawn = [sample_any(space, rng).architecture(space.teacher) for _ in range(4)]
    tokens = draw(st.sampled_from((0, 1, 50, 5000)))
    limit = memory(space.teacher, 1, weight_bits=draw(st.sampled_from((4, 8, 16, 32))), tokens=tokens)
    if draw(st.booleans()):
        speed = draw(st.sampled_from(((1.0, np.inf, np.inf), (0.0, 1.0, np.inf), (1e-5, 1e9, 1e9))))
        limit = time(space.teacher, 1, context=tokens, new=draw(st.sampled_from((1, 100))), speed=speed)
    most = replace(limit, most=limit.of(drawn[0]))
    if draw(st.booleans()) if alone is None else alone:
        return space, ParameterBin(1, num_parameters(space.teacher) + 1, (most,), least_load=0.9)
    counts = [num_parameters(each) for each in drawn]
    return space, ParameterBin(min(counts), max(counts) + 1, (most,))


def require(space, parameter_bin, member):
    sizes = member.architecture(space.teacher)
    assert member in space
    assert num_parameters(sizes) in parameter_bin
    (limit,) = parameter_bin.limits
    assert parameter_bin.least_load * limit.most <= limit.of(sizes) <= limit.most


@pytest.mark.slow
@pytest.mark.parametrize("sampling", ["constructive", "rejection"])
@given(drawn=limited(), rng=generators)
def test_draws_keep_limits(sampling, drawn, rng):
    """In uniform spaces a member is found wherever there is one."""
    space, parameter_bin = drawn
    sure = sampling == "constructive" and not space.layerwise
    for member in balanced_members(space, parameter_bin, 4, rng):
        require(space, parameter_bin, member)
    with pytest.MonkeyPatch.context() as patch, nullcontext() if sure else suppress(ValueError):
        patch.setattr(sampling_module, "MAX_DRAWS", 1000)
        for _ in range(3):
            require(space, parameter_bin, sample(space, parameter_bin, rng, sampling))


@pytest.mark.slow
@pytest.mark.parametrize("constraint", ["repair", "rejection"])
@given(drawn=limited(), rng=generators)
def test_children_keep_limits(constraint, drawn, rng):
    space, parameter_bin = drawn
    parents = [sample_any(space, rng) for _ in range(4)]
    children = [mutate(parent, space, rng) for parent in parents]
    children += [switch_levels(parent, space, parameter_bin, rng) for parent in parents]
    children += [
        crossover(parents[0], each, space, rng) for each in parents if len(each.layers) == len(parents[0].layers)
    ]
    for child in filter(None, children):
        kept = constrain(child, space, parameter_bin, rng, constraint)
        if kept is not None:
            require(space, parameter_bin, kept)
        if child in space and parameter_bin.admits(child.architecture(space.teacher)):
            assert kept == child


@pytest.mark.slow
@pytest.mark.parametrize("alone", [False, True])
@pytest.mark.parametrize("name", sorted(SPACES))
def test_everything_a_search_asks_for_keeps_the_limit(name, *, alone):
    space = SPACES[name]
    limit = memory(TEACHER, 0.6 * memory(TEACHER, 1, tokens=20).of(TEACHER), tokens=20)
    whole = num_parameters(TEACHER)
    parameter_bin = ParameterBin(1 if alone else whole // 3, whole, (limit,), least_load=0.8 * alone)
    chosen = changed(SMALL, level_switch=0.3, num_balanced=3)
    asked = run(open_strategy(space, parameter_bin, chosen))
    assert len({candidate.key for candidate in asked}) == chosen.num_evaluations
    for candidate in asked:
        require(space, parameter_bin, candidate.selection)


@pytest.mark.slow
@pytest.mark.parametrize("layerwise", [False, True])
def test_a_bin_of_memory_alone_is_filled(*, layerwise):
    space, rng = SearchSpace(teacher=SMOLLM2_135M, layerwise=layerwise), np.random.default_rng(0)
    limit = memory(SMOLLM2_135M, 128 * MEBIBYTE)
    parameter_bin = ParameterBin(1, num_parameters(SMOLLM2_135M), (limit,), least_load=0.9)
    members = [sample(space, parameter_bin, rng) for _ in range(30)]
    balanced = balanced_members(space, parameter_bin, 4, rng)
    assert len(balanced) > 1
    for member in members + balanced:
        require(space, parameter_bin, member)
    sizes = [member.architecture(SMOLLM2_135M) for member in members]
    # Those that cache less have more parameters.
    assert np.corrcoef([count(space, m) for m in members], [kv_cache_bytes_per_token(s) for s in sizes])[0, 1] < -0.8


def test_a_member_at_the_edge_is_found_one_by_one():
    teacher = decoder("llama", 31, 64, *[layer(4, 2, 16, 48)] * 3)
    space = SearchSpace(teacher=teacher, layerwise=False, alignment=16)
    limit = memory(teacher, 30_000, tokens=100)
    specs = [layer(g * q, g, dim, n) for g, q, dim, n in product((1, 2), (1, 2), range(4, 17, 2), (16, 32, 48))]
    members = [
        replace(teacher, hidden_size=hidden, layers=(spec,) * depth)
        for hidden, spec, depth in product(space.hidden_sizes, specs, (1, 2, 3))
    ]
    kept = [num_parameters(member) for member in members if limit.of(member) <= 30_000]
    assert 0 < len(kept) < len(members)
    top = ParameterBin(max(kept), max(kept) + 1, (limit,))
    found = draw_regular(space, top, np.random.default_rng(0))
    assert num_parameters(found[0]) == max(kept)
    assert limit.of(found[0]) <= 30_000
    assert num_parameters(sample(space, top, np.random.default_rng(0)).architecture(teacher)) == max(kept)
    beyond = ParameterBin(max(kept) + 1, num_parameters(teacher), (limit,))
    assert draw_regular(space, beyond, np.random.default_rng(0)) is None
    with pytest.raises(ValueError, match=r"memory of at most 29.30 KiB.*the lightest of \d+ draws takes 1\d\d%"):
        sample(space, beyond, np.random.default_rng(0))


def test_what_no_member_can_keep_is_refused_with_the_least():
    space = SearchSpace(teacher=SMOLLM2_135M, layerwise=True)
    smallest = memory(SMOLLM2_135M, 1).of(space.smallest())
    tight = ParameterBin(1, 10**8, (memory(SMOLLM2_135M, smallest - 1, tokens=4096),))
    with pytest.raises(
        ValueError, match=r"memory of .* cannot be met: no member of this bin takes less than [\d.]+ KiB"
    ):
        sample(space, tight, np.random.default_rng(0))
    # 60 million parameters take 114.44 MiB, and a layer with one head of 4 dimensions caches 64 KiB.
    many = ParameterBin(60_000_000, 70_000_000, (memory(SMOLLM2_135M, 114 * MEBIBYTE),))
    with pytest.raises(ValueError, match=r"at most 114.0 MiB cannot be met: no member .* takes less than 114.5 MiB"):
        sample(space, many, np.random.default_rng(0))
    loose = ParameterBin(1, 10**9, (memory(SMOLLM2_135M, 10**9),), least_load=0.9)
    with pytest.raises(ValueError, match=r"largest sub-network of this space takes 36% of that"):
        sample(space, loose, np.random.default_rng(0))
