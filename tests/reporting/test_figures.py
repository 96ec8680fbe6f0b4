"""Each figure holds what it should, for one variant and for ten."""

import json
from collections.abc import Callable

import numpy as np
import pandas as pd
import plotly.graph_objects as go
import pytest

from budwood.records.names import ARMS
from budwood.reporting import ledger, result_figures, style
from budwood.reporting.benchmarks import speeds_table, tasks_table

pytestmark = pytest.mark.slow

NUM_SOURCES = NUM_TASKS = 2


def titles(figure: go.Figure, axis: str) -> set[str]:
    """Return the titles of all axes of a direction."""
    axes = figure.select_xaxes() if axis == "x" else figure.select_yaxes()
    return {a.title.text for a in axes if a.title.text}


@pytest.fixture(scope="module", params=[1, 10])
def few_or_many(make_study: Callable, request: pytest.FixtureRequest) -> tuple[int, dict[str, go.Figure]]:
    """Return a number of variants and their figures."""
    return request.param, make_study(request.param).figures


@pytest.mark.parametrize(
    ("name", "num_traces", "x", "y"),
    [
        # Two arms meet the third's final loss, each with a star.
        ("training_curves_tokens", lambda n: (3 + 2) * n, "training tokens", "held-out loss (nats per token)"),
        (
            "training_curves_flops",
            lambda n: (3 + 2) * n,
            "training FLOPs, student and teacher",
            "held-out loss (nats per token)",
        ),
        (
            "training_curves_flops_with_search",
            lambda n: (3 + 2) * n,
            "FLOPs, search included",
            "held-out loss (nats per token)",
        ),
        ("training_losses", lambda n: 3 * n, "training tokens", "objective (nats per token)"),
        ("savings_by_ledger", lambda n: 2 * n, "ledger", "random_init's cost / the arm's"),
        ("perplexity_by_arm", lambda _: 3 * (1 + NUM_SOURCES), "variant", "perplexity (log)"),
        ("tasks_by_arm", lambda _: 3 * NUM_TASKS, "variant", "%"),
        ("speed_and_memory", lambda _: 4, "variant", None),
        ("winners_by_variant", lambda _: 1, "variant", "loss (nats per token)"),
        ("winner_layers", lambda n: 3 * n, "layer of the teacher, by rank", "kept (%)"),
        ("elite_sizes", lambda n: 6 * n, "axis of the teacher", "kept (%)"),
        ("search_trajectory", lambda n: 2 * n, "evaluation", "loss (nats per token)"),
        ("search_sizes", lambda n: 4 * n, "parameters", "loss (nats per token)"),
        ("draws_and_elites", lambda _: 2, "variant", "loss (nats per token)"),
        ("parameter_spread", lambda _: 2, "parameters", "share of the sample (%)"),
        ("flops_by_stage", lambda _: 7, "floating-point operations", "variant"),
    ],
)
def test_traces_and_axes(few_or_many: tuple, name: str, num_traces: Callable, x: str, y: str | None) -> None:
    num_variants, drawn = few_or_many
    figure = drawn[name]
    assert len(figure.data) == num_traces(num_variants)
    assert titles(figure, "x") == {x}
    assert titles(figure, "y") == ({y} if y else set())
    assert figure.layout.title.text
    json.loads(figure.to_json())


def test_every_legend_entry_appears_once(make_study: Callable) -> None:
    for figure in make_study(4).figures.values():
        shown = [trace.name for trace in figure.data if trace.showlegend is not False]
        assert len(shown) == len(set(shown))


def test_an_arm_keeps_its_colour(study) -> None:
    curves, bars = study.figures["training_curves_tokens"], study.figures["perplexity_by_arm"]
    for arm in ARMS:
        colors = {trace.marker.color for figure in (curves, bars) for trace in figure.data if trace.name == arm}
        assert colors == {style.ARM_COLORS[arm]}


def test_a_single_source_is_drawn_once(study) -> None:
    """It is all sources, too."""
    names = [name for name in study.results if str(name).startswith("perplexity_")]
    figure = result_figures.perplexity_by_arm(study.results.drop(columns=names[1:]))
    assert [title.text for title in figure.layout.annotations] == [names[0].removeprefix("perplexity_")]


def curve(figure: go.Figure, arm: str) -> go.Scatter:
    """Return the first curve of an arm."""
    return next(trace for trace in figure.data if trace.name == arm)


def test_training_curves_show_measured_points_only(study) -> None:
    measured = study.curves.dropna(subset="heldout_loss").query("bin == 'quarter' and space == 'coarse_uniform'")
    trace = result_figures.training_curves(study.curves, study.saved, study.costs, x="flops").data[0]
    assert list(trace.x) == measured.query("arm == 'random_init'")["flops"].tolist()
    with pytest.raises(ValueError, match="x: 'steps' is unknown; allowed are tokens, flops, flops_with_search"):
        result_figures.training_curves(study.curves, study.saved, study.costs, x="steps")  # type: ignore[arg-type]


def test_the_search_moves_every_curve_but_that_of_the_baseline(study) -> None:
    without, with_search = (
        study.figures[name] for name in ("training_curves_flops", "training_curves_flops_with_search")
    )
    spent = study.saved["search_flops"].iloc[0]
    assert spent > 0
    for arm in ARMS:
        moved = np.asarray(curve(with_search, arm).x) - np.asarray(curve(without, arm).x)
        assert moved == pytest.approx(0 if arm == "random_init" else spent)


def test_a_curve_without_savings_is_shifted_too(study) -> None:
    """An arm that was not trained as its baseline was has no row; a reference is found by no search."""
    arms = study.curves[study.curves["space"] == "coarse_uniform"]
    arms = pd.concat([arms, arms[arms["arm"] == "random_init"].assign(arm="reference_init")])
    others = study.saved[study.saved["arm"] != "distilled"]
    drawn = result_figures.training_curves(arms, others, study.costs, x="flops_with_search")
    assert curve(drawn, "distilled").x[0] == study.saved["search_flops"].iloc[0]
    assert curve(drawn, "random_init").x[0] == curve(drawn, "reference_init").x[0] == 0


def test_a_star_marks_where_an_arm_reaches_the_baseline(study) -> None:
    row = study.saved.query("arm == 'distilled'").iloc[0]
    for name, per_token in (("training_curves_tokens", 1), ("training_curves_flops", 4.5e8 + 2.9e8)):
        star = next(trace for trace in study.figures[name].data if trace.name == "distilled reaches random_init")
        assert star.x[0] == pytest.approx(row["tokens_to_match"] * per_token)
        assert star.y[0] == pytest.approx(row["target_loss"])


@pytest.mark.parametrize("axis", ["tokens", "flops", "flops_with_search"])
def test_a_perplexity_is_the_exponential_of_the_loss(study, axis: str) -> None:
    losses, perplexities = (study.figures[f"training_{kind}_{axis}"] for kind in ("curves", "perplexity"))
    for loss, perplexity in zip(losses.data, perplexities.data, strict=True):
        assert list(perplexity.x) == list(loss.x)
        assert np.asarray(perplexity.y, float) == pytest.approx(np.exp(np.asarray(loss.y, float)), nan_ok=True)
    ends = [figure.layout.shapes[0].y0 for figure in (losses, perplexities)]
    assert ends[1] == pytest.approx(np.exp(ends[0]))
    assert titles(perplexities, "y") == {"held-out perplexity"}
    assert titles(perplexities, "x") == titles(losses, "x")


def test_bands_are_one_standard_error_over_sequences(study) -> None:
    """Losses 1 below and 1 above the mean: the deviation is sqrt(2), its error 1."""
    pairs = [None if np.isnan(loss) else [loss - 1, loss + 1] for loss in study.curves["heldout_loss"]]
    figure = result_figures.training_curves(study.curves.assign(heldout_losses=pairs), study.saved, study.costs)
    band, line = curve(figure, "distilled, uncertainty"), curve(figure, "distilled")
    above, below = np.split(np.asarray(band.y), 2)
    assert above - line.y == pytest.approx(1)
    assert line.y - below[::-1] == pytest.approx(1)
    alone = [None if pair is None else pair[:1] for pair in pairs]
    figure = result_figures.training_curves(study.curves.assign(heldout_losses=alone), study.saved, study.costs)
    assert len(figure.data) == 3 * (3 + 2)


def test_several_seeds_are_their_mean_and_range(study) -> None:
    """Losses 0.5 below and 1 above: 0.25 above, between the two."""
    losses = study.curves[["heldout_loss", "train_loss"]]
    seeds = pd.concat(study.curves.assign(seed=seed, **(losses + by)) for seed, by in ((1, -0.5), (2, 1)))
    one, many = study.figures["training_curves_tokens"], result_figures.training_curves(seeds, study.saved, study.costs)
    line, band = curve(many, "distilled"), curve(many, "distilled, uncertainty")
    assert list(line.x) == list(curve(one, "distilled").x)
    assert np.asarray(line.y) - curve(one, "distilled").y == pytest.approx(0.25)
    above, below = np.split(np.asarray(band.y), 2)
    assert above - line.y == pytest.approx(0.75)
    assert line.y - below[::-1] == pytest.approx(0.75)
    one, many = (curve(result_figures.training_losses(curves), "distilled") for curves in (study.curves, seeds))
    assert list(many.x) == list(one.x)
    assert np.asarray(many.y) - one.y == pytest.approx(0.25)


def test_a_reference_that_is_never_reached_has_no_star_and_no_ratio(study) -> None:
    far = study.curves.copy()
    far.loc[far["arm"] == "random_init", "heldout_loss"] -= 5
    saved = ledger.savings(far, study.costs)
    assert set(saved["status"]) == {"not reached"}
    assert len(result_figures.training_curves(far, saved, study.costs).data) == 3 * 3
    empty = result_figures.savings_by_ledger(saved)
    assert not empty.data
    assert "No arm reached the final loss of random_init" in empty.layout.meta["reason"]


def test_curves_without_their_baseline_or_without_losses_are_drawn_as_far_as_they_go(study) -> None:
    lone = study.curves[study.curves["arm"] == "distilled"]
    saved = ledger.savings(lone, study.costs)
    assert len(result_figures.training_curves(lone, saved, study.costs).data) == 3
    assert not result_figures.training_curves(lone.assign(heldout_loss=np.nan), saved, study.costs).data


def test_savings_show_every_ledger_with_its_interval(study) -> None:
    trace = study.figures["savings_by_ledger"].data[0]
    row = study.saved.iloc[0]
    assert list(trace.x) == ["training", "with search", "with selection", "with teacher"]
    assert list(trace.y) == [row[f"ratio_{name}"] for name in ledger.LEDGERS]


def test_savings_against_another_baseline_are_not_drawn(study) -> None:
    """The axis is the cost of `random_init` over the arm's."""
    other = study.saved.assign(baseline="reference_init", arm="random_init")
    both = result_figures.savings_by_ledger(pd.concat([study.saved, other], ignore_index=True))
    assert both == study.figures["savings_by_ledger"]
    assert not result_figures.savings_by_ledger(other).data


def test_speed_is_relative_to_the_teacher(study) -> None:
    prefill, _, memory, cache = study.figures["speed_and_memory"].data
    assert set(prefill.y) == {4.0}
    assert memory.y[0] == pytest.approx((1.25e8 + 1e6) / 2**20)
    assert cache.y[0] == 45


def test_without_data_a_figure_gives_the_reason(study) -> None:
    drawn = [
        result_figures.training_curves(study.curves.iloc[:0], study.saved.iloc[:0], study.costs),
        result_figures.training_losses(study.curves.iloc[:0]),
        result_figures.perplexity_by_arm(study.results[study.results["bin"] == ""]),
        result_figures.tasks_by_arm(tasks_table([])),
        result_figures.speed_and_memory(speeds_table([])),
        result_figures.savings_by_ledger(study.saved.iloc[:0]),
        result_figures.flops_by_stage([]),
    ]
    for figure in drawn:
        assert not figure.data
        assert figure.layout.meta["reason"] == figure.layout.annotations[0].text


def test_stacked_costs_add_up_to_the_ledger(study) -> None:
    figure = study.figures["flops_by_stage"]
    assert sum(sum(trace.x) for trace in figure.data) == pytest.approx(sum(cost.flops for cost in study.costs))
    assert "shared" in figure.data[0].y


def test_error_bars_are_one_standard_error_of_the_loss(study) -> None:
    bar = study.figures["perplexity_by_arm"].data[0]
    row = study.results.query("model == 'random_init'").iloc[0]
    top = np.log(bar.y[0] + bar.error_y.array[0])
    bottom = np.log(bar.y[0] - bar.error_y.arrayminus[0])
    assert top - row["loss"] == pytest.approx(row["standard_error"])
    assert row["loss"] - bottom == pytest.approx(row["standard_error"])


def test_answers_are_shown_with_their_errors_and_what_guessing_gives(study) -> None:
    figure = study.figures["tasks_by_arm"]
    shown = figure.data[len(ARMS)]
    scores = [r["tasks"][1] for r in study.downstream if r["model"] == shown.name]
    assert list(shown.y) == [100 * score["value"] for score in scores]
    assert list(shown.error_y.array) == [100 * score["standard_error"] for score in scores]
    teacher = study.downstream[0]["tasks"]
    lines = {(shape.line.dash, shape.y0) for shape in figure.layout.shapes}
    assert lines == {("dash", 100 * teacher[0]["value"]), ("dash", 100 * teacher[1]["value"]), ("dot", 25.0)}


def test_the_style_lets_the_page_shine_through(study) -> None:
    for figure in study.figures.values():
        assert figure.layout.template.layout.paper_bgcolor == style.CLEAR
        assert figure.layout.template.layout.plot_bgcolor == style.CLEAR
