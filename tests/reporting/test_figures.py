"""Each figure holds what it should, for one variant and for ten."""

import json
from collections.abc import Callable

import numpy as np
import plotly.graph_objects as go
import pytest

from budwood.reporting import figures
from budwood.reporting.benchmarks import tasks_table
from budwood.reporting.records import ARMS

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
        ("search_trajectory", lambda n: 2 * n, "evaluation", "loss (nats per token)"),
        ("training_curves_tokens", lambda n: 3 * n, "training tokens", "held-out loss (nats per token)"),
        (
            "training_curves_flops",
            lambda n: 3 * n,
            "training FLOPs, student and teacher",
            "held-out loss (nats per token)",
        ),
        ("perplexity_by_arm", lambda _: 3 * (1 + NUM_SOURCES), "variant", "perplexity (log)"),
        ("tasks_by_arm", lambda _: 3 * NUM_TASKS, "variant", "%"),
        ("parameter_spread", lambda _: 2, "parameters", "share of the sample (%)"),
        ("flops_by_stage", lambda _: 7, "floating-point operations", "variant"),
    ],
)
def test_traces_and_axes(few_or_many: tuple, name: str, num_traces: Callable, x: str, y: str) -> None:
    num_variants, drawn = few_or_many
    figure = drawn[name]
    assert len(figure.data) == num_traces(num_variants)
    assert titles(figure, "x") == {x}
    assert titles(figure, "y") == {y}
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
        assert colors == {figures.ARM_COLORS[arm]}


def test_best_so_far_never_rises(study) -> None:
    lines = [trace for trace in study.figures["search_trajectory"].data if trace.name == "best so far"]
    dots = [trace for trace in study.figures["search_trajectory"].data if trace.name == "candidate"]
    for line, points in zip(lines, dots, strict=True):
        finished = points.marker.symbol == "circle"
        assert 0 < finished.sum() < len(finished)
        # Nothing is the best before something has finished.
        first = int(np.argmax(finished))
        assert np.isnan(line.y[:first]).all()
        assert (np.diff(line.y[first:]) <= 0).all()
        assert line.y[-1] == points.y[finished].min()


def test_training_curves_show_measured_points_only(study) -> None:
    measured = study.curves.dropna(subset="heldout_loss").query("bin == 'quarter' and space == 'coarse_uniform'")
    trace = figures.training_curves(study.curves, x="flops").data[0]
    assert list(trace.x) == measured.query("arm == 'random_init'")["flops"].tolist()
    with pytest.raises(ValueError, match="x: 'steps' is unknown; allowed are tokens, flops"):
        figures.training_curves(study.curves, x="steps")  # type: ignore[arg-type]


def test_spread_sums_to_100_percent_and_labels_the_bins(study) -> None:
    figure = figures.parameter_spread(study.samples, {"half": (63_000_000, 70_000_000)})
    for trace in figure.data:
        assert sum(trace.y) == pytest.approx(100)
    labels = [note.text for note in figure.layout.annotations if note.text.startswith("half")]
    inside = study.samples.query("space == 'coarse_uniform'")["num_parameters"].between(63_000_000, 70_000_000).mean()
    assert len(labels) == 2
    assert float(labels[0].removeprefix("half: ").removesuffix(" %")) == pytest.approx(100 * inside, rel=0.05)
    with pytest.raises(ValueError, match="samples: empty"):
        figures.parameter_spread(study.samples.iloc[:0], {})


def test_stacked_costs_add_up_to_the_ledger(study) -> None:
    figure = study.figures["flops_by_stage"]
    assert sum(sum(trace.x) for trace in figure.data) == pytest.approx(sum(entry["flops"] for entry in study.ledger))
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


def test_without_questions_there_is_an_empty_figure() -> None:
    assert not figures.tasks_by_arm(tasks_table([])).data


def test_the_style_lets_the_page_shine_through(study) -> None:
    for figure in study.figures.values():
        assert figure.layout.template.layout.paper_bgcolor == figures.CLEAR
        assert figure.layout.template.layout.plot_bgcolor == figures.CLEAR


@pytest.mark.parametrize(
    ("fitness", "axis"),
    [
        ("perplexity", "loss (nats per token)"),
        ("kl", "divergence from the teacher (nats per token)"),
        ("importance", "importance of what is kept, negated"),
        ("mine.fitness", "mine.fitness (lower is better)"),
    ],
)
def test_the_axis_of_a_search_names_what_it_minimised(study, fitness: str, axis: str) -> None:
    drawn = figures.search_trajectory(study.histories.assign(fitness=fitness))
    assert titles(drawn, "y") == {axis}
