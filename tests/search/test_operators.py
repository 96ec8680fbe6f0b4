"""Law 2 for operators: children stay in the space, change what they should and nothing else."""

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from strategies import generators, layer, llama, spaces, spaces_with_bins

from budwood.arch.bins import ParameterBin
from budwood.arch.count import num_parameters
from budwood.arch.space import SearchSpace
from budwood.arch.spec import Architecture, LayerSpec
from budwood.search.operators import GENES, Constraint, constrain, crossover, mutate

TEACHER = llama(32, 16, *[layer(6, 3, 8, 12)] * 4)


def changed_genes(parent: Architecture, child: Architecture) -> set[str]:
    """Return the genes in which a child differs from its parent."""
    depth = min(parent.num_hidden_layers, child.num_hidden_layers)
    pairs = list(zip(parent.layers[:depth], child.layers[:depth], strict=True))
    views: dict[str, Callable[[LayerSpec], object]] = {
        "heads": lambda spec: (spec.num_attention_heads, spec.num_key_value_heads),
        "head_dim": lambda spec: spec.head_dim,
        "intermediate_size": lambda spec: spec.intermediate_size,
    }
    changed = {name for name, view in views.items() if any(view(one) != view(other) for one, other in pairs)}
    changed |= {"hidden_size"} if parent.hidden_size != child.hidden_size else set()
    return changed | ({"num_hidden_layers"} if len(parent.layers) != len(child.layers) else set())


@given(spaces(), generators)
@settings(deadline=None)
def test_mutants_are_members_that_differ_in_one_gene(space: SearchSpace, rng: np.random.Generator) -> None:
    parent = space.sample_any(rng)
    for _ in range(10):
        child = mutate(parent, space, rng)
        assert child in space
        assert len(changed_genes(parent, child)) <= 1
        if space.layerwise and len(parent.layers) == len(child.layers):
            assert sum(one != other for one, other in zip(parent.layers, child.layers, strict=True)) <= 1


@pytest.mark.parametrize("layerwise", [False, True])
def test_every_gene_mutates_to_both_ends(*, layerwise: bool) -> None:
    space, rng = SearchSpace(teacher=TEACHER, layerwise=layerwise), np.random.default_rng(0)
    parent = TEACHER.with_layers((layer(2, 2, 6, 7),) * 2)
    children = [mutate(replace(parent, hidden_size=9), space, rng) for _ in range(1500)]
    specs = [spec for child in children for spec in child.layers]
    assert {gene for child in children for gene in changed_genes(replace(parent, hidden_size=9), child)} == set(GENES)
    assert {child.num_hidden_layers for child in children} == {1, 2, 3, 4}
    assert {child.hidden_size for child in children} == set(range(1, 17))
    assert {(spec.num_key_value_heads, spec.heads_per_group) for spec in specs} == set(space.head_choices)
    assert {spec.head_dim for spec in specs} == {4, 6, 8}
    assert {spec.intermediate_size for spec in specs} == set(range(1, 13))


@pytest.mark.parametrize("layerwise", [False, True])
def test_depth_grows_at_the_end_and_shrinks_from_the_end(*, layerwise: bool) -> None:
    """New layers are drawn freshly where layers differ, and repeat the others where they do not."""
    space, rng = SearchSpace(teacher=TEACHER, layerwise=layerwise), np.random.default_rng(0)
    own = (layer(2, 2, 6, 7), layer(3, 1, 4, 5) if layerwise else layer(2, 2, 6, 7))
    children = [mutate(TEACHER.with_layers(own), space, rng) for _ in range(600)]
    deeper = [child.layers for child in children if len(child.layers) > 2]
    shallower = [child.layers for child in children if len(child.layers) < 2]
    assert min(len(deeper), len(shallower)) > 20
    assert all(layers[:2] == own for layers in deeper)
    assert all(layers == own[:1] for layers in shallower)
    added = {spec for layers in deeper for spec in layers[2:]}
    assert len(added) > 50 if layerwise else added == {own[0]}


@given(spaces(), generators)
@settings(deadline=None)
def test_crossing_takes_every_gene_from_either_parent(space: SearchSpace, rng: np.random.Generator) -> None:
    first = space.sample_any(rng)
    second = space.sample_any(rng)
    while len(second.layers) != len(first.layers):
        second = space.sample_any(rng)
    child = crossover(first, second, space, rng)
    assert child in space
    assert child.hidden_size in {first.hidden_size, second.hidden_size}
    assert len(child.layers) == len(first.layers)
    for spec, *parents in zip(child.layers, first.layers, second.layers, strict=True):
        heads = {(parent.num_attention_heads, parent.num_key_value_heads) for parent in parents}
        assert (spec.num_attention_heads, spec.num_key_value_heads) in heads
        assert spec.head_dim in {parent.head_dim for parent in parents}
        assert spec.intermediate_size in {parent.intermediate_size for parent in parents}


@pytest.mark.parametrize(("layerwise", "num_children"), [(False, 2**4), (True, 2**7)])
def test_crossing_makes_every_combination(*, layerwise: bool, num_children: int) -> None:
    """Hidden size, heads with groups, head dimension and neurons fall independently, in layer-wise spaces per layer."""
    space, rng = SearchSpace(teacher=TEACHER, layerwise=layerwise), np.random.default_rng(0)
    first = replace(TEACHER, hidden_size=5, layers=(layer(6, 3, 8, 12),) * 2)
    second = replace(TEACHER, hidden_size=9, layers=(layer(2, 1, 4, 3),) * 2)
    assert len({crossover(first, second, space, rng) for _ in range(2000)}) == num_children


def test_crossing_refuses_unequal_depths() -> None:
    space = SearchSpace(teacher=TEACHER, layerwise=True)
    with pytest.raises(ValueError, match="equal depth, got 4 and 1"):
        crossover(TEACHER, space.smallest(), space, np.random.default_rng(0))


@pytest.mark.parametrize("constraint", ["repair", "rejection"])
@given(drawn=spaces_with_bins(), rng=generators)
@settings(deadline=None)
def test_constrained_children_lie_in_the_space_and_in_the_bin(
    constraint: Constraint, drawn: tuple[SearchSpace, ParameterBin], rng: np.random.Generator
) -> None:
    space, parameter_bin = drawn
    child = mutate(space.sample_any(rng), space, rng)
    kept = constrain(child, space, parameter_bin, rng, constraint)
    if num_parameters(child) in parameter_bin:
        assert kept == child
    elif constraint == "rejection":
        assert kept is None
    elif kept is not None:
        assert kept in space
        assert num_parameters(kept) in parameter_bin


def test_repair_saves_children_that_rejection_loses() -> None:
    space, rng = SearchSpace(teacher=TEACHER, layerwise=True), np.random.default_rng(0)
    parameter_bin = ParameterBin.around(0.4 * num_parameters(TEACHER))
    children = [space.sample_any(rng) for _ in range(300)]
    saved = {
        constraint: sum(constrain(child, space, parameter_bin, rng, constraint) is not None for child in children)
        for constraint in ("repair", "rejection")
    }
    assert saved["repair"] > 2 * saved["rejection"] > 0
