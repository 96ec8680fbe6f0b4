"""Ablations, against values worked by hand and against an analysis of variance."""

import itertools
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

from budwood.reporting.ablations import (
    TRAINED,
    Outcome,
    ablation_curves,
    ablation_page,
    ablation_table,
    curves_by_setting,
    curves_by_variant,
    losses_by_setting,
    losses_by_variant,
    setting_importances,
)


def run(variant: str, losses: list[float], status: str = TRAINED, **settings: object) -> Outcome:
    """Return what became of a variant."""
    cost = {"num_parameters": 1000, "tokens": 2048, "student_flops": 1e12, "teacher_flops": 0.0}
    return Outcome(variant=variant, settings=settings or {"space": variant}, status=status, losses=losses, **cost)


# b minus a is 1, 2, 0 by sequence: mean 1, error 1 / sqrt(3).
RUNS = [run("b", [4.0, 5.0, 6.0]), run("a", [3.0, 3.0, 6.0])]
BROKEN = run("c", [], "its training diverged")


def grid(loss) -> pd.DataFrame:
    """Return the table of a whole grid of three settings with a made-up loss."""
    values = itertools.product((0.0, 0.2, 0.8), (0.8, 1.0), (16, None))
    runs = [run(str(v), [loss(*v)], alpha=v[0], temperature=v[1], top_k=v[2]) for v in values]
    return ablation_table(runs)


SETTINGS = ("alpha", "temperature", "top_k")


def test_differences_are_to_the_lowest_and_paired() -> None:
    table = ablation_table([*RUNS, BROKEN]).set_index("variant")
    assert table.index.tolist() == ["b", "a", "c"]
    assert table["loss"].tolist()[:2] == [5.0, 4.0]
    assert table.loc["b", "difference"] == 1.0
    assert table.loc["b", "difference_standard_error"] == pytest.approx(1 / np.sqrt(3))
    assert table.loc[["a", "c"], "difference"].isna().all()
    assert np.isnan(table.loc["c", "loss"])
    assert table["space"].tolist() == ["b", "a", "c"]


def test_the_page_names_the_best_and_what_failed() -> None:
    page = ablation_page("Spaces", "What was varied.", ablation_table([*RUNS, BROKEN]))
    assert page.startswith("# Spaces\n\nWhat was varied.\n\nLowest validation loss: `a`, 4.0 ± 1.0 nats per token")
    assert "1.00 ± 0.58 below `b` (within the noise). `c` has no loss: its training diverged." in page
    assert "No other variant finished." in ablation_page("", "", ablation_table([RUNS[0], BROKEN]))


def test_without_a_finished_training_the_page_says_so() -> None:
    for runs in ([], [BROKEN]):
        table = ablation_table(runs)
        assert "No training finished" in ablation_page("", "", table)
        assert not len(losses_by_variant("", table).data[0].x)
    table = ablation_table([run("c", [], "its training diverged", alpha=0.2, temperature=1.0, top_k=None)])
    importances = setting_importances(table, SETTINGS)
    assert importances["importance"].isna().all()
    assert "too few different losses" in ablation_page("", "", table, importances)
    assert len(losses_by_setting("", table, SETTINGS).data) == 6


def test_a_setting_that_explains_all_has_all_the_importance() -> None:
    found = setting_importances(grid(lambda alpha, temperature, top_k: 3 * alpha), SETTINGS)  # noqa: ARG005
    assert found["setting"][0] == "alpha"
    # A few trees are grown on one value of it, and split what rounding left.
    assert found["importance"][0] == pytest.approx(1.0, abs=0.01)
    assert found["main_effect"][0] == pytest.approx(1.0)
    assert found["main_effect"][1:].tolist() == pytest.approx([0.0, 0.0])


def test_main_effects_are_those_of_an_analysis_of_variance() -> None:
    """A sum of effects in a whole grid: variances add up, and the forest ranks settings as they do."""

    def loss(alpha: float, temperature: float, top_k: int | None) -> float:
        return 3 * alpha + 0.5 * temperature + (0.0 if top_k else -0.02)

    found = setting_importances(grid(loss), SETTINGS).set_index("setting")
    variances = {
        "alpha": 9 * np.var([0.0, 0.2, 0.8]),
        "temperature": 0.25 * np.var([0.8, 1.0]),
        "top_k": np.var([0.0, 0.02]),
    }
    for name, variance in variances.items():
        assert found.loc[name, "main_effect"] == pytest.approx(variance / sum(variances.values()))
    assert found.index.tolist() == ["alpha", "temperature", "top_k"]
    assert found["importance"].sum() == pytest.approx(1.0)
    assert (found["importance_deviation"] >= 0).all()


def test_settings_that_only_act_together_have_no_main_effect() -> None:
    def loss(alpha: float, temperature: float, top_k: int | None) -> float:
        del alpha
        return float((temperature > 0.9) ^ (top_k is None))

    found = setting_importances(grid(loss), SETTINGS).set_index("setting")
    assert found["main_effect"].tolist() == pytest.approx([0.0] * 3, abs=1e-12)
    assert found.loc[["temperature", "top_k"], "importance"].sum() > 0.8


def test_means_are_drawn_over_the_values_in_order() -> None:
    figure = losses_by_setting("Grid", grid(lambda alpha, temperature, top_k: alpha + (top_k or 0)), SETTINGS)  # noqa: ARG005
    mean = figure.data[-1]
    assert list(mean.x) == ["16", "all"]
    assert list(mean.y) == pytest.approx([16 + 1 / 3, 1 / 3])
    assert [note.text for note in figure.layout.annotations] == list(SETTINGS)


def ran(variant: str, losses: list[float], **settings: object) -> Outcome:
    """Return a training with held-out losses at 0, 10, ... tokens and an objective between them."""
    points = pd.DataFrame({"step": range(len(losses)), "heldout_loss": losses, "learning_rate": 0.1})
    points = points.assign(tokens=10 * points["step"], flops=20.0 * points["step"], train_loss=np.nan)
    between = pd.DataFrame({"step": [0.5], "tokens": [5], "flops": [10.0], "train_loss": [9.0]})
    return replace(run(variant, losses, **settings), curve=pd.concat([points, between]))


def test_curves_of_variants_are_their_losses_and_what_perplexity_these_are() -> None:
    """A failed variant has none."""
    curves = ablation_curves([ran("a", [2.0, 1.0]), ran("b", [3.0, 0.0]), BROKEN])
    assert list(curves) == ["variant", "space", "step", "tokens", "flops", "train_loss", "heldout_loss"]
    assert curves["variant"].tolist() == ["a"] * 3 + ["b"] * 3
    losses, perplexities, *others = curves_by_variant("", curves).data
    assert (list(losses.x), list(losses.y)) == ([0, 10], [2.0, 1.0])
    assert list(perplexities.y) == pytest.approx([np.e**2, np.e])
    assert {trace.name for trace in others} == {"b"}


def test_curves_of_settings_are_mean_perplexities_of_every_value() -> None:
    """Of alpha 0: (e^2 + e^4) / 2 at the start."""
    grid = [(0.0, 16, 2.0), (0.0, None, 4.0), (0.2, 16, 1.0), (0.2, None, 3.0)]
    curves = ablation_curves([ran(str(v), [v[2], 0.0], alpha=v[0], top_k=v[1]) for v in grid])
    traces = {trace.name: trace for trace in curves_by_setting("", curves, ("alpha", "top_k")).data}
    assert set(traces) == {"alpha 0", "alpha 0.2", "top_k 16", "top_k all"}
    assert list(traces["alpha 0"].y) == pytest.approx([(np.e**2 + np.e**4) / 2, 1.0])
    assert list(traces["top_k all"].y) == pytest.approx([(np.e**4 + np.e**3) / 2, 1.0])
    assert list(traces["top_k all"].x) == [0, 10]
