"""Leaving layers out: a chain by hand, the greedy choice it must make, and how little it may read for it."""

import json
import math
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from itertools import combinations
from pathlib import Path

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from budwood.records.files import write_json_lines
from budwood.search.candidate import Evaluation
from budwood.search.elimination import Elimination, Kept, eliminate_layers

Loss = Callable[[frozenset[int]], float]


def eliminate(loss: Loss, depth: int, trials_file: Path | None = None) -> Elimination:
    """Leave out layers by a loss of those that are kept."""

    def evaluate(trials: Sequence[Kept]) -> Iterator[Evaluation]:
        for kept in trials:
            yield Evaluation(sequence_losses=[loss(frozenset(kept))], tokens=1, flops=len(kept), seconds=0.0)

    return eliminate_layers(depth, evaluate, trials_file)


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


# A layer that is worth as much as another goes first by its number, tried again or not.
@example([1, 36, 32, 32, 32, 31, 34, 1], [0, 4, 3, 4, 4, 2, *[0] * 15, 1, 0, 0, 0, 0, 1, 0])
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


KILLED = """
import os, signal, sys
from pathlib import Path
sys.path.insert(0, sys.argv[2])
from search.test_elimination import eliminate, sharing

calls = [0]

def loss(kept):
    calls[0] += 1
    if calls[0] == int(sys.argv[3]):
        os.kill(os.getpid(), signal.SIGKILL)
    return sharing(kept)

eliminate(loss, 8, Path(sys.argv[1]))
"""


def sharing(kept: frozenset[int]) -> float:
    """Return a loss to which neighbours add where both are missing."""
    missing = frozenset(range(8)) - kept
    return float(sum((5 * layer) % 7 + 3 * (layer + 1 in missing) for layer in missing))


@pytest.mark.slow
@pytest.mark.parametrize("killed_at", [1, 5, 14])
def test_a_killed_elimination_continues(killed_at: int, tmp_path: Path) -> None:
    """A process is killed in the middle of a trial; the next one repeats none of those that were made."""
    trials_file, tests = tmp_path / "trials.jsonl", Path(__file__).parents[1]
    command = [sys.executable, "-c", KILLED, str(trials_file), str(tests), str(killed_at)]
    assert subprocess.run(command, check=False, capture_output=True).returncode == -signal.SIGKILL
    made = trials_file.read_bytes().splitlines() if trials_file.exists() else []
    assert len(made) == killed_at - 1
    with trials_file.open("ab") as file:
        file.write(b'{"kept": [0, 1')
    uninterrupted, repeated = eliminate(sharing, 8), []

    def loss(kept: frozenset[int]) -> float:
        repeated.append(kept)
        return sharing(kept)

    found = eliminate(loss, 8, trials_file)
    assert found == uninterrupted
    assert len(repeated) == len(found.evaluations) - len(made)
    assert found == eliminate(lambda _kept: math.nan, 8, trials_file)


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"kept": [0, 1]}, "written by another version"),
        ({"kept": [0, 1], "sequence_losses": [1.0], "tokens": 1, "flops": 1.0, "seconds": 0.0}, "another teacher"),
        ([1], "line 1, is damaged"),
    ],
)
def test_the_trials_of_another_elimination_are_refused(row: object, message: str, tmp_path: Path) -> None:
    trials_file = tmp_path / "trials.jsonl"
    if isinstance(row, dict):
        write_json_lines(trials_file, [row])
    else:
        trials_file.write_text(json.dumps(row) + "\n")
    with pytest.raises(ValueError, match=rf"trials\.jsonl.*{message}.*remove the file to start again"):
        eliminate(sharing, 8, trials_file)
