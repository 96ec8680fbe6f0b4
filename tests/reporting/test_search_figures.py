"""Each figure of a search holds what it should."""

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

from budwood.reporting import search_figures
from budwood.reporting.style import FAINT

HALF = pd.DataFrame(
    {"bin": "half", "space": ["coarse_uniform", "coarse_layerwise"], "low": 63_000_000, "high": 70_000_000}
)


@pytest.mark.slow
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


def test_spread_sums_to_100_percent_and_labels_the_bins(study) -> None:
    figure = search_figures.parameter_spread(study.space_samples, HALF)
    for trace in figure.data:
        assert sum(trace.y) == pytest.approx(100)
    labels = [note.text for note in figure.layout.annotations if note.text.startswith("half")]
    counts = study.space_samples.query("space == 'coarse_uniform'")["num_parameters"]
    inside = counts.between(63_000_000, 70_000_000).mean()
    assert len(labels) == 2
    assert float(labels[0].removeprefix("half: ").removesuffix("%")) == pytest.approx(100 * inside, rel=0.05)
    with pytest.raises(ValueError, match="samples: empty"):
        search_figures.parameter_spread(study.space_samples.iloc[:0], HALF)


def test_every_space_is_shaded_between_its_own_bounds() -> None:
    """Of 0 to 100, 10 to 19 are a tenth, and 60 to 79 a fifth; the large bin has no such space as the first."""
    samples = pd.DataFrame({"space": ["a"] * 100 + ["b"] * 100, "num_parameters": [*range(100)] * 2})
    rows = [("small", "a", 10, 19), ("small", "b", 60, 79), ("large", "b", 80, 99)]
    spaces = pd.DataFrame(rows, columns=["bin", "space", "low", "high"])
    layout = search_figures.parameter_spread(samples, spaces).layout
    shaded = [(shape.xref, shape.x0, shape.x1) for shape in layout.shapes]
    assert shaded == [("x", 10, 19), ("x2", 60, 79), ("x2", 80, 99)]
    labels = [note.text for note in layout.annotations if "%" in note.text]
    assert labels == ["small: 10%", "small: 20%", "large: 20%"]


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
    drawn = search_figures.search_trajectory(study.histories.assign(fitness=fitness))
    assert titles(drawn, "y") == {axis}


def titles(figure, axis: str) -> set[str]:
    """Return the titles of all axes of a direction."""
    axes = figure.select_xaxes() if axis == "x" else figure.select_yaxes()
    return {a.title.text for a in axes if a.title.text}


def test_generations_begin_where_the_epoch_changes(study) -> None:
    lines = [shape.x0 for shape in study.figures["search_trajectory"].layout.shapes if shape.line.color == FAINT]
    assert lines == [19.5, 39.5] * 3


def test_elites_are_shown_in_percent_of_the_teacher(study) -> None:
    """Of 30 layers, 576 channels, 9 heads in 3 groups of 64, 1536 neurons: 20 or 21, 288, 6 in 3 of 32, 512."""
    figure = study.figures["elite_sizes"]
    best = next(trace for trace in figure.data if trace.name == "the best")
    assert dict(zip(best.x, best.y, strict=True)) == pytest.approx(
        {
            "layers": best.y[0],
            "channels": 50,
            "query heads": 200 / 3,
            "key/value heads": 100,
            "head size": 50,
            "neurons": 100 / 3,
        }
    )
    bars = figure.data[0]
    assert (bars.base[0], bars.base[0] + bars.y[0]) == pytest.approx((200 / 3, 70))
    finished = study.histories[study.histories["finished"]]
    run = finished[finished["bin"].eq("quarter") & finished["space"].eq("coarse_uniform")]
    place = run.loc[run["loss"].idxmin(), "evaluation"]
    assert best.y[0] == pytest.approx(70 if place % 2 else 200 / 3)


def test_a_dropped_layer_is_a_gap(study) -> None:
    trace = study.figures["winner_layers"].data[2]
    assert (trace.name, len(trace.y)) == ("neurons", 30)
    kept = [share for share in trace.y if share is not None]
    assert kept == pytest.approx([100 / 3] * len(kept))
    assert len(kept) == 20
    assert set(trace.y[len(kept) :]) == {None}


def test_draws_and_the_best_are_what_they_say(study) -> None:
    draws, best = study.figures["draws_and_elites"].data
    assert len(draws.y) == study.histories["origin"].isin(["initial", "random"]).sum()
    for _, run in study.histories[study.histories["finished"]].groupby(["bin", "space"]):
        assert set(run["loss"].nsmallest(5)) <= set(best.y)
    assert len(best.y) == 5 * 3


def test_every_candidate_is_over_its_size_in_the_bin(study) -> None:
    figure = study.figures["search_sizes"]
    assert sum(len(trace.x) for trace in figure.data) == len(study.histories)
    shaded = {(shape.x0, shape.x1) for shape in figure.layout.shapes}
    assert shaded == {(row.low, row.high) for row in study.search_spaces.itertuples()}


def test_winners_have_their_intervals(study) -> None:
    (trace,) = study.figures["winners_by_variant"].data
    assert list(trace.y) == [5.5] * 3
    assert list(trace.error_y.array) == list(trace.error_y.arrayminus) == [0.25] * 3
    assert study.figures["winners_by_variant"].layout.title.text == "Winners before training"


def test_winners_that_were_compared_after_a_brief_training_are_called_so(study) -> None:
    trained = [winner.model_copy(update={"finalist_tokens": 2_000_000}) for winner in study.winners]
    figure = search_figures.winners_by_variant(trained)
    assert figure.layout.title.text == "Winners after 2.000M tokens of training"
    mixed = search_figures.winners_by_variant([*study.winners[:1], *trained[1:]])
    assert mixed.layout.title.text == "Winners before training or after 2.000M tokens of training"
    assert ["before training" in about for about in mixed.data[0].hovertext] == [True, False, False]


def test_without_any_search_every_figure_says_so(study) -> None:
    nothing = replace(study, histories=study.histories.iloc[:0])
    drawn = [
        search_figures.search_trajectory(nothing.histories),
        search_figures.search_sizes(nothing.histories, study.search_spaces),
        search_figures.elite_sizes(nothing.histories, study.teacher),
        search_figures.winner_layers([], study.teacher),
        search_figures.draws_and_elites(nothing.histories),
        search_figures.winners_by_variant([]),
    ]
    for figure in drawn:
        assert not figure.data
        assert figure.layout.meta["reason"] == "Nothing was searched."


def test_a_search_of_which_nothing_finished_has_no_best(study) -> None:
    run = study.histories.assign(finished=False)
    assert not [trace for trace in search_figures.elite_sizes(run, study.teacher).data if trace.name == "the best"]
    draws, best = search_figures.draws_and_elites(run).data
    assert len(draws.y) > 0
    assert len(best.y) == 0
