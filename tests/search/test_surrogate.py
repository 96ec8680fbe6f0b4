"""The surrogate: what it sees of a candidate, that it learns, and what it hopes for where it knows little."""

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
        place, _ = surrogate.most_promising([shape(*size) for size in sizes], 0.5)
        picked.append(loss(*sizes[place]))
        drawn.append(np.mean([loss(*size) for size in sizes]))
    assert np.mean(picked) - 5 < 0.25 * (np.mean(drawn) - 5)


def test_the_more_is_hoped_the_farther_from_what_is_known() -> None:
    """Depth was always 4: nothing is known of other depths."""
    sizes = [shape(32, 16, depth) for depth in range(1, 9)]
    surrogate = learnt()
    surrogate.learn([shape(32, 16, 3)], [loss(32, 16)])
    (sober, expected), (hopeful, possible) = surrogate.most_promising(sizes, 0), surrogate.most_promising(sizes, 5)
    assert possible < expected
    assert abs(hopeful + 1 - 3.5) > abs(sober + 1 - 3.5)


def test_what_is_believed_is_less_uncertain_and_expected_as_before() -> None:
    surrogate, place = learnt(), [shape(2, 64)]
    (_, expected), (_, hoped) = surrogate.most_promising(place, 0), surrogate.most_promising(place, 2)
    surrogate.believe(*place)
    assert surrogate.most_promising(place, 0)[1] == pytest.approx(expected, abs=0.01)
    assert surrogate.most_promising(place, 2)[1] > hoped


def test_learning_forgets_beliefs() -> None:
    believing, plain = learnt(), learnt()
    believing.believe(shape(2, 64))
    for surrogate in (believing, plain):
        surrogate.learn([shape(10, 10)], [loss(10, 10)])
    assert believing.most_promising([shape(2, 64)], 1) == plain.most_promising([shape(2, 64)], 1)


def test_a_terrible_loss_does_not_drown_the_others() -> None:
    surrogate = learnt()
    surrogate.learn([shape(2, 2)], [1e6])
    sizes = [(32, 16), (2, 64), (64, 64), (8, 3)]
    assert surrogate.most_promising([shape(*size) for size in sizes], 0.5)[0] == 0
