"""What few seeds say, against a truth that is known: intervals must have it about as often as they claim."""

from collections.abc import Callable

import numpy as np
import pytest

from budwood.records.training import Score
from budwood.reporting.ledger import _interval, _Runs
from budwood.reporting.tables import _paired, noise_rule, results_table, verdict

FEW = pytest.mark.parametrize("num_seeds", [2, 3, 5])
TOKENS, LOSSES, TARGET, TRUTH = np.arange(0.0, 500.0, 100.0), [8.0, 7.0, 6.0, 5.0, 4.0], [5.5], 250.0
"""A curve that falls to the target after so many tokens."""
NUM_STUDIES = 100


def runs(rng: np.random.Generator, losses: list[float], num_seeds: int, num_sequences: int = 8) -> np.ndarray:
    """Return [S, P, N] losses of runs whose seeds spread by 0.1 nats, and sequences by 0.05."""
    shape = num_seeds, len(losses), num_sequences
    return np.array(losses)[:, None] + rng.normal(0, 0.1, (num_seeds, 1, 1)) + rng.normal(0, 0.05, shape)


@FEW
def test_intervals_of_savings_have_the_truth_in_nine_of_ten_studies(num_seeds: int) -> None:
    rng, covered = np.random.default_rng(num_seeds), []
    for _ in range(NUM_STUDIES):
        arm, target = (_Runs(TOKENS[: len(own)], runs(rng, own, num_seeds)) for own in (LOSSES, TARGET))
        low, high = _interval(arm, target)
        covered.append(low <= TRUTH <= high)
    assert np.mean(covered) >= 0.9


@FEW
def test_no_difference_is_beyond_the_noise_in_one_of_twenty_studies(num_seeds: int) -> None:
    """Two errors of few seeds would be exceeded in up to 28% of them."""
    rng, words = np.random.default_rng(num_seeds), []
    for _ in range(NUM_STUDIES):
        one, other = ({seed: {"": run[0]} for seed, run in enumerate(runs(rng, [5.0], num_seeds))} for _ in range(2))
        words.append(verdict(*_paired(one, other, "")))
    assert np.mean([word == "within the noise" for word in words]) >= 0.9


def test_the_noise_of_seeds_by_hand(make_study: Callable) -> None:
    """Two seeds differ by 1 and 3 nats on every sequence: error 1 and t 12.7; of one seed the error is that of 64."""
    study = make_study(1)
    base, other, _ = study.arms
    runs = []
    for seed, shift in enumerate((1.0, 3.0)):
        lower = {source: [loss - shift for loss in losses] for source, losses in base["losses"].items()}
        runs += [base | {"seed": seed}, other | {"seed": seed, "losses": lower}]
    table = results_table([Score.model_validate(run) for run in runs], study.evaluation, study.teacher)
    row = table.set_index("model").loc["subnet_init"]
    assert row[["difference", "difference_standard_error"]].tolist() == pytest.approx([-2.0, 1.0])
    assert row[["difference_noise", "difference_noise_wikipedia"]].tolist() == pytest.approx([12.7062, 12.7062])
    assert verdict(*row[["difference", "difference_standard_error", "difference_noise"]]) == "within the noise"
    alone = study.results.set_index("model").loc["subnet_init"]
    assert alone["difference_noise"] == pytest.approx(2 * alone["difference_standard_error"])


def test_the_rule_is_told() -> None:
    assert noise_rule(1) == "more than 2 paired standard errors"
    assert "2 paired standard errors over sequences and 4.3 over the 3 seeds" in noise_rule(3)


def test_seeds_that_agree_leave_no_doubt() -> None:
    """Weights of the runs sum to one, so what all of them have is not spread."""
    one = runs(np.random.default_rng(0), LOSSES, 1)
    target = _Runs(TOKENS[:1], np.full((1, 1, 8), 5.5))
    found = [_interval(_Runs(TOKENS, np.repeat(one, num_seeds, axis=0)), target) for num_seeds in (1, 3)]
    assert found[0] == pytest.approx(found[1])
