"""The surrogate: what it sees of a candidate, that it learns, and that the same draws give the same picks."""

from dataclasses import replace

import numpy as np
import pytest
from strategies import layer, llama

from budwood.arch.spec import Architecture
from budwood.search.surrogate import Surrogate, features

TEACHER = llama(32, 64, *[layer(8, 4, 16, 64)] * 8)


def shape(hidden: int, neurons: int, depth: int = 4) -> Architecture:
    """Return a sub-network of equal layers."""
    return replace(TEACHER, hidden_size=hidden, layers=(layer(4, 2, 8, neurons),) * depth)


def loss(hidden: int, neurons: int) -> float:
    """Return a bowl with its bottom at 32 channels and 16 neurons."""
    return 5 + np.log(hidden / 32) ** 2 + np.log(neurons / 16) ** 2


def learnt(seed: int = 0) -> Surrogate:
    """Return a surrogate that has seen forty shapes."""
    rng, surrogate = np.random.default_rng(seed), Surrogate()
    for _ in range(2):
        sizes = [(int(hidden), int(neurons)) for hidden, neurons in rng.integers(2, 65, size=(20, 2))]
        surrogate.learn([shape(*size) for size in sizes], [loss(*size) for size in sizes])
    return surrogate


def test_worked_features() -> None:
    """Two layers with 4 and 16 neurons: their logarithms have mean log 8 and spread log 2."""
    mixed = replace(TEACHER, hidden_size=10, layers=(layer(6, 3, 8, 4), layer(6, 3, 8, 16)))
    ((hidden, depth, groups, _, queries, _, head_dim, same, neurons, spread),) = np.exp(features([mixed]))
    found = (hidden, depth, groups, queries, head_dim, same, neurons, spread)
    assert found == pytest.approx((10, 2, 3, 2, 8, 1, 8, 2))


def test_depths_do_not_blur_each_other() -> None:
    alone = np.vstack([features([shape(20, 30, depth)]) for depth in (1, 8)])
    np.testing.assert_allclose(features([shape(20, 30, 1), shape(20, 30, 8)]), alone)


def test_picks_are_near_the_best() -> None:
    rng, surrogate = np.random.default_rng(1), learnt()
    picked, drawn = [], []
    for _ in range(20):
        sizes = [(int(hidden), int(neurons)) for hidden, neurons in rng.integers(2, 65, size=(20, 2))]
        picked.append(loss(*sizes[surrogate.pick([shape(*size) for size in sizes], rng)]))
        drawn.append(np.mean([loss(*size) for size in sizes]))
    assert np.mean(picked) - 5 < 0.25 * (np.mean(drawn) - 5)


def test_equal_draws_give_equal_picks() -> None:
    sizes = [shape(hidden, 20) for hidden in range(2, 60)]
    picks = [[learnt().pick(sizes, np.random.default_rng(seed)) for seed in range(5)] for _ in range(2)]
    assert picks[0] == picks[1]
    assert len(set(picks[0])) > 1


def test_a_terrible_loss_does_not_drown_the_others() -> None:
    surrogate = learnt()
    surrogate.learn([shape(2, 2)], [1e6])
    sizes = [(32, 16), (2, 64), (64, 64), (8, 3)]
    rng = np.random.default_rng(0)
    assert {surrogate.pick([shape(*size) for size in sizes], rng) for _ in range(5)} == {0}
