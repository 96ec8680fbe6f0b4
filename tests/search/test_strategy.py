"""Evolution: what it asks for, what it keeps, that it learns, and that a seed fixes it."""

import random
from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
import torch
from evolutions import FIFTH, HALF, SMALL, SPACES, TEACHER, UNIFORM, results, run, to_teacher
from hypothesis import given, settings
from hypothesis import strategies as st
from strategies import changed, count, decoder, layer, llama

from budwood.arch.balanced import balanced_members
from budwood.arch.bins import ParameterBin
from budwood.arch.sampling import Sampling
from budwood.arch.selection import Selection
from budwood.arch.space import SearchSpace
from budwood.search.candidate import Candidate
from budwood.search.operators import Constraint
from budwood.search.settings import CrossoverParents, ProbabilityReading, SearchSettings, StrategyName
from budwood.search.strategy import open_strategy

MIXED = TEACHER.with_layers((layer(6, 3, 8, 12), layer(2, 1, 12, 30), layer(4, 4, 6, 8), layer(8, 2, 12, 12)))
OTHER_SPACES = {
    "mixed uniform": SearchSpace(teacher=MIXED, granularity="fine", layerwise=False),
    "mixed layerwise": SearchSpace(teacher=MIXED, granularity="fine", layerwise=True),
    "aligned": SearchSpace(teacher=TEACHER, granularity="fine", layerwise=True, alignment=4),
    "neox": SearchSpace(
        teacher=decoder("gpt_neox", 32, 48, *[layer(6, 6, 8, 64)] * 4), layerwise=False, native_only=True
    ),
    "gemma": SearchSpace(
        teacher=decoder("gemma2", 32, 48, *[layer(6, 3, 8, 64)] * 4),
        granularity="fine",
        layerwise=False,
        native_only=True,
    ),
}


def test_the_papers_sizes_make_5050_evaluations() -> None:
    assert SearchSettings().num_evaluations == 5050
    assert SearchSettings(probability_reading="share").num_evaluations == 5050
    assert SearchSettings(probability_reading="share").offspring == (10, 10, 30)


@pytest.mark.slow
@pytest.mark.parametrize("space", [*SPACES.values(), *OTHER_SPACES.values()], ids=[*SPACES, *OTHER_SPACES])
@pytest.mark.parametrize(
    ("reading", "sampling", "constraint"), [("gate", "constructive", "repair"), ("share", "rejection", "rejection")]
)
def test_everything_asked_is_new_and_in_the_bin(
    space: SearchSpace, reading: ProbabilityReading, sampling: Sampling, constraint: Constraint
) -> None:
    chosen = changed(SMALL, probability_reading=reading, sampling=sampling, constraint=constraint)
    parameter_bin = ParameterBin.around(0.5 * space.reach[1], 0.2)
    asked = run(open_strategy(space, parameter_bin, chosen))
    assert len({candidate.key for candidate in asked}) == len(asked) == chosen.num_evaluations
    assert all(candidate.selection in space for candidate in asked)
    assert all(count(space, candidate.selection) in parameter_bin for candidate in asked)
    origins = Counter(candidate.origin for candidate in asked)
    num_mutants, num_crossovers, num_randoms = chosen.offspring
    assert origins["initial"] == chosen.population
    assert 0 < origins["mutation"] <= chosen.epochs * (num_mutants + num_crossovers)
    assert 0 < origins["crossover"] <= chosen.epochs * num_crossovers
    assert origins["random"] >= chosen.epochs * num_randoms


@pytest.mark.slow
def test_an_operator_without_new_offspring_gives_way_to_a_random_member() -> None:
    """One elite has no partner and its few mutants are used up; the generation is full all the same."""
    chosen = SearchSettings(
        population=20,
        epochs=1,
        num_elites=1,
        num_finalists=1,
        num_mutants=20,
        num_crossovers=0,
        num_randoms=0,
        probability=1.0,
    )
    tiny = SearchSpace(teacher=llama(1, 4, *[layer(2, 2, 4, 4)] * 2), layerwise=False)
    origins = Counter(candidate.origin for candidate in run(open_strategy(tiny, ParameterBin(*tiny.reach), chosen)))
    assert origins.keys() == {"initial", "mutation", "random"}
    assert origins.total() == chosen.num_evaluations


@pytest.mark.slow
@given(seed=st.integers(0, 2**32 - 1), name=st.sampled_from(sorted(SPACES)))
@settings(max_examples=10)
def test_same_seed_same_history_whatever_global_seeds_do(seed: int, name: str) -> None:
    strategies = [open_strategy(SPACES[name], HALF, changed(SMALL, epochs=2, seed=seed)) for _ in range(2)]
    quiet = run(strategies[0])
    disturbed: list[Candidate] = []
    for _ in range(3):
        for reseed in (random.seed, np.random.seed, torch.manual_seed):
            reseed(len(disturbed))
        generation = strategies[1].ask()
        strategies[1].tell(results(generation))
        random.random()  # noqa: S311
        np.random.rand()  # noqa: NPY002
        torch.rand(1)
        disturbed += generation
    assert disturbed == quiet
    assert strategies[0].elites == strategies[1].elites


def test_another_seed_asks_for_others() -> None:
    asked = [run(open_strategy(UNIFORM, HALF, changed(SMALL, seed=seed))) for seed in (0, 1)]
    assert asked[0] != asked[1]


def test_elites_are_the_best_of_all_told() -> None:
    strategy = open_strategy(UNIFORM, HALF, SMALL)
    asked = run(strategy)
    losses = sorted(to_teacher(candidate.selection) for candidate in asked)
    assert [elite.loss for elite in strategy.elites] == losses[: SMALL.num_elites]
    assert all(to_teacher(elite.selection) == elite.loss for elite in strategy.elites)


def test_ties_are_broken_by_key_in_whatever_order_losses_come() -> None:
    strategies = [open_strategy(UNIFORM, HALF, SMALL) for _ in range(2)]
    first, second = (results(strategy.ask(), lambda _: 1.0) for strategy in strategies)
    strategies[0].tell(first)
    strategies[1].tell(second[::-1])
    keys = [elite.key for elite in strategies[0].elites]
    assert strategies[0].elites == strategies[1].elites
    assert keys == sorted(candidate.key for candidate, _ in first)[: SMALL.num_elites]


def test_a_generation_of_which_nothing_is_left_changes_nothing() -> None:
    """But the first one has to leave something."""
    strategy = open_strategy(UNIFORM, HALF, SMALL)
    generation = strategy.ask()
    with pytest.raises(ValueError, match="no candidate of the first generation has a finite loss"):
        strategy.tell([])
    strategy.tell(results(generation))
    elites = strategy.elites
    strategy.ask()
    strategy.tell([])
    assert strategy.elites == elites


def test_random_search_draws_every_generation_anew() -> None:
    asked = run(open_strategy(UNIFORM, HALF, changed(SMALL, strategy="random")))
    assert Counter(candidate.origin for candidate in asked) == {"initial": 8, "random": 4 * 8}


def test_local_search_mutates_the_best() -> None:
    """A mutant of the best differs from it in one dimension, or in one and the MLP widths that repair it."""
    strategy = open_strategy(UNIFORM, HALF, changed(SMALL, strategy="local"))
    strategy.tell(results(strategy.ask()))
    best = strategy.elites[0].selection
    mutants = [candidate.selection for candidate in strategy.ask() if candidate.origin == "mutation"]
    assert mutants
    for mutant in mutants:
        new, old = mutant.layers[0].spec, best.layers[0].spec
        heads = (new.num_key_value_heads, new.heads_per_group) != (old.num_key_value_heads, old.heads_per_group)
        others = [
            len(mutant.hidden) != len(best.hidden),
            len(mutant.layers) != len(best.layers),
            new.head_dim != old.head_dim,
        ]
        assert sum([heads, *others]) <= 1


@pytest.mark.parametrize("constraint", ["repair", "rejection"])
def test_acceptance_is_the_share_of_proposals_that_became_candidates(constraint: Constraint) -> None:
    strategy = open_strategy(UNIFORM, FIFTH, changed(SMALL, constraint=constraint))
    strategy.tell(results(strategy.ask()))
    assert 0 < strategy.metrics()["acceptance"] <= 1
    strategy.ask()
    assert 0 < strategy.metrics()["acceptance"] < 1


@pytest.mark.slow
@pytest.mark.parametrize("name", sorted(SPACES))
def test_level_switches_keep_the_budget_of_their_parent(name: str) -> None:
    """They differ from some elite by less than a neuron in every layer."""
    space = SPACES[name]
    chosen = changed(SMALL, population=40, num_mutants=40, num_crossovers=0, num_randoms=0, level_switch=1.0)
    strategy = open_strategy(space, HALF, chosen)
    strategy.tell(results(strategy.ask()))
    budgets = [count(space, elite.selection) for elite in strategy.elites]
    mutants = [candidate for candidate in strategy.ask() if candidate.origin == "mutation"]
    assert mutants
    for mutant in mutants:
        rounding = 3 * len(mutant.selection.hidden) * (1 if space.layerwise else len(mutant.selection.layers)) / 2
        assert min(abs(count(space, mutant.selection) - budget) for budget in budgets) <= rounding


def test_a_bin_with_too_few_members_is_refused_with_their_number() -> None:
    """Sixteen members lie in the bin, equally often drawn: all are found, and a search that wants more says so."""
    tiny = SearchSpace(teacher=llama(1, 2, *[layer(2, 2, 4, 2)] * 2), layerwise=False)
    everything = ParameterBin(*tiny.reach)
    chosen = changed(SMALL, strategy="random", population=16, epochs=0, sampling="rejection")
    assert len(open_strategy(tiny, everything, chosen).ask()) == 16
    with pytest.raises(ValueError, match=r"too few sub-networks for 17 evaluations: 16 found; lower the population"):
        open_strategy(tiny, everything, changed(chosen, population=17)).ask()


def test_an_unreachable_bin_is_refused_before_the_search() -> None:
    with pytest.raises(ValueError, match="cannot be reached"):
        open_strategy(UNIFORM, ParameterBin(10**8, 10**9), SMALL)


@pytest.mark.parametrize("name", SPACES)
def test_the_first_generation_begins_with_balanced_members(name: str) -> None:
    drawn, begun = (open_strategy(SPACES[name], HALF, changed(SMALL, num_balanced=count)).ask() for count in (0, 2))
    assert [candidate.origin for candidate in begun] == ["initial"] * 8
    assert len({candidate.key for candidate in begun}) == 8
    suggested = balanced_members(SPACES[name], HALF, 2, np.random.default_rng(0))
    assert suggested
    balanced = [candidate.selection for candidate in begun[: len(suggested)]]
    shapes = [(len(member.layers), len(member.hidden)) for member in balanced]
    assert shapes == [(len(member.layers), len(member.hidden)) for member in suggested]
    if SPACES[name].granularity == "coarse":
        assert balanced == suggested
        others = 8 - len(suggested)
        assert [candidate.key for candidate in begun[-others:]] == [candidate.key for candidate in drawn[:others]]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"population": 0}, "greater than or equal to 1"),
        ({"num_elites": 0}, "greater than or equal to 1"),
        ({"epochs": -1}, "greater than or equal to 0"),
        ({"num_mutants": -1}, "greater than or equal to 0"),
        ({"probability": 0.0}, "greater than 0"),
        ({"probability": 1.5}, "less than or equal to 1"),
        ({"num_balanced": 9}, "num_balanced=9 must not exceed population=8"),
        ({"num_elites": 9}, "num_elites=9 must not exceed population=8"),
        ({"num_mutants": 4}, r"must make a population: 4 \+ 3 \+ 2 is not 8"),
        ({"screening": 0}, "greater than or equal to 1"),
        ({"level_switch": 1.5}, "less than or equal to 1"),
        ({"strategy": "pareto"}, "strategy pareto needs objectives"),
        ({"objectives": ("flops",)}, "no other takes any"),
        ({"probability_reading": "share", "probability": 0.6}, "of crossovers must not exceed a half"),
        ({"stages": (4, 3)}, r"stages must grow from 1 sequence on, got \[4, 3\]"),
    ],
)
def test_impossible_settings_are_refused(change: dict[str, float], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        changed(SMALL, **change)


def of_depth(depth: int, hidden: int) -> Candidate:
    """Return a member of the uniform space."""
    sizes = replace(TEACHER, hidden_size=hidden, layers=(layer(6, 3, 8, 6),) * depth)
    return Candidate(Selection.prefix(sizes), "random")


@pytest.mark.parametrize("parents", ["matching", "any"])
def test_origins_say_what_happened_where_only_two_elites_have_equal_depth(parents: CrossoverParents) -> None:
    """Three of five elites have no partner: `any` draws mutants of them, `matching` crosses the other two alone."""
    chosen = changed(
        SMALL, num_elites=5, num_mutants=0, num_crossovers=8, num_randoms=0, crossover_parents=parents, probability=1.0
    )
    strategy = open_strategy(UNIFORM, ParameterBin(*UNIFORM.reach), chosen)
    elites = [of_depth(depth, hidden) for depth, hidden in ((1, 8), (2, 8), (3, 8), (4, 8), (4, 12))]
    elites[3] = Candidate(Selection.prefix(replace(TEACHER, hidden_size=8, layers=(layer(2, 1, 4, 12),) * 4)), "random")
    strategy.tell(results(elites))
    made = strategy.ask()
    for child in (candidate.selection for candidate in made if candidate.origin == "crossover"):
        assert len(child.layers) == 4
        assert len(child.hidden) in {8, 12}
    origins = Counter(candidate.origin for candidate in made)
    assert origins["crossover"]
    assert (origins["mutation"] > 0) is (parents == "any")


def test_without_a_pair_of_equal_depth_crossovers_are_mutants() -> None:
    chosen = changed(SMALL, num_mutants=0, num_crossovers=8, num_randoms=0)
    strategy = open_strategy(UNIFORM, ParameterBin(*UNIFORM.reach), chosen)
    strategy.tell(results([of_depth(depth, 8) for depth in (1, 2, 3, 4)]))
    assert {candidate.origin for candidate in strategy.ask()} == {"mutation"}


@pytest.mark.parametrize("name", ["evolution", "random", "local"])
def test_strategies_of_one_objective_have_no_front(name: StrategyName) -> None:
    strategy = open_strategy(UNIFORM, HALF, changed(SMALL, strategy=name))
    strategy.tell(results(strategy.ask()))
    assert not strategy.front
    assert strategy.metrics().keys() == {"best_loss", "acceptance"}
    assert strategy.metrics()["best_loss"] == strategy.elites[0].loss
