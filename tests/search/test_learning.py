"""Searches that are led by losses find what they look for, sooner than those that are not."""

import itertools
from collections import Counter
from dataclasses import replace

import pytest
from evolutions import FIFTH, TEACHER, UNIFORM, distance, run
from strategies import changed, count

from budwood.arch.bins import ParameterBin
from budwood.arch.count import num_parameters
from budwood.arch.selection import LayerSelection, Selection
from budwood.arch.space import SearchSpace
from budwood.search.settings import SearchSettings
from budwood.search.strategy import open_strategy


@pytest.mark.slow
def test_guided_searches_find_the_optimum_more_often_than_random_search() -> None:
    """Five optima spread over the 1,160 members of a bin, a seed for each, 140 evaluations to find it.

    Local search has 80, for its neighbourhoods are used up by then.
    """
    legal = UNIFORM.choices[0]
    specs = [
        replace(spec, intermediate_size=neurons)
        for spec, neurons in itertools.product(legal.attentions(), legal.intermediate_sizes)
    ]
    sizes = (
        replace(TEACHER, hidden_size=hidden, layers=(spec,) * depth)
        for spec, hidden, depth in itertools.product(specs, UNIFORM.hidden_sizes, UNIFORM.num_layers_choices)
    )
    inside = [member for member in sizes if num_parameters(member) in FIFTH]
    assert len(inside) == 1160
    evolving = SearchSettings(
        population=20, epochs=6, num_elites=10, num_mutants=14, num_crossovers=1, num_randoms=5, probability=1.0
    )
    searches = {
        "evolution": evolving,
        "switching": changed(evolving, level_switch=0.5),
        "screened": changed(evolving, screening=3),
        "local": changed(evolving, strategy="local", epochs=3),
        "random": changed(evolving, strategy="random"),
    }
    assert {name: chosen.num_evaluations for name, chosen in searches.items()} == dict.fromkeys(searches, 140) | {
        "local": 80
    }
    hits = Counter[str]()
    for seed, optimum in enumerate(inside[50:800:150]):
        for name, chosen in searches.items():
            asked = run(
                open_strategy(UNIFORM, FIFTH, changed(chosen, seed=seed)),
                lambda selection, optimum=optimum: distance(selection.architecture(TEACHER), optimum),
            )
            hits[name] += any(candidate.selection == Selection.prefix(optimum) for candidate in asked)
    assert min(hits["evolution"], hits["switching"]) >= hits["random"] + 3, hits
    assert hits["screened"] >= hits["evolution"], hits
    assert hits["local"] > hits["random"], hits


@pytest.mark.slow
@pytest.mark.parametrize("layerwise", [False, True])
def test_fine_evolution_learns_which_entries_to_keep(*, layerwise: bool) -> None:
    """The loss counts in how many entries a candidate differs from a hidden one that keeps every other entry."""
    space = SearchSpace(teacher=TEACHER, granularity="fine", layerwise=layerwise)
    first = LayerSelection(layer=1, groups=(0, 2), queries=(1,), pairs=(0, 2), neurons=tuple(range(0, 12, 2)))
    optimum = Selection(hidden=tuple(range(0, 16, 2)), layers=(first, replace(first, layer=3)))

    def loss(selection: Selection) -> float:
        return float(sum(len(kept ^ best) for kept, best in zip(_sets(selection), _sets(optimum), strict=True)))

    evolving = SearchSettings(
        population=20, epochs=10, num_elites=6, num_mutants=16, num_crossovers=1, num_randoms=3, probability=1.0
    )
    unguided = changed(evolving, strategy="random")
    parameter_bin = ParameterBin.around(count(space, optimum), 0.2)
    evolved, drawn = (
        [
            min(loss(candidate.selection) for candidate in run(open_strategy(space, parameter_bin, chosen), loss))
            for chosen in (changed(sizes, seed=seed) for seed in range(3))
        ]
        for sizes in (evolving, unguided)
    )
    assert max(evolved) < min(drawn)


def _sets(selection: Selection) -> list[set[int]]:
    """Return the layers, the channels, and what the first layer keeps."""
    first = selection.layers[0]
    axes = (first.groups, first.queries, first.pairs, first.neurons)
    return [{kept.layer for kept in selection.layers}, set(selection.hidden), *map(set, axes)]
