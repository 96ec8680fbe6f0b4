"""Records -> plotly figures, in one style that reads on light and on dark pages."""

from collections.abc import Mapping, Sequence
from typing import Literal

import numpy as np
import pandas as pd
import plotly.graph_objects as go
import plotly.io
from plotly.subplots import make_subplots

from budwood.reporting import formats
from budwood.reporting.ledger import STAGES, held_out, ledger_frame
from budwood.reporting.records import ARMS, BASELINE, REFERENCE, LedgerEntry, variant_name

# Okabe and Ito (2008), "Color universal design": told apart under the common colour-vision deficiencies.
ARM_COLORS = dict(zip((*ARMS, REFERENCE), ("#D55E00", "#0072B2", "#009E73", "#CC79A7"), strict=True))
ARM_SYMBOLS = dict(zip((*ARMS, REFERENCE), ("circle", "square", "diamond", "cross"), strict=True))
STAGE_COLORS = dict(
    zip(
        STAGES,
        ("#E69F00", "#A6761D", "#56B4E9", "#8C6BB1", "#0072B2", "#F0E442", "#44AA99", "#CC79A7", "#7f7f7f", "#bfbfbf"),
        strict=True,
    )
)
# Contrast at least 3.9 : 1 against white as well as against #111.
GREY = "#7f7f7f"
FAINT = "rgba(127, 127, 127, 0.25)"
CLEAR = "rgba(0, 0, 0, 0)"

_AXIS = {
    "gridcolor": FAINT,
    "linecolor": GREY,
    "zeroline": False,
    "automargin": True,
    "exponentformat": "SI",
    "title": {"standoff": 10},
}
_TITLE = {
    "x": 0,
    "xref": "paper",
    "y": 1,
    "yref": "container",
    "yanchor": "top",
    "pad": {"t": 18},
    "font": {"size": 18},
}
_LEGEND = {"orientation": "h", "x": 0, "y": 0, "yref": "container", "yanchor": "bottom", "title": {"text": ""}}
_MARGIN = {"l": 70, "r": 24, "t": 90, "b": 100}
_PANEL_HEIGHT, _PANEL_GAP = 260, 90
_NUM_HISTOGRAM_BARS = 60
# Height of the axis over the highest bar, so that the bins' labels stand above the bars.
_LABEL_ROOM = 1.6
# Room on a logarithmic axis below the lowest and above the highest value.
_LOG_ROOM = 1.5
_FITNESS_AXES = {
    "perplexity": "loss (nats per token)",
    "kl": "divergence from the teacher (nats per token)",
    "importance": "importance of what is kept, negated",
    "magnitude": "magnitude of what is kept, negated",
}
_CURVE_AXES = {"tokens": "training tokens", "flops": "training FLOPs, student and teacher"}

TEMPLATE = "budwood"
plotly.io.templates[TEMPLATE] = go.layout.Template(
    layout={
        "font": {"family": "system-ui, sans-serif", "size": 14, "color": GREY},
        "paper_bgcolor": CLEAR,
        "plot_bgcolor": CLEAR,
        "title": _TITLE,
        "legend": _LEGEND,
        "margin": _MARGIN,
        "xaxis": _AXIS,
        "yaxis": _AXIS,
        "colorway": [*ARM_COLORS.values(), *STAGE_COLORS.values()],
    },
)


def search_trajectory(histories: pd.DataFrame) -> go.Figure:
    """Return the best loss so far (line) and every candidate (faint points) over evaluations, a panel per variant.

    Candidates that a race dropped are open points, at the loss of the text that they read; they win nothing.

    Args:
        histories: columns `bin`, `space`, `evaluation`, `origin`, `num_parameters`, `finished`, `loss` and, where that
            is something else than nats per token on the text, `fitness`: its name.
    """
    variants = _variants(histories)
    figure = _panels("Search: loss of the candidates", list(variants))
    for place, history in zip(_places(len(variants)), variants.values(), strict=True):
        run = history.sort_values("evaluation")
        first = place == (1, 1)
        about = run[["origin", "num_parameters"]].to_numpy()
        hover = "%{y:.4g}, %{customdata[1]:,} parameters<br>origin: %{customdata[0]}"
        dots = {"name": "candidate", "legendgroup": "candidate", "mode": "markers", "showlegend": first}
        symbols = run["finished"].map({True: "circle", False: "circle-open"})
        marker = {"color": GREY, "opacity": 0.55, "size": 5, "symbol": symbols}
        look = {"marker": marker, "customdata": about, "hovertemplate": hover}
        figure.add_scatter(x=run["evaluation"], y=run["loss"], row=place[0], col=place[1], **dots, **look)
        line = {"name": "best so far", "legendgroup": "best", "mode": "lines", "showlegend": first}
        step = {"line": {"color": ARM_COLORS["subnet_init"], "shape": "hv", "width": 3}}
        best = run["loss"].where(run["finished"]).cummin().ffill()
        figure.add_scatter(x=run["evaluation"], y=best, row=place[0], col=place[1], **line, **step)
    fitness = str(histories["fitness"].iloc[0]) if "fitness" in histories else "perplexity"
    axis = _FITNESS_AXES.get(fitness, f"{fitness} (lower is better)")
    return _label_axes(figure, "evaluation", axis, len(variants))


def parameter_spread(samples: pd.DataFrame, bins: Mapping[str, tuple[int, int]]) -> go.Figure:
    """Return how a uniform sample of each space spreads over parameter counts, with the bins shaded and labelled.

    Args:
        samples: columns `space`, `num_parameters`; one row per sampled member.
        bins: lowest and highest parameter count of each bin.

    Raises:
        ValueError: there is no sample.
    """
    if samples.empty:
        raise ValueError("samples: empty; sample at least one member of a space")
    spaces = dict(list(samples.groupby("space", sort=False)["num_parameters"]))
    figure = _panels("Parameter counts of uniform samples", [str(space) for space in spaces], num_columns=1)
    bounds = [bound for limits in bins.values() for bound in limits]
    limits = (min(samples["num_parameters"].min(), *bounds), max(samples["num_parameters"].max(), *bounds))
    edges = np.linspace(*limits, _NUM_HISTOGRAM_BARS + 1)
    for row, counts in enumerate(spaces.values(), start=1):
        percent = 100 * np.histogram(counts, edges)[0] / len(counts)
        bars = {"width": np.diff(edges), "marker": {"color": ARM_COLORS["subnet_init"]}, "showlegend": False}
        figure.add_bar(x=(edges[1:] + edges[:-1]) / 2, y=percent, row=row, col=1, name="sample", **bars)
        figure.update_yaxes(range=[0, _LABEL_ROOM * percent.max()], row=row, col=1)
        for name, (low, high) in bins.items():
            share = 100 * counts.between(low, high).mean()
            _shade_bin(figure, row, (low, high), f"{name}: {formats.significant(share, 2)} %")
    figure.update_layout(bargap=0).update_xaxes(exponentformat="B")
    return _label_axes(figure, "parameters", "share of the sample (%)", len(spaces), num_columns=1)


def training_curves(curves: pd.DataFrame, x: Literal["tokens", "flops"] = "tokens") -> go.Figure:
    """Return the held-out loss of every arm while it trains, a panel per variant.

    The dotted line is the loss at which `random_init` ended: where another curve crosses it, that arm has caught up.

    Args:
        curves: columns `bin`, `space`, `arm`, `step`, `tokens`, `flops` (cumulative), `heldout_loss` (nats per token).
        x: the cost on the horizontal axis.

    Raises:
        ValueError: `x` is not a cost, or a curve has no held-out loss at step 0.
    """
    if x not in _CURVE_AXES:
        raise ValueError(f"x: {x!r} is unknown; allowed are {', '.join(_CURVE_AXES)}")
    variants = _variants(curves)
    figure = _panels(f"Held-out loss over {_CURVE_AXES[x]}", list(variants))
    named: set[str] = set()
    for (row, column), variant in zip(_places(len(variants)), variants.values(), strict=True):
        for arm, curve in variant.groupby("arm", sort=False):
            points = held_out(curve)
            look = {**_arm_look(str(arm)), "showlegend": arm not in named, "mode": "lines+markers"}
            figure.add_scatter(x=points[x], y=points["heldout_loss"], row=row, col=column, **look)
            named.add(str(arm))
            if arm == BASELINE:
                end = float(points["heldout_loss"].iloc[-1])
                figure.add_hline(end, line={"color": GREY, "dash": "dot", "width": 1.5}, row=row, col=column)
    figure.update_xaxes(exponentformat="B" if x == "tokens" else "SI")
    return _label_axes(figure, _CURVE_AXES[x], "held-out loss (nats per token)", len(variants))


def perplexity_by_arm(results: pd.DataFrame) -> go.Figure:
    """Return the validation perplexity of every arm, overall and by source, with the teacher as a dashed line.

    Error bars are one standard error of the mean loss over sequences, carried to perplexity. They are not paired:
    whether two arms differ is told by the paired differences of `results_table`.

    Args:
        results: the frame of `budwood.reporting.tables.results_table`.
    """
    suffixes = [name.removeprefix("perplexity") for name in map(str, results) if name.startswith("perplexity")]
    names = [suffix.removeprefix("_") or "all sources" for suffix in suffixes]
    figure = _panels("Validation perplexity", names, num_columns=1)
    trained = results[results["bin"] != ""]
    teacher = results[results["bin"] == ""]
    for row, suffix in enumerate(suffixes, start=1):
        for arm, scores in trained.groupby("model", sort=False):
            look = {**_bar_look(str(arm)), "error_y": _perplexity_error(scores, suffix), "showlegend": row == 1}
            figure.add_bar(x=_variant_labels(scores), y=scores[f"perplexity{suffix}"], row=row, col=1, **look)
        for value in teacher[f"perplexity{suffix}"]:
            line = {"line": {"color": GREY, "dash": "dash", "width": 2}, "name": "teacher", "showlegend": row == 1}
            figure.add_hline(value, row=row, col=1, **line)
        figure.update_yaxes(range=_log_range(results[f"perplexity{suffix}"]), row=row, col=1)
    figure.update_yaxes(type="log", dtick="D2").update_layout(barmode="group")
    # Long names of many variants turn aside; only below the last panel they have room.
    figure.update_xaxes(showticklabels=False).update_xaxes(showticklabels=True, row=len(suffixes), col=1)
    return _label_axes(figure, "variant", "perplexity (log)", len(suffixes), num_columns=1)


def tasks_by_arm(tasks: pd.DataFrame) -> go.Figure:
    """Return what every arm answers in every task, with the teacher as a dashed line and guessing as a dotted one.

    Error bars are one standard error, not paired: whether two arms differ is told by the differences of the table.

    Args:
        tasks: the frame of `budwood.reporting.benchmarks.tasks_table`.
    """
    panels = {str(task): rows for task, rows in tasks.groupby("task", sort=False)}
    figure = _panels("Questions", [f"{name} ({rows['metric'].iloc[0]})" for name, rows in panels.items()], 1)
    for row, answers in enumerate(panels.values(), start=1):
        trained = answers[answers["bin"] != ""]
        for arm, scores in trained.groupby("model", sort=False):
            error = {"array": 100 * scores["standard_error"].fillna(0.0), "color": GREY, "type": "data"}
            look = {**_bar_look(str(arm)), "error_y": error, "showlegend": row == 1}
            figure.add_bar(x=_variant_labels(scores), y=100 * scores["value"], row=row, col=1, **look)
        lines = {
            "teacher": ("dash", answers.loc[answers["bin"] == "", "value"]),
            "guessing": ("dot", answers["chance"]),
        }
        for name, (dash, values) in lines.items():
            for value in values.dropna().unique():
                line = {
                    "line": {"color": GREY, "dash": dash, "width": 2},
                    "name": name,
                    "showlegend": row == len(panels),
                }
                figure.add_hline(100 * value, row=row, col=1, **line)
    figure.update_layout(barmode="group").update_yaxes(rangemode="tozero")
    figure.update_xaxes(showticklabels=False).update_xaxes(showticklabels=True, row=max(1, len(panels)), col=1)
    return _label_axes(figure, "variant", "%", len(panels), num_columns=1)


def flops_by_stage(ledger: Sequence[LedgerEntry]) -> go.Figure:
    """Return what every variant cost, stacked by stage; costs that serve all variants have a bar of their own.

    Raises:
        ValueError: an entry has an unknown stage.
    """
    costs = ledger_frame(ledger)
    costs = costs.assign(variant=[variant_name(b, s) for b, s in zip(costs["bin"], costs["space"], strict=True)])
    totals = costs.groupby(["stage", "variant"], observed=True, sort=True)["flops"].sum()
    variants = list(dict.fromkeys(costs["variant"]))
    figure = go.Figure(layout={"template": TEMPLATE, "title": {"text": "Cost by stage"}, "barmode": "stack"})
    figure.update_layout(legend={"traceorder": "normal"})
    for stage in totals.index.unique("stage"):
        amounts = totals[stage].reindex(variants, fill_value=0.0)
        marker = {"color": STAGE_COLORS[stage], "line": {"color": GREY, "width": 0.5}}
        figure.add_bar(x=amounts, y=variants, orientation="h", name=stage, marker=marker)
    figure.update_yaxes(autorange="reversed", title_text="variant").update_xaxes(title_text="floating-point operations")
    return figure.update_layout(height=_MARGIN["t"] + _MARGIN["b"] + 50 * max(3, len(variants)))


def _variants(frame: pd.DataFrame) -> dict[str, pd.DataFrame]:
    groups = frame.groupby(["bin", "space"], sort=False)
    return {variant_name(str(bin_name), str(space)): rows for (bin_name, space), rows in groups}


def _variant_labels(frame: pd.DataFrame) -> list[str]:
    """Return the variant of every row, on two lines."""
    return [variant_name(b, s).replace(" · ", "<br>") for b, s in zip(frame["bin"], frame["space"], strict=True)]


def _num_columns(num_panels: int, num_columns: int = 2) -> int:
    return max(1, min(num_columns, num_panels))


def _places(num_panels: int, num_columns: int = 2) -> list[tuple[int, int]]:
    """Return row and column, from 1, of each panel of a grid that is filled row by row."""
    width = _num_columns(num_panels, num_columns)
    return [(index // width + 1, index % width + 1) for index in range(num_panels)]


def _panels(title: str, names: list[str], num_columns: int = 2) -> go.Figure:
    """Return an empty grid with a named panel for each of `names`, of the same size for one panel or ten."""
    width = _num_columns(len(names), num_columns)
    num_rows = max(1, -(-len(names) // width))
    area = num_rows * _PANEL_HEIGHT + (num_rows - 1) * _PANEL_GAP
    gaps = {"vertical_spacing": _PANEL_GAP / area, "horizontal_spacing": 0.1}
    figure = make_subplots(rows=num_rows, cols=width, subplot_titles=names, **gaps)
    figure.update_annotations(font={"size": 14})
    height = area + _MARGIN["t"] + _MARGIN["b"]
    return figure.update_layout(template=TEMPLATE, title={"text": title}, height=height)


def _label_axes(figure: go.Figure, x: str, y: str, num_panels: int, num_columns: int = 2) -> go.Figure:
    """Title the vertical axes of the first column and the lowest horizontal axis of each column."""
    places = _places(num_panels, num_columns)
    for row, column in places:
        if column == 1:
            figure.update_yaxes(title_text=y, row=row, col=column)
        if (row + 1, column) not in places:
            figure.update_xaxes(title_text=x, row=row, col=column)
    return figure


def _arm_look(arm: str) -> dict[str, object]:
    """Return name, colour and symbol of an arm, the same in every figure; an unknown arm is grey."""
    marker = {"color": ARM_COLORS.get(arm, GREY), "symbol": ARM_SYMBOLS.get(arm, "x"), "size": 8}
    return {"name": arm, "legendgroup": arm, "marker": marker}


def _bar_look(arm: str) -> dict[str, object]:
    return {"name": arm, "legendgroup": arm, "marker": {"color": ARM_COLORS.get(arm, GREY)}}


def _perplexity_error(scores: pd.DataFrame, suffix: str) -> dict[str, object]:
    """Return asymmetric error bars: exp(loss ± standard error) around exp(loss)."""
    loss, error = scores[f"loss{suffix}"], scores[f"standard_error{suffix}"].fillna(0.0)
    above, below = np.exp(loss + error) - np.exp(loss), np.exp(loss) - np.exp(loss - error)
    return {"array": above, "arrayminus": below, "color": GREY, "symmetric": False, "type": "data"}


def _log_range(values: pd.Series) -> list[float] | None:
    """Return the decimal exponents between which all finite values lie; None, plotly's own choice, without any."""
    finite = values[np.isfinite(values)]
    if finite.empty:
        return None
    return [float(np.log10(finite.min() / _LOG_ROOM)), float(np.log10(finite.max() * _LOG_ROOM))]


def _shade_bin(figure: go.Figure, row: int, limits: tuple[int, int], label: str) -> None:
    """Shade a bin and write its label along its middle, so that neighbouring labels never meet."""
    low, high = limits
    figure.add_vrect(
        low, high, fillcolor=ARM_COLORS[BASELINE], opacity=0.2, line_width=0, layer="below", row=row, col=1
    )
    text = {"text": label, "textangle": -90, "showarrow": False, "yref": "y domain", "y": 0.98, "yanchor": "top"}
    figure.add_annotation(x=(low + high) / 2, **text, row=row, col=1)
