"""What was spent and what was saved, against values worked by hand."""

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from budwood.reporting.ledger import savings, total_by_stage
from budwood.reporting.records import LedgerEntry

# random_init ends at 5.0 nats after 400 tokens and 400 FLOPs.
BASELINE_LOSSES = [10.0, 8.0, 6.0, 5.5, 5.0]


def entry(stage: str, where: tuple[str, str, str], flops: float) -> LedgerEntry:
    """Return a cost."""
    return {
        "stage": stage,
        "bin": where[0],
        "space": where[1],
        "arm": where[2],
        "flops": flops,
        "tokens": 3,
        "seconds": 2.0,
    }


def curve(arm: str, losses: list[float], flops_per_token: float = 1.0) -> pd.DataFrame:
    """Return a curve with a held-out loss every 100 tokens, and train losses in between."""
    step = np.arange(2 * len(losses) - 1)
    held_out = np.full(step.size, np.nan)
    held_out[::2] = losses
    frame = pd.DataFrame({"step": step, "tokens": 50 * step, "train_loss": 1.0, "heldout_loss": held_out})
    return frame.assign(bin="half", space="coarse", arm=arm, flops=frame["tokens"] * flops_per_token)


def saved(*arms: pd.DataFrame, ledger: list[LedgerEntry] | None = None) -> pd.DataFrame:
    """Return the savings of some arms beside the baseline, by arm."""
    return savings(pd.concat([curve("random_init", BASELINE_LOSSES), *arms]), ledger or []).set_index("arm")


LEDGER = [
    entry("calibration", ("", "", ""), 10.0),
    entry("search", ("half", "coarse", ""), 90.0),
    entry("search", ("quarter", "coarse", ""), 7_000.0),
    entry("selection", ("half", "coarse", "subnet_init"), 50.0),
    entry("selection", ("half", "coarse", "distilled"), 100.0),
    entry("training", ("half", "coarse", "subnet_init"), 400.0),
    entry("evaluation", ("half", "coarse", "subnet_init"), 9_000.0),
]


def test_a_cached_teacher_is_charged_in_full_to_the_arm_it_serves() -> None:
    """400 FLOPs of the baseline against 200 of its own and 50 of the teacher, then 100 more of the search."""
    ledger = [*LEDGER, entry("teacher_cache", ("", "", "distilled"), 50.0)]
    arms = saved(*(curve(arm, [9.0, 7.0, 5.0]) for arm in ("subnet_init", "distilled")), ledger=ledger)
    assert arms.loc["distilled", "ratio_training"] == pytest.approx(400 / 250)
    assert arms.loc["distilled", "ratio_with_search"] == pytest.approx(400 / 350)
    assert arms.loc["subnet_init", "ratio_training"] == pytest.approx(2)
    assert set(arms["search_flops"]) == {100.0}


def test_reached_by_interpolation() -> None:
    """7 -> 4 crosses 5 after two thirds of the second hundred tokens: 166.67 tokens; 400 FLOPs buy 2.4 of it."""
    row = saved(curve("subnet_init", [9.0, 7.0, 4.0, 6.0, 4.0]), ledger=LEDGER).loc["subnet_init"]
    assert row["status"] == "reached"
    assert row["target_loss"] == 5.0
    assert row["tokens_to_match"] == pytest.approx(500 / 3)
    assert row["flops_to_match"] == pytest.approx(500 / 3)
    assert row["search_flops"] == 100
    assert row["ratio_training"] == pytest.approx(400 / (500 / 3))
    assert row["ratio_with_search"] == pytest.approx(400 / (500 / 3 + 100))
    assert row["ratio_with_selection"] == pytest.approx(400 / (500 / 3 + 150))


def test_teachers_flops_count() -> None:
    """A distilled arm that pays 3 FLOPs a token matches after 100 tokens and 300 FLOPs."""
    row = saved(curve("distilled", [9.0, 5.0, 4.0], flops_per_token=3.0), ledger=LEDGER).loc["distilled"]
    assert (row["tokens_to_match"], row["flops_to_match"]) == (100, 300)
    assert row["ratio_training"] == pytest.approx(4 / 3)
    assert row["ratio_with_search"] == pytest.approx(1.0)
    assert row["ratio_with_selection"] == pytest.approx(0.8)


@pytest.mark.parametrize("start", [5.0, 4.0])
def test_at_step_0(start: float) -> None:
    """Matched before training: no training ratio, but 400 / 100 against the search."""
    row = saved(curve("subnet_init", [start, 3.0]), ledger=LEDGER).loc["subnet_init"]
    assert row["status"] == "at step 0"
    assert (row["tokens_to_match"], row["flops_to_match"]) == (0, 0)
    assert np.isnan(row["ratio_training"])
    assert row["ratio_with_search"] == 4.0


def test_at_step_0_without_a_recorded_search_has_no_ratio() -> None:
    row = saved(curve("subnet_init", [4.0, 3.0])).loc["subnet_init"]
    assert row[["ratio_training", "ratio_with_search", "ratio_with_selection"]].isna().all()


def test_not_reached() -> None:
    row = saved(curve("subnet_init", [9.0, 7.0, 5.01]), ledger=LEDGER).loc["subnet_init"]
    assert row["status"] == "not reached"
    numbers = ["tokens_to_match", "flops_to_match", "ratio_training", "ratio_with_search", "ratio_with_selection"]
    assert row[numbers].isna().all()


@pytest.mark.parametrize("baseline", [[], [curve("random_init", [10.0, np.nan])]])
def test_no_baseline(baseline: list[pd.DataFrame]) -> None:
    """Without a baseline, or one that diverged, there is nothing to match."""
    row = savings(pd.concat([*baseline, curve("subnet_init", [4.0, 3.0])]), LEDGER).iloc[0]
    assert row["status"] == "no baseline"
    assert row[["target_loss", "tokens_to_match", "ratio_training", "ratio_with_search"]].isna().all()


def test_the_baseline_has_no_row() -> None:
    assert saved().empty
    assert list(saved(curve("subnet_init", [9.0]), curve("distilled", [9.0])).index) == ["subnet_init", "distilled"]


def test_a_curve_must_start_at_step_0() -> None:
    late = curve("subnet_init", [9.0, 4.0]).query("step > 0")
    with pytest.raises(ValueError, match="half/coarse/subnet_init has no finite held-out loss at step 0"):
        saved(late)


@settings(max_examples=40, deadline=None)
@given(st.lists(st.floats(0.5, 12.0), min_size=2, max_size=6), st.floats(0.1, 1e12))
def test_the_match_lies_on_the_curve(losses: list[float], scale: float) -> None:
    """The curve read at `tokens_to_match` gives the target, and a unit of cost cancels in the ratio."""
    own = curve("subnet_init", losses)
    row = saved(own).loc["subnet_init"]
    if row["status"] == "reached":
        read = np.interp(row["tokens_to_match"], 100 * np.arange(len(losses)), losses)
        assert read == pytest.approx(5.0)
        assert min(losses[: int(row["tokens_to_match"] // 100) + 1]) > 5.0
        curves = pd.concat([curve("random_init", BASELINE_LOSSES, scale), curve("subnet_init", losses, scale)])
        assert savings(curves, [])["ratio_training"].iloc[0] == pytest.approx(row["ratio_training"])


def test_total_by_stage_sums_in_the_order_of_the_stages() -> None:
    totals = total_by_stage(LEDGER[::-1])
    assert totals["stage"].tolist() == ["calibration", "search", "selection", "training", "evaluation"]
    assert totals["flops"].tolist() == [10, 7_090, 150, 400, 9_000]
    assert totals["tokens"].tolist() == [3, 6, 6, 3, 3]


def test_unknown_stage_is_refused() -> None:
    with pytest.raises(ValueError, match="stage 'serch' is unknown; allowed are calibration, search"):
        total_by_stage([entry("serch", ("", "", ""), 1.0)])
