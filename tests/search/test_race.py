"""Races: whom they drop, what they read, and that what they pick is worth what all reading picks."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from budwood.search.race import RaceSettings, race, still_in


def run(
    losses: NDArray[np.float64], stages: RaceSettings, num_kept: int, rivals: NDArray[np.float64] | None = None
) -> list[list[float]]:
    """Race the rows of a matrix."""
    return race(
        lambda candidates, sequences: losses[list(candidates), sequences].tolist(),
        len(losses),
        stages,
        num_kept,
        [] if rivals is None else rivals.tolist(),
    )


def test_a_worked_race() -> None:
    """Differences to the best are 1, 3 and 0.1 on average, with spreads of sqrt(2), 0 and 0.1 * sqrt(2)."""
    losses = np.array([[5.0, 5.0], [5.0, 7.0], [8.0, 8.0], [5.0, 5.2]])
    # Pooled variance (2 + 0 + 0.02) / 3, standard error of a mean of two 0.580.
    assert still_in(losses, 1, 1.0).tolist() == [True, False, False, True]
    assert still_in(losses, 1, 2.0).tolist() == [True, True, False, True]
    assert still_in(losses, 1, 6.0).tolist() == [True, True, True, True]


def test_common_difficulty_does_not_matter() -> None:
    losses = np.array([[1.0, 9.0, 2.0], [1.1, 9.11, 2.09], [1.5, 9.49, 2.5]])
    assert still_in(losses, 1, 2.0).tolist() == [True, False, False]


def test_one_sequence_drops_only_what_is_broken() -> None:
    assert still_in(np.array([[1.0], [9.0], [np.nan]]), 1, 2.0).tolist() == [True, True, False]


@given(
    seed=st.integers(0, 2**32 - 1),
    num_candidates=st.integers(1, 12),
    num_rivals=st.integers(0, 3),
    num_kept=st.integers(1, 5),
    stages=st.sets(st.integers(2, 20), min_size=1, max_size=4).map(lambda s: tuple(sorted(s))),
)
def test_laws_of_a_race(
    seed: int, num_candidates: int, num_rivals: int, num_kept: int, stages: tuple[int, ...]
) -> None:
    """What is read is a prefix that ends with a stage; as many as are looked for stay; twins share their fate."""
    rng = np.random.default_rng(seed)
    losses = rng.normal(size=(num_candidates, 1)) + rng.normal(size=(num_candidates, stages[-1]))
    rivals = rng.normal(size=(num_rivals, stages[-1]))
    read = run(losses, RaceSettings(stages=stages), num_kept, rivals)
    assert all(seen == losses[row, : len(seen)].tolist() for row, seen in enumerate(read))
    assert {len(seen) for seen in read} <= set(stages)
    assert sum(len(seen) == stages[-1] for seen in read) + num_rivals >= min(num_kept, num_candidates + num_rivals)
    twins = run(np.concatenate([losses, losses]), RaceSettings(stages=stages), 2 * num_kept, np.tile(rivals, (2, 1)))
    assert twins[:num_candidates] == twins[num_candidates:]


def test_nothing_clearly_better_is_dropped() -> None:
    """Sixty-four candidates with paired noise as measured on real ones; the race reads a quarter and finds the best."""
    regrets, shares = [], []
    for seed in range(50):
        rng = np.random.default_rng(seed)
        losses = rng.gamma(2, 0.4, size=(64, 1)) + rng.normal(0, 1, size=(1, 64)) + rng.normal(0, 0.15, size=(64, 64))
        read = run(losses, RaceSettings(stages=(2, 4, 8, 16, 32, 64)), 1)
        means = [np.mean(seen) if len(seen) == 64 else np.inf for seen in read]
        regrets.append(losses.mean(1)[np.argmin(means)] - losses.mean(1).min())
        shares.append(sum(map(len, read)) / losses.size)
    assert np.mean(np.array(regrets) <= 0.02) >= 0.95
    assert np.mean(shares) <= 0.25


@pytest.mark.parametrize(
    ("stages", "deviations", "message"),
    [
        ((), 2.0, "must grow"),
        ((0, 4), 2.0, "must grow"),
        ((4, 4), 2.0, r"must grow from 1 sequence on, got \[4, 4\]"),
        ((8, 4), 2.0, "must grow"),
        ((1, 4), 2.0, "first stage of a race needs 2"),
        ((2, 4), 0.0, "deviations must be positive"),
        ((2, 4), float("nan"), "deviations must be positive"),
    ],
)
def test_races_that_say_nothing_are_refused(stages: tuple[int, ...], deviations: float, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        RaceSettings(stages=stages, deviations=deviations)
