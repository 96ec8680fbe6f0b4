"""Arms that were not trained and measured alike are named, and nothing is concluded from them."""

from collections.abc import Callable

import numpy as np
import pytest
from reports import report_on, section

from budwood.reporting.benchmarks import tasks_table
from budwood.reporting.matching import arm_settings, misbooked, mismatches, unlike
from budwood.reporting.page import html_report

STALE = [
    (
        {"tokens": 4096},
        "training tokens: 20,480 (random_init of coarse_uniform; subnet_init of coarse_uniform) and 4,096",
    ),
    ({"made_with": {"schedule": {"global_batch": 8, "sequence_length": 256, "shape": "cosine"}}}, "global batch"),
    ({"made_with": {"schedule": {"global_batch": 4, "sequence_length": 128, "shape": "cosine"}}}, "sequence length"),
    ({"made_with": {"schedule": {"global_batch": 4, "sequence_length": 256}}}, "shape: cosine (random_init"),
    ({"made_with": {"corpus": "other"}}, "text"),
    ({"tokens_per_sequence": 128}, "validation windows"),
    ({"num_parameters": 7}, "parameters"),
]


def test_a_ledger_of_other_trainings_is_named(make_study: Callable) -> None:
    study = make_study(2)
    assert misbooked(study.scores, study.findings.ledger) == []
    (training,) = [
        cost
        for cost in study.ledger
        if (cost["stage"], cost["space"], cost["arm"]) == ("training", "coarse_uniform", "distilled")
    ]
    training["tokens"] //= 2
    found = misbooked(study.scores, study.findings.ledger)
    assert found == ["quarter: distilled of coarse_uniform was trained on 20,480 tokens, the ledger has 10,240."]
    shown = report_on(study.findings).warning
    assert shown.startswith("**The ledger is of other trainings**")
    assert "the ledger has 10,240" in shown


def change(study, arm: int, **values: object) -> None:
    """Change a record of a study."""
    made_with = study.arms[arm]["made_with"] | values.pop("made_with", {})
    study.arms[arm] = study.arms[arm] | values | {"made_with": made_with}


@pytest.mark.parametrize("num_variants", [1, 4])
def test_arms_that_match_give_no_warning(make_study: Callable, num_variants: int) -> None:
    study = make_study(num_variants)
    assert mismatches(study.scores) == []
    assert unlike(study.scores) == set()
    assert report_on(study.findings).warning == ""
    assert "comparable" not in section(study.findings, "Why to believe it")


@pytest.mark.slow
@pytest.mark.parametrize(("change_", "named"), STALE)
def test_a_stale_arm_is_named_and_gets_no_verdict(make_study: Callable, change_: dict, named: str) -> None:
    study = make_study(1)
    change(study, 2, **change_)
    (found,) = mismatches(study.scores)
    assert f"arms differ in {named}" in found
    assert found.startswith("quarter")
    assert unlike(study.scores) == {("quarter", "coarse_uniform", "distilled")}
    table = study.results.set_index("model")
    assert np.isnan(table.loc["distilled", ["difference", "difference_wikipedia"]].astype(float)).all()
    assert np.isfinite(table.loc["subnet_init", "difference"])
    # The best arm is the stale one: no lead over it either.
    assert np.isnan(table.loc["subnet_init", "difference_to_best"])
    tasks = tasks_table(study.answers, unlike(study.scores))
    assert tasks.groupby("model")["difference"].count()[["subnet_init", "distilled"]].tolist() == [2, 0]
    report = report_on(study.findings)
    taken, told = (section(study.findings, title) for title in ("Models to take", "Why to believe it"))
    assert ", not compared with `subnet_init`, which was not trained and measured as it was." in taken
    assert "not decidable" not in taken
    assert "`subnet_init` is lower in 1 of 1; `distilled` is not comparable in 1 of 1. Anything" in told
    assert "What is not comparable was not trained and measured as `random_init` was, see the top" in told
    (row,) = [line for line in report.sections[0].body.splitlines() if "| distilled " in line]
    assert "not comparable" in row
    assert "beyond the noise" not in row
    page = html_report(report, {})
    assert page.index("<aside>") < page.index("<h2")
    assert report.markdown.index("> **Some arms were not") < report.markdown.index("\n## ")


def test_what_an_arm_may_choose_does_not_count(make_study: Callable) -> None:
    """The learning rate is the arm's own; micro batches, checkpoints and seeds do not change what is compared."""
    study = make_study(1)
    free = {"micro_batch": 1, "checkpoint_steps": 7, "peak_learning_rate": 1.0, "seed": 9, "tokens": 1}
    schedule = study.arms[1]["made_with"]["schedule"] | free
    change(study, 1, learning_rate=1.0, made_with={"schedule": schedule})
    assert mismatches(study.scores) == []


def test_spaces_of_a_bin_differ_in_their_cut_and_bins_in_anything(make_study: Callable) -> None:
    study = make_study(3)
    for place in range(6, 9):
        change(study, place, tokens=1, made_with={"corpus": "other"})
    assert mismatches(study.scores) == []
    for place in range(3, 6):
        change(study, place, tokens=2)
    (found,) = mismatches(study.scores)
    assert "coarse_layerwise" in found
    # Within each variant the arms still match.
    assert unlike(study.scores) == set()


def test_arms_of_one_variant_start_from_one_cut(make_study: Callable) -> None:
    """Random weights have no start of their own; neither has a reference, whose size is its own too."""
    study = make_study(1)
    change(study, 2, made_with={"start": "an older cut"})
    (found,) = mismatches(study.scores)
    assert found.startswith("quarter · coarse_uniform: arms differ in sub-network: False of")
    assert "random_init" not in found
    study = make_study(1)
    study.arms.append(study.arms[0] | {"arm": "reference_init", "num_parameters": 7})
    assert mismatches(study.scores) == []
    change(study, 3, tokens=1)
    assert unlike(study.scores, "reference_init") == {
        ("quarter", "coarse_uniform", arm) for arm in ("random_init", "subnet_init", "distilled")
    }


def test_the_report_gives_the_settings_of_the_records(make_study: Callable) -> None:
    study = make_study(1)
    assert arm_settings(study.scores[0])["schedule"]["global_batch"] == 4
    made = report_on(study.findings).sections[-1].body
    assert "- training:\n  - tokens: `20480`" in made
    assert "    - global_batch: `4`" in made
    # What differs is given for each arm.
    own = "- training of each arm:\n  - quarter · coarse_uniform, random_init, seed 42:\n    - learning rate: `0.003`"
    assert own in made
