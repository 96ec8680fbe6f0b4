"""What was spent and what was saved, against values worked by hand and against those that the paper prints."""

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from strategies import pythia

from budwood.arch.count import forward_flops_per_token, paper_search_flops, training_flops_per_token
from budwood.arch.spec import Architecture
from budwood.records.cost import Cost
from budwood.reporting.ledger import LEDGERS, savings, tokens_to_match, total_by_stage

# random_init ends at 5.0 nats after 400 tokens and 400 FLOPs.
BASELINE_LOSSES = [10.0, 8.0, 6.0, 5.5, 5.0]
RATIOS = [f"ratio_{ledger}" for ledger in LEDGERS]


def entry(stage: str, where: tuple[str, str, str], flops: float, tokens: int = 3) -> Cost:
    """Return a cost."""
    facts = dict(zip(("bin", "space", "arm"), where, strict=True))
    return Cost.model_validate({"stage": stage, **facts, "flops": flops, "tokens": tokens, "seconds": 2.0})


def curve(arm: str, losses: list[float]) -> pd.DataFrame:
    """Return a curve with a held-out loss every 100 tokens, and train losses in between."""
    step = np.arange(2 * len(losses) - 1)
    held_out = np.full(step.size, np.nan)
    held_out[::2] = losses
    frame = pd.DataFrame({"step": step, "tokens": 50 * step, "train_loss": 1.0, "heldout_loss": held_out})
    return frame.assign(bin="half", space="coarse", arm=arm)


def by_sequence(arm: str, losses: list[list[float]]) -> pd.DataFrame:
    """Return a curve with the losses of several sequences every 100 tokens."""
    frame = pd.DataFrame({"step": range(len(losses)), "heldout_losses": losses})
    means = [float(np.mean(values)) for values in losses]
    return frame.assign(tokens=100 * frame["step"], heldout_loss=means, bin="half", space="coarse", arm=arm)


def trained(arm: str, space: str = "coarse", flops: float = 400.0, tokens: int = 400) -> Cost:
    """Return the cost of the student's training, one FLOP a token."""
    return entry("training", ("half", space, arm), flops, tokens)


TRAINED = [trained("random_init"), trained("subnet_init"), trained("distilled")]
SEARCHED = [
    entry("calibration", ("", "", ""), 10.0),
    entry("search", ("half", "coarse", ""), 90.0),
    entry("search", ("quarter", "coarse", ""), 7_000.0),
]
LEDGER = [
    *SEARCHED,
    *TRAINED,
    entry("search", ("half", "fine", ""), 20.0),
    entry("compensation", ("half", "fine", ""), 5.0),
    trained("subnet_init", "fine", 30.0, 10),
    trained("random_init", "fine", 800.0, 10),
    trained("distilled", "fine", 40.0, 10),
    entry("teacher", ("half", "fine", "distilled"), 60.0, 10),
    entry("teacher", ("half", "coarse", "distilled"), 1200.0, 400),
    entry("heldout", ("half", "coarse", "subnet_init"), 9_000.0),
    entry("evaluation", ("half", "coarse", "subnet_init"), 9_000.0),
]


def saved(*arms: pd.DataFrame, ledger: list[Cost] | None = None) -> pd.DataFrame:
    """Return the savings of some arms beside the baseline, by arm."""
    frame = savings(pd.concat([curve("random_init", BASELINE_LOSSES), *arms]), TRAINED if ledger is None else ledger)
    return frame.set_index("arm")


def test_a_cached_teacher_is_charged_in_full_to_the_arm_it_serves() -> None:
    """At the match: 200 of its own, 100 of the search, 65 of the selection; 600 of a live teacher, 60 of probes."""
    arms = saved(
        *(curve(arm, [9.0, 7.0, 5.0]) for arm in ("subnet_init", "distilled")),
        ledger=[*LEDGER, entry("teacher_cache", ("", "", "distilled"), 50.0)],
    )
    assert arms.loc["distilled", "teacher_flops"] == pytest.approx(600 + 60 + 50)
    assert arms.loc["distilled", "ratio_training"] == pytest.approx(2)
    assert arms.loc["distilled", "ratio_with_teacher"] == pytest.approx(400 / (365 + 710))
    assert arms.loc["subnet_init", "teacher_flops"] == 0


def test_reached_by_interpolation() -> None:
    """7 -> 4 crosses 5 after two thirds of the second hundred tokens: 166.67 tokens; 400 FLOPs buy 2.4 of it."""
    row = saved(curve("subnet_init", [9.0, 7.0, 4.0, 6.0, 4.0]), ledger=LEDGER).loc["subnet_init"]
    match = 500 / 3
    assert row["status"] == "reached"
    assert row["target_loss"] == 5.0
    assert (row["baseline_tokens"], row["baseline_flops"]) == (400, 400)
    assert row["tokens_to_match"] == pytest.approx(match)
    assert row["flops_to_match"] == pytest.approx(match)
    assert row["search_flops"] == 100
    # The other space: its search, its compensation, and the 30 FLOPs of the same arm there.
    assert row["selection_flops"] == 55
    assert row["teacher_flops"] == 0
    assert row[RATIOS].tolist() == pytest.approx([400 / c for c in (match, match + 100, match + 155, match + 155)])


def test_the_teacher_has_a_ledger_of_its_own() -> None:
    """After 100 tokens: 100 of the student, 3 FLOPs a token of the teacher, and 60 in the probe."""
    row = saved(curve("distilled", [9.0, 5.0, 4.0]), ledger=LEDGER).loc["distilled"]
    assert (row["tokens_to_match"], row["flops_to_match"], row["teacher_flops"]) == (100, 100, 360)
    assert row[RATIOS].tolist() == pytest.approx([400 / c for c in (100, 200, 265, 625)])


@pytest.mark.parametrize("start", [5.0, 4.0])
def test_at_step_0(start: float) -> None:
    """Matched before training: no training ratio, but 400 / 100 against the search."""
    row = saved(curve("subnet_init", [start, 3.0]), ledger=LEDGER).loc["subnet_init"]
    assert row["status"] == "at step 0"
    assert (row["tokens_to_match"], row["flops_to_match"]) == (0, 0)
    assert np.isnan(row["ratio_training"])
    assert row["ratio_with_search"] == 4.0


def test_at_step_0_without_a_recorded_search_has_no_ratio() -> None:
    assert saved(curve("subnet_init", [4.0, 3.0])).loc["subnet_init", RATIOS].isna().all()


def test_not_reached() -> None:
    row = saved(curve("subnet_init", [9.0, 7.0, 5.01]), ledger=LEDGER).loc["subnet_init"]
    assert row["status"] == "not reached"
    assert row[["tokens_to_match", "flops_to_match", "teacher_flops", *RATIOS]].isna().all()


@pytest.mark.parametrize("baseline", [[], [curve("random_init", [10.0, np.nan])]])
def test_no_baseline(baseline: list[pd.DataFrame]) -> None:
    """Without a baseline, or one that diverged, there is nothing to match."""
    row = savings(pd.concat([*baseline, curve("subnet_init", [4.0, 3.0])]), LEDGER).iloc[0]
    assert row["status"] == "no baseline"
    assert row[["target_loss", "tokens_to_match", "baseline_flops", *RATIOS]].isna().all()


def test_the_baseline_has_no_row() -> None:
    assert saved().empty
    assert list(saved(curve("subnet_init", [9.0]), curve("distilled", [9.0])).index) == ["subnet_init", "distilled"]


def test_any_arm_can_be_the_reference() -> None:
    curves = pd.concat([curve("random_init", BASELINE_LOSSES), curve("subnet_init", [9.0, 6.0])])
    row = savings(curves, TRAINED, reference="subnet_init").set_index("arm").loc["random_init"]
    assert (row["target_loss"], row["tokens_to_match"], row["ratio_training"]) == (6.0, 200.0, 0.5)


def test_a_curve_must_start_at_step_0() -> None:
    late = curve("subnet_init", [9.0, 4.0]).query("step > 0")
    with pytest.raises(ValueError, match="half/coarse/subnet_init has no finite held-out loss at step 0"):
        saved(late)


def test_an_arm_whose_training_was_not_charged_is_refused() -> None:
    with pytest.raises(ValueError, match="ledger: the training of half/coarse/subnet_init is missing"):
        saved(curve("subnet_init", [9.0, 4.0]), ledger=TRAINED[:1])


@pytest.mark.slow
@given(st.lists(st.floats(0.5, 12.0), min_size=2, max_size=6), st.floats(0.1, 1e12))
def test_the_match_lies_on_the_curve(losses: list[float], scale: float) -> None:
    """The curve read at `tokens_to_match` gives the target, and a unit of cost cancels in the ratio."""
    own = curve("subnet_init", losses)
    row = saved(own).loc["subnet_init"]
    if row["status"] == "reached":
        read = np.interp(row["tokens_to_match"], 100 * np.arange(len(losses)), losses)
        assert read == pytest.approx(5.0)
        assert min(losses[: int(row["tokens_to_match"] // 100) + 1]) > 5.0
        scaled = [trained(arm, flops=400.0 * scale) for arm in ("random_init", "subnet_init")]
        assert saved(own, ledger=scaled)["ratio_training"].iloc[0] == pytest.approx(row["ratio_training"])


def test_every_row_has_its_own_match() -> None:
    losses = np.array([[4.0, 1.0, 0.0], [4.0, 3.0, 2.0], [4.0, 4.0, 4.0], [1.0, 4.0, 0.0]])
    matched = tokens_to_match(np.array([0.0, 10.0, 30.0]), losses, np.array([2.5, 2.5, 2.5, 1.0]))
    assert matched.tolist() == [5.0, 20.0, np.inf, 0.0]


def test_sequences_that_all_agree_leave_no_doubt() -> None:
    """Shifting a sequence for both arms changes nothing: the bootstrap draws sequences together."""
    hard = np.array([0.0, 3.0, -2.0, 7.0])
    curves = [
        by_sequence(arm, [list(loss + hard) for loss in losses])
        for arm, losses in {"random_init": [9.0, 5.0], "subnet_init": [7.0, 4.0]}.items()
    ]
    row = savings(pd.concat(curves), TRAINED).iloc[0]
    assert (row["num_runs"], row["tokens_to_match"]) == (1, pytest.approx(200 / 3))
    assert row["tokens_to_match_low"] == row["tokens_to_match_high"] == pytest.approx(200 / 3)
    assert row["ratio_training_low"] == row["ratio_training_high"] == pytest.approx(100 / (200 / 3))


def test_sequences_that_disagree_widen_the_interval() -> None:
    """One sequence matches after 50 tokens, the other never: resamples of either alone are the ends."""
    curves = pd.concat(
        [by_sequence("random_init", [[9.0, 9.0], [5.0, 5.0]]), by_sequence("subnet_init", [[8.0, 8.0], [2.0, 6.0]])]
    )
    row = savings(curves, LEDGER).iloc[0]
    assert row["tokens_to_match"] == pytest.approx(75.0)
    assert (row["tokens_to_match_low"], row["tokens_to_match_high"]) == (pytest.approx(50.0), np.inf)
    # No teacher runs beside this arm, so the last two ledgers are alike.
    assert row[[f"{ratio}_low" for ratio in RATIOS]].tolist() == [0] * 4
    ends = row[[f"{ratio}_high" for ratio in RATIOS]].tolist()
    assert ends == pytest.approx([100 / cost for cost in (50, 150, 205, 205)])


def test_seeds_add_their_spread() -> None:
    """Two seeds of an arm end at 3 and 5 nats, so the mean is 4 +- d, where d is t of one degree: 12.7 for 95%.

    From 7 nats it falls to 5 after 200 / (3 - d) tokens; it never does where d > 1, which is so in a quarter of cases.
    """
    arm = [curve("subnet_init", losses).assign(seed=seed) for seed, losses in enumerate(([7.0, 3.0], [7.0, 5.0]))]
    curves = pd.concat([curve("random_init", [9.0, 5.0]).assign(seed=0), *arm])
    row = savings(curves, TRAINED).iloc[0]
    assert row["num_runs"] == 2
    assert row["tokens_to_match"] == pytest.approx(200 / 3)
    assert row["tokens_to_match_low"] == pytest.approx(200 / (3 + 12.7), rel=0.25)
    assert row["tokens_to_match_high"] == np.inf


def test_one_run_without_sequences_claims_no_certainty() -> None:
    row = saved(curve("subnet_init", [9.0, 4.0])).loc["subnet_init"]
    assert row[["tokens_to_match_low", "ratio_training_low", "ratio_with_search_high"]].isna().all()


def test_other_held_out_sequences_are_refused() -> None:
    curves = [by_sequence("random_init", [[9.0, 9.0], [5.0, 5.0]]), by_sequence("subnet_init", [[8.0] * 3, [4.0] * 3])]
    with pytest.raises(ValueError, match="different numbers of held-out sequences"):
        savings(pd.concat(curves), TRAINED)


def test_total_by_stage_sums_in_the_order_of_the_stages() -> None:
    totals = total_by_stage(LEDGER[::-1])
    assert totals["stage"].tolist() == [
        *("calibration", "search", "compensation", "training", "teacher", "heldout", "evaluation")
    ]
    assert totals["flops"].tolist() == [10, 7_110, 5, 2_070, 1_260, 9_000, 9_000]


def test_probes_are_the_cost_of_the_choice() -> None:
    """Match after 100 tokens at one FLOP each; 100 of the search; another space's probe 30, own 6 of its decay.

    The arm took 120 tokens over from its probe: 20 of them lie behind the match, and were spent before the choice.
    """
    probes = [
        entry("probe", ("half", "fine", ""), 30.0),
        entry("probe", ("half", "coarse", ""), 6.0),
        entry("probe", ("half", "coarse", "subnet_init"), 120.0, 120),
        entry("probe", ("quarter", "coarse", ""), 7_000.0),
    ]
    arms = saved(
        *(curve(arm, [9.0, 5.0, 4.0]) for arm in ("subnet_init", "distilled")), ledger=[*SEARCHED, *TRAINED, *probes]
    )
    assert arms.loc["subnet_init", "selection_flops"] == 30 + 6 + 20
    assert arms.loc["subnet_init", RATIOS].tolist() == pytest.approx([400 / c for c in (100, 200, 256, 256)])
    # Nobody else has its steps.
    assert arms.loc["distilled", "selection_flops"] == 30 + 6 + 120
    assert arms.loc["distilled", "ratio_with_selection"] == pytest.approx(400 / 356)


@pytest.mark.parametrize("num_seeds", [1, 3])
def test_other_spaces_cost_one_run_whatever_the_number_of_seeds(num_seeds: int) -> None:
    """As the worked values of one seed: 25 of the search there, 30 or 40 of a run, 60 of its teacher."""
    runs = [cost for cost in LEDGER if cost.stage in {"training", "teacher"}]
    arms = saved(
        *(curve(arm, [9.0, 5.0, 4.0]) for arm in ("subnet_init", "distilled")), ledger=LEDGER + runs * (num_seeds - 1)
    )
    assert arms["selection_flops"].tolist() == [25 + 30, 25 + 40]
    assert arms["ratio_with_teacher"].tolist() == pytest.approx([400 / (200 + 55), 400 / (200 + 65 + 360)])


def test_a_run_that_continued_its_probe_there_is_charged_in_two_parts() -> None:
    own = [entry("probe", ("half", "fine", "subnet_init"), 10.0, 10), trained("subnet_init", "fine", 20.0, 20)]
    ledger = [*TRAINED, *own, trained("subnet_init", "fine", 30.0, 30)]
    assert saved(curve("subnet_init", [9.0, 5.0]), ledger=ledger).loc["subnet_init", "selection_flops"] == 30


def test_a_match_behind_the_probe_has_paid_for_it() -> None:
    own = entry("probe", ("half", "coarse", "subnet_init"), 120.0, 120)
    row = saved(curve("subnet_init", [9.0, 8.0, 5.0]), ledger=[*TRAINED, own]).loc["subnet_init"]
    assert (row["flops_to_match"], row["selection_flops"], row["ratio_with_selection"]) == (200, 0, 2.0)


def test_teachers_in_probes_are_charged_with_the_teacher() -> None:
    ledger = [*TRAINED, entry("probe", ("half", "fine", ""), 30.0), entry("teacher", ("half", "fine", ""), 9.0)]
    row = saved(curve("subnet_init", [9.0, 5.0]), ledger=ledger).loc["subnet_init"]
    assert (row["selection_flops"], row["teacher_flops"]) == (30, 9)


def test_the_reference_architecture_is_charged_with_its_training_alone() -> None:
    """All spaces of the bin share its training, three FLOPs a token; it falls to the target after 200 tokens."""
    shared = entry("training", ("half", "", "reference_init"), 1200.0, 400)
    row = saved(curve("reference_init", [9.0, 7.0, 5.0]), ledger=[*LEDGER, shared]).loc["reference_init"]
    assert (row["flops_to_match"], row["search_flops"], row["selection_flops"]) == (600, 0, 0)
    assert row[RATIOS].tolist() == pytest.approx([400 / 600] * 4)


def test_arms_are_measured_against_the_reference_architecture() -> None:
    """It ended at 6 nats after 1,200 FLOPs; the sub-network is there after 150 tokens and a search."""
    shared = entry("training", ("half", "", "reference_init"), 1200.0, 400)
    curves = pd.concat([curve("reference_init", [10.0, 9.0, 8.0, 7.0, 6.0]), curve("subnet_init", [9.0, 7.0, 5.0])])
    row = savings(curves, [*SEARCHED, *TRAINED, shared], "reference_init").iloc[0]
    assert (row["baseline"], row["baseline_flops"], row["tokens_to_match"]) == ("reference_init", 1200, 150)
    assert row[RATIOS[:2]].tolist() == pytest.approx([1200 / 150, 1200 / 250])


PYTHIA_410M, PYTHIA_1B, PYTHIA_28B = (
    pythia(50304, *sizes) for sizes in ((24, 1024, 16), (16, 2048, 8), (32, 2560, 32))
)
PAPER = [
    # Table 9 and the training of the bin's Pythia, in exaFLOP; then savings: tables 12 and 11, and what the same inputs
    # give with all four searches, and with the three losing probes too.
    (PYTHIA_410M, (2.3, 27.25), (2.0, 1.71, 1.18, 0.69)),
    (PYTHIA_1B, (5.4, 62.55), (2.07, 1.75, 1.21, 0.70)),
    (PYTHIA_28B, (15.4, 178.85), (9.32, 5.16, 2.21, 0.95)),
]
BUDGET, PROBE, SPACES = 10_000_000_000, 2_000_000_000, ("coarse", "coarse_layerwise", "fine", "fine_layerwise")


REFERENCE = curve("random_init", [9.0, 5.0]).assign(tokens=lambda frame: frame["step"] * BUDGET / 2)


def paper_search(center: Architecture) -> float:
    """Return the cost of one of the paper's searches."""
    return paper_search_flops(center, num_evaluations=5_050, num_sequences=1_000, sequence_length=512)


def paper_ledger(center: Architecture, probe_tokens: int) -> list[Cost]:
    """Return the paper's study of one bin: four searches, a probe of every space, and the winner's training."""
    per_token = training_flops_per_token(center, context=2048)
    searches = [entry("search", ("half", space, ""), paper_search(center)) for space in SPACES]
    runs = [trained(arm, "coarse", BUDGET * per_token, BUDGET) for arm in ("random_init", "subnet_init", "distilled")]
    probes = [
        trained(arm, space, probe_tokens * per_token, probe_tokens)
        for space in SPACES[1:]
        for arm in ("subnet_init", "distilled")
        if probe_tokens
    ]
    return [*searches, *runs, *probes]


def matching_after(arm: str, saving: float) -> pd.DataFrame:
    """Return the curve of an arm that falls to 5 nats after a share 1 / saving of the budget."""
    frame = curve(arm, [5.0 + 1 / saving, 4.0 + 1 / saving])
    return frame.assign(tokens=frame["step"] * BUDGET / 2)


@pytest.mark.parametrize(("center", "costs", "ratios"), PAPER)
def test_tables_9_11_and_12(center, costs, ratios) -> None:
    search, training = costs
    assert round(paper_search(center) / 1e18, 1) == search
    curves = pd.concat([REFERENCE, matching_after("subnet_init", ratios[0])])
    row = savings(curves, paper_ledger(center, 0)).iloc[0]
    assert row["baseline_flops"] / 1e18 == pytest.approx(training, rel=1e-3)
    assert row[RATIOS[:3]].tolist() == pytest.approx(ratios[:3], rel=0.01)
    row = savings(curves, paper_ledger(center, PROBE)).iloc[0]
    assert row[RATIOS].tolist() == pytest.approx([*ratios[:2], ratios[3], ratios[3]], rel=0.01)


def test_distillation_adds_the_teachers_forward() -> None:
    """The audit: Pythia-6.9B adds 14.37 GFLOP to every token."""
    teacher = pythia(50432, 32, 4096, 32)
    passes = BUDGET * forward_flops_per_token(teacher, context=2048)
    assert passes / BUDGET / 1e9 == pytest.approx(14.37, abs=0.005)
    curves = pd.concat([REFERENCE, matching_after("distilled", 2.0)])
    taught = [entry("teacher", ("half", "coarse", "distilled"), passes, BUDGET)]
    row = savings(curves, paper_ledger(PYTHIA_410M, 0) + taught).iloc[0]
    assert row["ratio_with_selection"] == pytest.approx(1.18, rel=0.01)
    assert row["teacher_flops"] / 1e18 == pytest.approx(71.85, rel=1e-3)
    assert row["ratio_with_teacher"] == pytest.approx(27.25 / (13.625 + 4 * 2.349 + 71.85), rel=1e-3)
