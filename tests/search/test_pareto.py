"""Fronts: worked by hand, against brute force, and found by the search more often than by random draws."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from strategies import changed, count, layer, llama

from budwood.arch.bins import ParameterBin
from budwood.arch.count import num_parameters
from budwood.arch.selection import Selection
from budwood.arch.space import SearchSpace
from budwood.search.candidate import Candidate, Evaluation
from budwood.search.evolution import Strategy
from budwood.search.pareto import front, hypervolume
from budwood.search.settings import SearchSettings
from budwood.search.strategy import open_strategy

TEACHER = llama(32, 16, *[layer(6, 3, 8, 12)] * 4)
SPACE = SearchSpace(teacher=TEACHER, layerwise=False)
WIDE = ParameterBin.around(0.5 * num_parameters(TEACHER), 0.5)
SETTINGS = SearchSettings(
    strategy="pareto",
    objectives=("flops",),
    population=12,
    epochs=5,
    num_elites=6,
    num_mutants=6,
    num_crossovers=3,
    num_randoms=3,
)

points_in_a_box = st.lists(
    st.tuples(st.floats(0.1, 1.0), st.floats(0.1, 1.0), st.floats(0.1, 1.0)), min_size=1, max_size=12
).map(np.array)


def results(generation: list[Candidate]) -> list[tuple[Candidate, Evaluation]]:
    """Return a loss that falls with the width of the MLP, and FLOPs that grow with everything."""
    return [(candidate, measured(candidate.selection)) for candidate in generation]


def measured(selection: Selection) -> Evaluation:
    """Return the synthetic evaluation of a candidate."""
    loss = 10 - len(selection.layers) * len(selection.layers[0].neurons) / 10 + 1 / len(selection.hidden)
    return Evaluation(
        sequence_losses=[loss], tokens=1, flops=1.0, seconds=0.0, flops_per_token=float(count(SPACE, selection))
    )


def run(strategy: Strategy) -> list[tuple[Candidate, Evaluation]]:
    """Run a strategy to its end and return all it asked for with their results."""
    told = []
    for _ in range(SETTINGS.epochs + 1):
        told += (answers := results(strategy.ask()))
        strategy.tell(answers)
    return told


def test_a_worked_front() -> None:
    """The third point is beaten by the second in both, the last ties with the first and stays."""
    points = np.array([[1.0, 4.0], [2.0, 2.0], [3.0, 3.0], [4.0, 1.0], [1.0, 4.0]])
    assert front(points).tolist() == [True, True, False, True, True]
    # Below (4, 4), as shares of 16: the box of the second point, 2 x 2, alone.
    assert hypervolume(points, np.array([4.0, 4.0])) == pytest.approx(4 / 16)


@given(points_in_a_box)
def test_a_front_is_what_nothing_dominates(points: np.ndarray) -> None:
    dominated = [any((other <= point).all() and (other < point).any() for other in points) for point in points]
    assert front(points).tolist() == [not beaten for beaten in dominated]


@given(points_in_a_box, st.tuples(*[st.floats(0.1, 1.0)] * 3))
def test_more_points_never_shrink_the_hypervolume(points: np.ndarray, more: tuple[float, ...]) -> None:
    reference = np.ones(3)
    before = hypervolume(points, reference)
    assert before <= hypervolume(np.vstack([points, more]), reference) + 1e-12
    assert 0 <= before <= 1


def test_a_hypervolume_of_negated_scores_by_hand() -> None:
    """Below (-3, 10): from -3 to -6 is one box wide, from 10 to 4 six tenths of one; a better point covers more."""
    reference = np.array([-3.0, 10.0])
    assert hypervolume(np.array([[-6.0, 4.0]]), reference) == pytest.approx(0.6)
    assert hypervolume(np.array([[-6.0, 4.0], [-9.0, 8.0]]), reference) == pytest.approx(0.6 + 0.2)
    assert hypervolume(np.array([[-3.0, 10.0], [-2.0, 1.0]]), reference) == 0
    assert hypervolume(np.array([[-0.5, 5.0]]), np.array([0.0, 10.0])) == pytest.approx(0.25)


@pytest.mark.slow
def test_the_search_keeps_the_front_of_all_it_was_told_and_nothing_else() -> None:
    """After every generation; what it forgets changes neither the front nor the hypervolume."""
    strategy = open_strategy(SPACE, WIDE, SETTINGS)
    told: list[Evaluation] = []
    for _ in range(SETTINGS.epochs + 1):
        answers = results(strategy.ask())
        strategy.tell(answers)
        told += [evaluation for _, evaluation in answers]
        points = np.array([[evaluation.loss, evaluation.flops_per_token] for evaluation in told])
        found = [[each["loss"], each["flops"]] for each, _ in strategy.front]
        assert found == sorted(points[front(points)].tolist())
        assert [measured(selection).loss for _, selection in strategy.front] == [loss for loss, _ in found]
        assert strategy.elites[0].loss == points[:, 0].min()
        worst = points[: SETTINGS.population].max(0)
        assert strategy.metrics()["hypervolume"] == hypervolume(points, worst)
    assert len(found) < len(told)


@pytest.mark.slow
def test_the_search_covers_more_than_random_draws() -> None:
    """Over eight seeds, at equal numbers of evaluations."""
    covered: list[list[float]] = []
    for seed in range(8):
        chosen = changed(SETTINGS, seed=seed)
        drawn = run(open_strategy(SPACE, WIDE, changed(chosen, strategy="random", objectives=())))
        evolved = run(open_strategy(SPACE, WIDE, chosen))
        pair = [
            np.array([[evaluation.loss, evaluation.flops_per_token] for _, evaluation in told])
            for told in (evolved, drawn)
        ]
        reference = np.vstack(pair).max(0)
        covered.append([hypervolume(points, reference) for points in pair])
    wins = sum(evolved > drawn for evolved, drawn in covered)
    assert wins >= 6, covered


def test_the_same_seed_gives_the_same_front() -> None:
    fronts = []
    for _ in range(2):
        strategy = open_strategy(SPACE, WIDE, SETTINGS)
        run(strategy)
        fronts.append(strategy.front)
    assert fronts[0] == fronts[1]


def test_parameters_are_counted_and_latency_is_asked_for() -> None:
    strategy = open_strategy(SPACE, WIDE, changed(SETTINGS, objectives=("parameters",)))
    generation = strategy.ask()
    strategy.tell(results(generation))
    assert all(found["parameters"] == count(SPACE, selection) for found, selection in strategy.front)
    unmeasured = open_strategy(SPACE, WIDE, changed(SETTINGS, objectives=("latency",)))
    with pytest.raises(ValueError, match="does not measure latency"):
        unmeasured.tell(results(unmeasured.ask()))
