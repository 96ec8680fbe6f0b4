"""Leaving layers out: a chain by hand, the greedy choice it must make, and how little it may read for it."""

import math
from collections.abc import Callable, Iterator, Sequence
from itertools import combinations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from strategies import layer, llama

from budwood.arch.selection import Selection
from budwood.search.candidate import Evaluation
from budwood.search.elimination import Elimination, eliminate_layers

Loss = Callable[[frozenset[int]], float]


def whole(depth: int) -> Selection:
    """Return all of a teacher."""
    return Selection.prefix(llama(32, 64, *[layer(8, 4, 16, 64)] * depth))


def eliminate(loss: Loss, depth: int) -> Elimination:
    """Leave out layers by a loss of those that are kept."""

    def evaluate(selections: Sequence[Selection], sequences: slice = slice(None)) -> Iterator[tuple[int, Evaluation]]:
        assert sequences == slice(None)
        for place, selection in reversed(list(enumerate(selections))):
            kept = frozenset(layer.layer for layer in selection.layers)
            yield place, Evaluation(sequence_losses=[loss(kept)], tokens=1, flops=len(kept), seconds=0.0)

    return eliminate_layers(whole(depth), evaluate)


def greedily(loss: Loss, depth: int) -> tuple[int, ...]:
    """Leave out layers, trying every one of them every time."""
    kept, order = frozenset(range(depth)), []
    while len(kept) > 1:
        order.append(min(kept, key=lambda gone: (loss(kept - {gone}), gone)))
        kept -= {order[-1]}
    return (*order, *kept)


def test_single_scores_mislead_and_leaving_out_does_not() -> None:
    """Layers 0 and 1 do the same: either can go, but not both, though each alone is worth less than layer 2."""

    def loss(kept: frozenset[int]) -> float:
        return 4.0 + (10.0 if not kept & {0, 1} else 0.1 * (2 - len(kept & {0, 1}))) + (1.0 if 2 not in kept else 0.0)

    found = eliminate(loss, 3)
    assert found.order == (0, 2, 1)
    # The whole and all three layers once; then the two that are left.
    assert len(found.evaluations) == 1 + 3 + 2


@given(st.lists(st.integers(1, 50), min_size=2, max_size=8), st.lists(st.integers(0, 5), min_size=28, max_size=28))
def test_it_is_the_greedy_order_where_layers_replace_each_other(alone: list[int], shared: list[int]) -> None:
    """Where two layers share work, each is worth more without the other: the bound that the lazy choice relies on."""
    depth = len(alone)
    together = dict(zip(combinations(range(depth), 2), shared, strict=False))

    def loss(kept: frozenset[int]) -> float:
        missing = frozenset(range(depth)) - kept
        both = sum(work for (first, second), work in together.items() if {first, second} <= missing)
        return float(sum(alone[layer] for layer in missing) + both)

    found = eliminate(loss, depth)
    assert found.order == greedily(loss, depth)
    assert len(found.evaluations) <= 1 + sum(range(2, depth + 1))


def test_layers_that_matter_apart_are_hardly_tried_again() -> None:
    """Thirty layers of different worth: one call of a few is enough for each."""
    found = eliminate(lambda kept: float(sum(layer**2 for layer in set(range(30)) - kept)), 30)
    assert found.order == tuple(range(30))
    assert len(found.evaluations) <= 1 + 30 + 28 * 4


def test_a_layer_without_which_the_loss_is_no_number_is_kept_to_the_end() -> None:
    assert eliminate(lambda kept: math.nan if 1 not in kept else 5.0 - len(kept), 4).order == (0, 2, 3, 1)
    assert eliminate(lambda kept: math.nan if len(kept) < 4 else 0.0, 4).order == (0, 1, 2, 3)


def test_a_single_layer_is_left() -> None:
    found = eliminate(lambda _kept: 1.0, 1)
    assert (found.order, len(found.evaluations)) == ((0,), 1)


def test_a_broken_teacher_is_refused() -> None:
    with pytest.raises(ValueError, match="the loss of the whole teacher is not finite"):
        eliminate(lambda _kept: math.inf, 3)
