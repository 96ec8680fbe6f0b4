"""Comparisons on the same sequences, against values worked by hand."""

from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from budwood.reporting.tables import paired_difference, results_table, verdict

LOSSES = st.lists(st.floats(0.0, 20.0), min_size=2, max_size=20)


def test_paired_difference_by_hand() -> None:
    """Differences 1, 2, 3: mean 2, sample deviation 1, standard error 1 / sqrt(3)."""
    mean, error = paired_difference([5.0, 7.0, 9.0], [4.0, 5.0, 6.0])
    assert mean == 2.0
    assert error == pytest.approx(1 / np.sqrt(3))


@given(LOSSES, st.floats(-5.0, 5.0))
def test_a_constant_shift_has_no_noise(losses: list[float], shift: float) -> None:
    mean, error = paired_difference(np.array(losses) + shift, losses)
    assert mean == pytest.approx(shift, abs=1e-9)
    assert error == pytest.approx(0.0, abs=1e-9)


@given(LOSSES)
def test_swapping_turns_the_sign(losses: list[float]) -> None:
    other = losses[::-1]
    forward, backward = paired_difference(losses, other), paired_difference(other, losses)
    assert forward == pytest.approx((-backward[0], backward[1]))


def test_one_sequence_has_no_error() -> None:
    mean, error = paired_difference([3.0], [1.0])
    assert mean == 2.0
    assert np.isnan(error)


@pytest.mark.parametrize(("a", "b"), [([1.0], [1.0, 2.0]), ([], [])])
def test_unequal_or_no_sequences_are_refused(a: list[float], b: list[float]) -> None:
    with pytest.raises(ValueError, match="sequence"):
        paired_difference(a, b)


@pytest.mark.parametrize(
    ("difference", "error", "expected"),
    [
        (-0.3, 0.1, "lower, beyond the noise"),
        (0.3, 0.1, "higher, beyond the noise"),
        (-0.2, 0.1, "within the noise"),
        (0.0, 0.0, "within the noise"),
        (-0.3, np.nan, "not decidable"),
        (np.nan, np.nan, "not decidable"),
    ],
)
def test_verdict(difference: float, error: float, expected: str) -> None:
    assert verdict(difference, error) == expected


def test_results_by_hand(make_study: Callable) -> None:
    """Two sources of 1 and 3 sequences: the overall loss is the mean over all four."""
    study = make_study(1)
    random_init, subnet_init, distilled = study.arms
    random_init["losses"] = {"b": [8.0, 9.0, 10.0], "a": [5.0]}
    subnet_init["losses"] = {"a": [3.0], "b": [7.0, 6.0, 8.0]}
    distilled["losses"] = {"a": [2.0], "b": [6.0, 6.0, 6.0]}
    table = results_table(study.arms, {"a": [1.0], "b": [2.0, 3.0, 4.0]}, study.teacher).set_index("model")
    assert table.index.tolist() == [study.teacher["name"], "random_init", "subnet_init", "distilled"]
    assert table["loss"].tolist() == [2.5, 8.0, 6.0, 5.0]
    assert table.loc["subnet_init", "perplexity"] == pytest.approx(np.exp(6.0))
    assert table.loc["subnet_init", "perplexity_b"] == pytest.approx(np.exp(7.0))
    # Differences to random_init: -2, -1, -3, -2; deviation sqrt(2 / 3), error sqrt(2 / 3) / 2.
    assert table.loc["subnet_init", "difference"] == -2.0
    assert table.loc["subnet_init", "difference_standard_error"] == pytest.approx(np.sqrt(2 / 3) / 2)
    # Differences to distilled: 1, 1, 0, 2.
    assert table.loc["subnet_init", "difference_to_best"] == 1.0
    assert np.isnan(table.loc["random_init", "difference"])
    assert np.isnan(table.loc["distilled", "difference_to_best"])
    assert np.isnan(table.loc[study.teacher["name"], "tokens"])
    assert table.loc["random_init", "num_sequences"] == 4


def test_each_variant_has_its_own_baseline(make_study: Callable) -> None:
    study = make_study(2)
    table = study.results
    shift = {source: [loss + 1 for loss in losses] for source, losses in study.arms[0]["losses"].items()}
    study.arms[3]["losses"] = shift
    after = study.results
    assert after.loc[:3, "difference"].equals(table.loc[:3, "difference"])
    assert after.loc[5, "difference"] != table.loc[5, "difference"]


def test_without_a_baseline_there_is_no_difference(make_study: Callable) -> None:
    study = make_study(1)
    table = results_table(study.arms[1:], study.teacher_losses, study.teacher)
    assert table["difference"].isna().all()


@pytest.mark.parametrize("change", ["shorter", "another source"])
def test_other_sequences_than_the_teachers_are_refused(make_study: Callable, change: str) -> None:
    study = make_study(1)
    losses = study.arms[1]["losses"]
    if change == "shorter":
        losses["wikipedia"].pop()
    else:
        losses["news"] = losses.pop("wikipedia")
    with pytest.raises(ValueError, match=r"quarter/coarse_uniform/subnet_init was scored on .* the teacher on"):
        results_table(study.arms, study.teacher_losses, study.teacher)
