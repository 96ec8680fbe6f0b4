"""Shared first layers run once: what is held is what is needed, and no bit changes."""

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st
from teachers import DEPTH, across, select

from budwood.arch.count import forward_flops_per_token, layer_flops_per_token, num_parameters
from budwood.arch.selection import Selection
from budwood.subnet.evaluate import SubnetEvaluator
from budwood.subnet.reuse import families, walk

llama_only = pytest.mark.parametrize("teacher", ["llama tied"], indirect=True)
paths_of_candidates = st.lists(
    st.lists(st.integers(0, 2), min_size=1, max_size=5).map(lambda layers: ["root", *layers]), max_size=8
)


@given(paths_of_candidates)
def test_a_walk_runs_every_beginning_once_and_holds_what_it_needs(paths: list[list[object]]) -> None:
    """States are played through as the layers that they are the result of."""
    held: dict[int, list[object]] = {}
    run = []
    for visit in walk(paths):
        layers = paths[visit.place][1:]
        held = {depth: states for depth, states in held.items() if depth <= visit.shared}
        assert visit.shared == 0 or held[visit.shared] == layers[: visit.shared]
        held |= {depth: layers[:depth] for depth in visit.held}
        run += [tuple(layers[:depth]) for depth in range(visit.shared + 1, len(layers) + 1)]
    assert sorted(visit.place for visit in walk(paths)) == list(range(len(paths)))
    beginnings = {tuple(path[1:end]) for path in paths for end in range(2, len(path) + 1)}
    assert len(run) == len(set(run)) == len(beginnings)


@given(paths_of_candidates, st.integers(1, 3))
def test_no_more_is_held_than_may_be_and_candidates_resume_at_what_is(paths: list[list[object]], most: int) -> None:
    held: dict[int, list[object]] = {}
    for visit in walk(paths, most):
        layers = paths[visit.place][1:]
        held = {depth: states for depth, states in held.items() if depth <= visit.shared}
        assert visit.shared == 0 or held[visit.shared] == layers[: visit.shared]
        held |= {depth: layers[:depth] for depth in visit.held}
        assert len(held) <= most
    assert sorted(visit.place for visit in walk(paths, most)) == list(range(len(paths)))


def test_where_too_much_would_be_held_the_fewest_layers_are_run_again() -> None:
    """Of the depths 1, 4 and 5 it costs one layer to do without 1 or 5, and three to do without 4."""
    base = [0, 1, 2, 3, 4, 5, 6]
    paths = [base, *([*base[:depth], 9] for depth in (6, 5, 2))]
    assert [visit.shared for visit in walk(paths)] == [0, 5, 4, 1]
    assert [visit.shared for visit in walk(paths, 2)] == [0, 5, 4, 0]
    assert [visit.held for visit in walk(paths, 2)] == [(5, 4), (), (), ()]


def test_a_worked_walk() -> None:
    """Three candidates branch off the second, after two, one and two layers; another root shares nothing."""
    paths = [[0, 1, 2, 3], [0, 1, 5], [0, 1, 2, 4], [9, 1, 2, 3]]
    turns = [(visit.place, visit.shared, visit.held) for visit in walk(paths)]
    assert turns == [(0, 0, (2, 1)), (2, 2, ()), (1, 1, ()), (3, 0, ())]
    assert families(paths, 8) == [[0, 2, 1], [3]]
    assert families(paths, 2) == [[0, 2], [1], [3]]


def mutants(parent: Selection) -> list[Selection]:
    """Return candidates that differ from a parent in one layer, and one that lacks the last in depth or in rank."""
    changed = [
        replace(
            parent,
            layers=tuple(
                replace(layer, neurons=range(len(layer.neurons) - 1)) if place == position else layer
                for place, layer in enumerate(parent.layers)
            ),
        )
        for position in range(len(parent.layers))
    ]
    return [parent, *changed, replace(parent, layers=parent.layers[:-1])]


@pytest.mark.slow
@pytest.mark.parametrize(("teacher", "layerwise"), across([False, True]), indirect=["teacher"])
def test_losses_are_the_same_to_the_last_bit(orders, layerwise, windows):
    teacher = orders["magnitude", "preserve"]
    queries = teacher.architecture.layers[0].heads_per_group
    sizes = [(3, queries, 12, 24)] + [(2, 1, 16, 31), (1, queries, 8, 17), (3, 1, 10, 40)] * layerwise
    candidates = mutants(select(33, list(range(DEPTH)), *sizes))
    shared, alone = (
        dict(SubnetEvaluator(teacher=teacher, windows=windows, reuse=reuse)(candidates, slice(1, 6)))
        for reuse in (True, False)
    )
    for place, candidate in enumerate(candidates):
        assert shared[place].sequence_losses == alone[place].sequence_losses
        assert shared[place].flops_per_token == alone[place].flops_per_token
        assert alone[place].flops == 5 * 24 * forward_flops_per_token(
            candidate.architecture(teacher.architecture), context=24
        )
    assert sum(entry.flops for entry in shared.values()) < 0.95 * sum(entry.flops for entry in alone.values())


@llama_only
def test_spared_flops_are_those_of_the_shared_layers(orders, windows):
    teacher = orders["magnitude", "preserve"]
    parent = select(33, [0, 1, 2], (3, 2, 12, 24), (2, 1, 16, 31), (1, 2, 8, 17))
    deepest = max(parent.layers, key=lambda layer: teacher.ranking[layer.layer])
    other = replace(
        parent,
        layers=tuple(replace(layer, neurons=range(5)) if layer is deepest else layer for layer in parent.layers),
    )
    first, second = (made for _, made in SubnetEvaluator(teacher=teacher, windows=windows)([parent, other]))
    sizes = other.architecture(teacher.architecture)
    kept = [layer.spec for layer in other.layers if layer.layer != deepest.layer]
    spared = layer_flops_per_token(sizes, *kept, context=24)
    assert first.flops == 6 * 24 * forward_flops_per_token(parent.architecture(teacher.architecture), context=24)
    assert second.flops == 6 * 24 * (forward_flops_per_token(sizes, context=24) - spared)
    assert num_parameters(sizes) < num_parameters(parent.architecture(teacher.architecture))


@llama_only
def test_candidates_that_share_first_layers_stay_together(orders, windows):
    teacher = orders["magnitude", "preserve"]
    evaluator = SubnetEvaluator(teacher=teacher, windows=windows)
    parent = select(33, list(range(DEPTH)), (3, 2, 12, 24))
    candidates = [*mutants(parent), replace(parent, hidden=range(20))]
    groups = evaluator.groups(candidates)
    assert sorted(place for group in groups for place in group) == list(range(len(candidates)))
    assert [len(candidates) - 1] in groups
    assert len(groups) < len(candidates)
    assert replace(evaluator, reuse=False).groups(candidates) == [[place] for place in range(len(candidates))]
