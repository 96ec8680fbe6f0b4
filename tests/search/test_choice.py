"""The choice among finalists: who wins, and how sure that is."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from budwood.search.choice import choose

NAN = float("nan")


def test_a_worked_choice() -> None:
    """Student's quantile for four sequences is 3.182; the paired differences are 1, 2, 1, 2."""
    choice = choose([[3.0, 5.0, 4.0, 6.0], [2.0, 3.0, 3.0, 4.0]])
    assert (choice.winner, choice.runner_up, choice.lead) == (1, 0, 1.5)
    half = 3.18245 * math.sqrt(2 / 3) / 2
    assert choice.interval == pytest.approx((3 - half, 3 + half), abs=1e-4)
    half = 3.18245 * math.sqrt(1 / 3) / 2
    assert choice.lead_interval == pytest.approx((1.5 - half, 1.5 + half), abs=1e-4)


@pytest.mark.parametrize(
    ("losses", "winner"),
    [([3.0, 1.0, 2.0], 1), ([2.0, 1.0, 1.0], 1), ([NAN, 5.0, 4.0], 2), ([1.0], 0)],
    ids=["lowest", "first of equals", "not a number", "only one"],
)
def test_the_winner_has_the_lowest_mean(losses: list[float], winner: int) -> None:
    assert choose([[loss, loss] for loss in losses]).winner == winner


def test_one_finalist_leads_nobody_and_one_sequence_is_no_interval() -> None:
    choice = choose([[1.0]])
    assert choice.runner_up is None
    assert all(map(math.isnan, (choice.lead, *choice.interval, *choice.lead_interval)))


def test_nothing_finite_is_refused() -> None:
    with pytest.raises(ValueError, match="none of 2 finalists has a finite loss"):
        choose([[NAN, 1.0], [float("inf"), 2.0]])


@pytest.mark.slow
@given(st.integers(0, 2**32 - 1))
@settings(max_examples=10)
def test_intervals_hold_the_truth_about_as_often_as_they_say(seed: int) -> None:
    """Of 400 means of six normal numbers, 95% lie in their intervals, give or take four standard errors."""
    rng = np.random.default_rng(seed)
    inside = 0
    for sample in rng.normal(2.0, 1.0, size=(400, 6)):
        low, high = choose([sample.tolist()]).interval
        inside += low <= 2.0 <= high
    assert abs(inside / 400 - 0.95) <= 4 * math.sqrt(0.95 * 0.05 / 400)
