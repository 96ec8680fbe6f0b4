"""Answers and speeds, against values worked by hand."""

from collections.abc import Callable

import numpy as np
import pytest

from budwood.reporting.benchmarks import mean_over_tasks, speeds_table, tasks_table


def test_answers_by_hand(make_study: Callable) -> None:
    """Right in 1 of 4, then in 3 of 4: differences 0, 1, 1, 0; mean 0.5, deviation 1 / sqrt(3), error 1 / sqrt(12)."""
    study = make_study(1)
    for record, answers in zip(study.downstream[1:], ([1, 0, 0, 0], [1, 1, 1, 0], [0, 0, 0, 1]), strict=True):
        record["tasks"][0] |= {"answers": answers, "value": sum(answers) / 4, "num_questions": 4}
    table = tasks_table(study.answers).query("task == 'last_word'").set_index("model")
    assert table.index.tolist() == ["SmolLM2-135M-Instruct", "random_init", "subnet_init", "distilled"]
    assert table.loc["subnet_init", "value"] == 0.75
    assert table.loc["subnet_init", "difference"] == 0.5
    assert table.loc["subnet_init", "difference_standard_error"] == pytest.approx(1 / np.sqrt(12))
    assert np.isnan(table.loc[["SmolLM2-135M-Instruct", "random_init"], "difference"].to_numpy()).all()
    assert np.isnan(table["chance"]).all()
    assert set(table["harness"]) == {"lm_eval 0.4.13"}


def test_a_mean_says_nothing_of_models_that_lack_one_of_its_tasks(make_study: Callable) -> None:
    """Better in the task whose answers are known, worse in the other: no difference. One task of two: no mean."""
    study = make_study(1)
    for record in study.downstream:
        first, second = record["tasks"]
        second |= {"answers": None, "value": 0.1 if record["model"] == "distilled" else 0.9}
        record["tasks"] = [first] if record["model"] == "subnet_init" else [first, second]
    table = tasks_table(study.answers)
    assert np.isfinite(table.query("model == 'distilled' and task == 'last_word'")["difference"]).all()
    means = mean_over_tasks(table).query("task == 'mean of 2'").set_index("model")
    assert means.index.tolist() == ["SmolLM2-135M-Instruct", "random_init", "distilled"]
    assert np.isnan(means.loc["distilled", "difference"])
    assert np.isfinite(means.loc["distilled", "value"])


def test_where_all_answers_are_alike_the_error_of_the_mean_is_unknown(make_study: Callable) -> None:
    study = make_study(1)
    for record in study.downstream:
        first, second = record["tasks"]
        second |= {"answers": [0] * len(second["answers"]), "value": 0.0, "standard_error": 0.0}
        record["tasks"] = [first, second]
    means = mean_over_tasks(tasks_table(study.answers)).query("task == 'mean of 2'").set_index("model")
    assert np.isfinite(means["value"]).all()
    assert np.isnan(means["standard_error"]).all()
    assert np.isfinite(means.loc["distilled", "difference"])
    assert np.isnan(means.loc["distilled", "difference_standard_error"])


def test_every_variant_has_its_own_baseline(make_study: Callable) -> None:
    study = make_study(2)
    before = tasks_table(study.answers)
    task = study.downstream[4]["tasks"][0]
    assert (study.downstream[4]["space"], study.downstream[4]["model"]) == ("coarse_layerwise", "random_init")
    task["answers"] = [1 - answer for answer in task["answers"]]
    changed = ~tasks_table(study.answers)["difference"].eq(before["difference"]) & before["difference"].notna()
    assert before[changed]["space"].tolist() == ["coarse_layerwise"] * 2


def test_other_questions_than_the_baselines_are_refused(make_study: Callable) -> None:
    study = make_study(1)
    study.downstream[2]["tasks"][0]["answers"].pop()
    with pytest.raises(ValueError, match="19 and 20 sequences"):
        tasks_table(study.answers)


def test_speeds_by_hand(make_study: Callable) -> None:
    """Prefill of 128 tokens in 0.25 and 0.5 s beside a teacher that takes 1 and 3: four and six times as fast."""
    study = make_study(1)
    (record,) = study.efficiency
    record["models"]["teacher"]["prefill_seconds"] = [1.0, 3.0]
    record["models"]["subnet"] |= {"prefill_seconds": [0.25, 0.5], "working_bytes": None}
    table = speeds_table(study.measured).set_index("model")
    subnet = table.loc["subnet"]
    assert subnet["prefill_seconds"] == 0.375
    assert subnet["prefill_tokens_per_second"] == pytest.approx(128 / 0.375)
    assert subnet[["prefill_speedup_low", "prefill_speedup", "prefill_speedup_high"]].tolist() == [4.5, 5.0, 5.5]
    assert subnet["decode_tokens_per_second"] == pytest.approx(40)
    assert np.isnan(subnet["peak_bytes"])
    assert table.loc["teacher", "peak_bytes"] == 501_000_000
    assert np.isnan(table.loc["teacher", "prefill_speedup"])


def test_nothing_measured_is_an_empty_table() -> None:
    assert tasks_table([]).empty
    assert speeds_table([]).empty
