"""Evolution: what it asks for, what it keeps, that it learns, and that a seed fixes it."""

import itertools
import random
from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from strategies import layer, llama

from budwood.arch.bins import ParameterBin
from budwood.arch.count import num_parameters
from budwood.arch.space import Sampling, SearchSpace
from budwood.arch.spec import Architecture
from budwood.search.candidate import Candidate, canonical_key
from budwood.search.operators import Constraint
from budwood.search.strategy import Evolution, EvolutionSettings, ProbabilityReading

TEACHER = llama(32, 16, *[layer(6, 3, 8, 12)] * 4)
UNIFORM = SearchSpace(teacher=TEACHER, layerwise=False)
LAYERWISE = SearchSpace(teacher=TEACHER, layerwise=True)
HALF = ParameterBin.around(0.5 * num_parameters(TEACHER), 0.2)
FIFTH = ParameterBin.around(0.2 * num_parameters(TEACHER), 0.1)
SMALL = EvolutionSettings(population=8, epochs=4, num_elites=4, num_mutants=3, num_crossovers=3, num_randoms=2)


def distance(architecture: Architecture, optimum: Architecture) -> float:
    """Return a synthetic loss: how far the mean sizes of the layers are from those of an optimum."""
    return float(np.abs(np.log(_mean_sizes(architecture)) - np.log(_mean_sizes(optimum))).sum())


def _mean_sizes(architecture: Architecture) -> np.ndarray:
    layers = [
        (spec.num_attention_heads, spec.num_key_value_heads, spec.head_dim, spec.intermediate_size)
        for spec in architecture.layers
    ]
    return np.array([architecture.hidden_size, len(layers), *np.mean(layers, axis=0)])


def run(strategy: Evolution, optimum: Architecture = TEACHER) -> list[Candidate]:
    """Run a strategy on the synthetic loss and return all it asked for."""
    asked: list[Candidate] = []
    while not strategy.done:
        generation = strategy.ask()
        strategy.tell([(candidate, distance(candidate.architecture, optimum)) for candidate in generation])
        asked += generation
    return asked


def test_the_papers_sizes_make_5050_evaluations() -> None:
    assert EvolutionSettings().num_evaluations == 5050
    assert EvolutionSettings(probability_reading="share").num_evaluations == 5050
    assert EvolutionSettings(probability_reading="share").offspring == {"mutation": 10, "crossover": 10, "random": 30}


@pytest.mark.parametrize("space", [UNIFORM, LAYERWISE], ids=["uniform", "layerwise"])
@pytest.mark.parametrize("reading", ["gate", "share"])
@pytest.mark.parametrize(("sampling", "constraint"), [("constructive", "repair"), ("rejection", "rejection")])
def test_everything_asked_is_new_and_in_the_bin(
    space: SearchSpace, reading: ProbabilityReading, sampling: Sampling, constraint: Constraint
) -> None:
    chosen = replace(SMALL, probability_reading=reading, sampling=sampling, constraint=constraint)
    asked = run(Evolution(space, HALF, chosen))
    assert len({candidate.key for candidate in asked}) == len(asked) == chosen.num_evaluations
    assert all(candidate.architecture in space for candidate in asked)
    assert all(num_parameters(candidate.architecture) in HALF for candidate in asked)
    origins, offspring = Counter(candidate.origin for candidate in asked), chosen.offspring
    assert origins["initial"] == chosen.population
    assert 0 < origins["mutation"] <= chosen.epochs * offspring["mutation"]
    assert 0 < origins["crossover"] <= chosen.epochs * offspring["crossover"]
    assert origins["random"] >= chosen.epochs * offspring["random"]


def test_an_operator_without_new_offspring_gives_way_to_a_random_member() -> None:
    """One elite has no partner and its few mutants are used up; the generation is full all the same."""
    chosen = EvolutionSettings(
        population=1, epochs=1, num_elites=1, num_mutants=20, num_crossovers=0, num_randoms=0, probability=1.0
    )
    tiny = SearchSpace(teacher=llama(1, 4, *[layer(2, 2, 4, 4)] * 2), layerwise=False)
    reach = ParameterBin(num_parameters(tiny.smallest()), num_parameters(tiny.largest()))
    origins = Counter(candidate.origin for candidate in run(Evolution(tiny, reach, chosen)))
    assert origins.keys() == {"initial", "mutation", "random"}
    assert origins.total() == chosen.num_evaluations


@given(seed=st.integers(0, 2**32 - 1), layerwise=st.booleans())
@settings(max_examples=10, deadline=None)
def test_same_seed_same_history_whatever_global_seeds_do(*, seed: int, layerwise: bool) -> None:
    strategies = [
        Evolution(LAYERWISE if layerwise else UNIFORM, HALF, replace(SMALL, epochs=2, seed=seed)) for _ in range(2)
    ]
    quiet = run(strategies[0])
    disturbed: list[Candidate] = []
    while not strategies[1].done:
        for reseed in (random.seed, np.random.seed, torch.manual_seed):
            reseed(len(disturbed))
        generation = strategies[1].ask()
        strategies[1].tell([(candidate, distance(candidate.architecture, TEACHER)) for candidate in generation])
        random.random()  # noqa: S311
        np.random.rand()  # noqa: NPY002
        torch.rand(1)
        disturbed += generation
    assert disturbed == quiet
    assert strategies[0].elites == strategies[1].elites


def test_another_seed_asks_for_others() -> None:
    asked = [run(Evolution(UNIFORM, HALF, replace(SMALL, seed=seed))) for seed in (0, 1)]
    assert asked[0] != asked[1]


def test_elites_are_the_best_of_all_told() -> None:
    strategy = Evolution(UNIFORM, HALF, SMALL)
    asked = run(strategy)
    losses = sorted(distance(candidate.architecture, TEACHER) for candidate in asked)
    assert [loss for loss, _ in strategy.elites] == losses[: SMALL.num_elites]
    assert all(distance(architecture, TEACHER) == loss for loss, architecture in strategy.elites)


def test_ties_are_broken_by_key_in_whatever_order_losses_come() -> None:
    strategies = [Evolution(UNIFORM, HALF, SMALL) for _ in range(2)]
    first, second = ([(candidate, 1.0) for candidate in strategy.ask()] for strategy in strategies)
    strategies[0].tell(first)
    strategies[1].tell(second[::-1])
    keys = [canonical_key(architecture) for _, architecture in strategies[0].elites]
    assert strategies[0].elites == strategies[1].elites
    assert keys == sorted(candidate.key for candidate, _ in first)[: SMALL.num_elites]


def test_a_loss_that_is_not_a_number_is_the_worst() -> None:
    strategy = Evolution(UNIFORM, HALF, SMALL)
    generation = strategy.ask()
    losses = [float("nan"), 3.0, float("nan"), float("inf"), 2.0, float("nan"), 1.0, float("nan")]
    strategy.tell(list(zip(generation, losses, strict=True)))
    assert [loss for loss, _ in strategy.elites] == [1.0, 2.0, 3.0, float("inf")]


def test_evolution_finds_the_optimum_more_often_than_random_search() -> None:
    """Twelve optima spread over the 1,160 members of a bin, a seed for each, 140 evaluations to find it."""
    specs = [
        layer(groups * queries, groups, head_dim, neurons)
        for groups, queries in UNIFORM.head_choices
        for head_dim, neurons in itertools.product(UNIFORM.head_dims, UNIFORM.intermediate_sizes)
    ]
    members = (
        replace(TEACHER, hidden_size=hidden, layers=(spec,) * depth)
        for spec, hidden, depth in itertools.product(specs, UNIFORM.hidden_sizes, UNIFORM.num_layers_choices)
    )
    inside = [member for member in members if num_parameters(member) in FIFTH]
    assert len(inside) == 1160
    evolving = EvolutionSettings(
        population=20, epochs=6, num_elites=10, num_mutants=12, num_crossovers=3, num_randoms=5, probability=1.0
    )
    unguided = replace(evolving, num_mutants=0, num_crossovers=0, num_randoms=20)
    assert evolving.num_evaluations == unguided.num_evaluations == 140
    hits = Counter[str]()
    for seed, optimum in enumerate(inside[50::100]):
        for name, chosen in {"evolution": evolving, "random": unguided}.items():
            asked = run(Evolution(UNIFORM, FIFTH, replace(chosen, seed=seed)), optimum)
            hits[name] += any(candidate.architecture == optimum for candidate in asked)
    assert hits["evolution"] >= hits["random"] + 3, hits


def test_a_bin_with_too_few_members_is_refused_with_their_number() -> None:
    """Sixteen members lie in the bin, equally often drawn: all are found, and a search that wants more says so."""
    tiny = SearchSpace(teacher=llama(1, 2, *[layer(2, 2, 4, 2)] * 2), layerwise=False)
    reach = ParameterBin(num_parameters(tiny.smallest()), num_parameters(tiny.largest()))
    chosen = replace(SMALL, population=16, epochs=0, sampling="rejection")
    assert len(Evolution(tiny, reach, chosen).ask()) == 16
    with pytest.raises(ValueError, match=r"too few sub-networks for 17 evaluations: 16 found; lower the population"):
        Evolution(tiny, reach, replace(chosen, population=17)).ask()


def test_an_unreachable_bin_is_refused_before_the_search() -> None:
    with pytest.raises(ValueError, match="cannot be reached"):
        Evolution(UNIFORM, ParameterBin(10**8, 10**9), SMALL)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"population": 0}, "population and num_elites must be at least 1"),
        ({"num_elites": 0}, "population and num_elites must be at least 1"),
        ({"epochs": -1}, "at least 0"),
        ({"num_mutants": -1}, "at least 0"),
        ({"probability": 0.0}, r"probability must lie in \(0, 1\], got 0.0"),
        ({"probability": 1.5}, r"probability must lie in \(0, 1\], got 1.5"),
        ({"num_mutants": 0, "num_crossovers": 0, "num_randoms": 0}, "at least one mutant"),
    ],
)
def test_impossible_settings_are_refused(change: dict[str, float], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        replace(SMALL, **change)
