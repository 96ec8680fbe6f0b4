"""Comparisons on the same sequences, against values worked by hand."""

import math
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from budwood.evaluation.statistics import mean_and_error, ratio_and_error, summarise
from budwood.records.teacher import HeldOutText
from budwood.records.training import Score
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


def test_a_ratio_by_hand() -> None:
    """Sums 12 and 6: ratio 2. Residuals 0, 1, -1: deviation 1, error 1 / sqrt(3), over the mean denominator 2."""
    ratio, error = ratio_and_error([2.0, 5.0, 5.0], [1.0, 2.0, 3.0])
    assert ratio == 2.0
    assert error == pytest.approx(1 / np.sqrt(3) / 2)


@given(LOSSES, st.floats(0.5, 4.0))
def test_a_ratio_to_equal_denominators_is_a_mean(values: list[float], denominator: float) -> None:
    ratio, error = ratio_and_error(values, [denominator] * len(values))
    mean, mean_error = mean_and_error(values)
    assert ratio == pytest.approx(mean / denominator)
    assert error == pytest.approx(mean_error / denominator, abs=1e-9)


@pytest.mark.parametrize(("top", "bottom"), [([1.0], [1.0, 2.0]), ([1.0, 2.0], [0.0, 0.0]), ([], [])])
def test_a_ratio_to_nothing_is_refused(top: list[float], bottom: list[float]) -> None:
    with pytest.raises(ValueError, match="denominators"):
        ratio_and_error(top, bottom)


def test_worked_summary() -> None:
    """Losses 1 to 4 nats over ten tokens each: 100 nats over 36 bytes; mean 2.5, deviation sqrt(5 / 3)."""
    summary = summarise([1.0, 2.0, 3.0, 4.0], [6, 8, 10, 12], tokens_per_sequence=10)
    assert summary["loss"] == 2.5
    assert summary["perplexity"] == pytest.approx(math.exp(2.5))
    assert summary["standard_error"] == pytest.approx(math.sqrt(5 / 3) / 2)
    assert summary["bits_per_byte"] == pytest.approx(100 / 36 / math.log(2))
    # Residuals in nats: 10 - 100/6, 20 - 200/9, 30 - 250/9, 40 - 100/3 = -20/3, -20/9, 20/9, 20/3.
    deviation = math.sqrt(2 * ((20 / 3) ** 2 + (20 / 9) ** 2) / 3)
    assert summary["bits_per_byte_standard_error"] == pytest.approx(deviation / 2 / 9 / math.log(2))


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
    text = HeldOutText(tokens_per_sequence=10, bytes={"a": [40], "b": [40, 50, 30]})
    study = replace(study, teacher_losses={"a": [1.0], "b": [2.0, 3.0, 4.0]}, text=text)
    table = study.results.set_index("model")
    assert table.index.tolist() == [study.teacher.name, "random_init", "subnet_init", "distilled"]
    assert table["loss"].tolist() == [2.5, 8.0, 6.0, 5.0]
    assert table.loc["subnet_init", "perplexity"] == pytest.approx(np.exp(6.0))
    assert table.loc["subnet_init", "perplexity_b"] == pytest.approx(np.exp(7.0))
    # Differences to random_init: -2, -1, -3, -2; deviation sqrt(2 / 3), error sqrt(2 / 3) / 2.
    assert table.loc["subnet_init", "difference"] == -2.0
    assert table.loc["subnet_init", "difference_standard_error"] == pytest.approx(np.sqrt(2 / 3) / 2)
    assert table.loc["subnet_init", ["difference_a", "difference_b"]].tolist() == [-2.0, -2.0]
    assert table.loc["subnet_init", "difference_standard_error_b"] == pytest.approx(1 / np.sqrt(3))
    assert np.isnan(table.loc["subnet_init", "difference_standard_error_a"])
    # 240 nats over 160 bytes; on b 210 over 120.
    assert table.loc["subnet_init", "bits_per_byte"] == pytest.approx(1.5 / math.log(2))
    assert table.loc["subnet_init", "bits_per_byte_b"] == pytest.approx(1.75 / math.log(2))
    # Differences to distilled: 1, 1, 0, 2.
    assert table.loc["subnet_init", "difference_to_best"] == 1.0
    assert np.isnan(table.loc["random_init", "difference"])
    assert np.isnan(table.loc["distilled", "difference_to_best"])
    assert np.isnan(table.loc[study.teacher.name, "tokens"])
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
    table = results_table(study.scores[1:], study.evaluation, study.teacher)
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
        results_table(study.scores, study.evaluation, study.teacher)


def results(study, runs: list[dict]) -> pd.DataFrame:
    """Return the table of some runs."""
    scores = [Score.model_validate(run) for run in runs]
    return results_table(scores, study.evaluation, study.teacher)


def test_seeds_are_averaged_and_their_spread_is_in_the_errors(make_study: Callable) -> None:
    """Sequences all differ by 0; seeds by -1.0 and -3.0: mean -2, sample deviation sqrt(2), error 1."""
    study = make_study(1)
    base, other, _ = study.arms
    runs = []
    for seed, shift in enumerate((1.0, 3.0)):
        lower = {source: [loss - shift for loss in losses] for source, losses in base["losses"].items()}
        runs += [base | {"seed": seed, "seconds": 10.0 * (seed + 1)}, other | {"seed": seed, "losses": lower}]
    table = results(study, runs).set_index("model")
    assert table.loc["subnet_init", ["num_seeds", "difference"]].tolist() == [2, pytest.approx(-2.0)]
    assert table.loc["subnet_init", "difference_standard_error"] == pytest.approx(1.0)
    assert table.loc["random_init", "seconds"] == 15.0
    one = results(study, [base]).set_index("model")
    # Twice the same run: the same loss, with the same error.
    columns = ["loss", "standard_error", "perplexity", "bits_per_byte_standard_error", "loss_wikipedia"]
    assert table.loc["random_init", columns].tolist() == pytest.approx(one.loc["random_init", columns].tolist())
    alone = one.loc["random_init", "standard_error"]
    assert table.loc["subnet_init", "standard_error"] == pytest.approx(np.hypot(alone, 1.0))


def test_arms_of_other_seeds_are_not_compared(make_study: Callable) -> None:
    study = make_study(1)
    runs = [study.arms[0] | {"seed": 1}, study.arms[1] | {"seed": 2}]
    table = results(study, runs).set_index("model")
    assert np.isnan(table.loc["subnet_init", "difference"])
