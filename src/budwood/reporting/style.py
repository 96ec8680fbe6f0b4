"""One style for all figures, readable on light and dark pages, with and without colours."""

from collections.abc import Sequence
from typing import Literal

import numpy as np
import pandas as pd
import plotly.graph_objects as go
import plotly.io
from numpy.typing import NDArray
from plotly.subplots import make_subplots

from budwood.records.names import BASELINE, Variant

# Okabe and Ito (2008), "Color universal design": distinguishable with the common colour-vision deficiencies.
ARM_COLORS = {BASELINE: "#D55E00", "subnet_init": "#0072B2", "distilled": "#009E73", "reference_init": "#CC79A7"}
ARM_SYMBOLS = {BASELINE: "circle", "subnet_init": "square", "distilled": "diamond", "reference_init": "cross"}
STAGE_COLORS = {
    "calibration": "#E69F00",
    "elimination": "#A6761D",
    "search": "#56B4E9",
    "compensation": "#8C6BB1",
    "probe": "#0072B2",
    "teacher_cache": "#F0E442",
    "training": "#44AA99",
    "teacher": "#CC79A7",
    "heldout": "#7f7f7f",
    "evaluation": "#bfbfbf",
    "certificate": "#D55E00",
}
Measure = Literal["loss", "perplexity"]
"""What a held-out curve shows."""
MEASURE_AXES: dict[Measure, str] = {"loss": "held-out loss (nats per token)", "perplexity": "held-out perplexity"}

SERIES = ("#0072B2", "#E69F00", "#009E73", "#CC79A7", "#56B4E9", "#D55E00")
"""Colours of other series, in turn."""
# Contrast at least 3.9 : 1 against white as well as against #111.
GREY = "#7f7f7f"
FAINT = "rgba(127, 127, 127, 0.25)"
CLEAR = "rgba(0, 0, 0, 0)"
BAND_OPACITY = 0.18

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
MARGIN = {"l": 70, "r": 24, "t": 90, "b": 100}
_PANEL_HEIGHT, _PANEL_GAP, _ROW_HEIGHT = 260, 90, 460
# Margin of a logarithmic axis, as a factor.
_LOG_ROOM = 1.5

TEMPLATE = "budwood"
plotly.io.templates[TEMPLATE] = go.layout.Template(
    layout={
        "font": {"family": "system-ui, sans-serif", "size": 14, "color": GREY},
        "paper_bgcolor": CLEAR,
        "plot_bgcolor": CLEAR,
        "title": _TITLE,
        "legend": _LEGEND,
        "margin": MARGIN,
        "xaxis": _AXIS,
        "yaxis": _AXIS,
        "colorway": SERIES,
    },
)


def panels(title: str, names: list[str], num_columns: int = 2) -> go.Figure:
    """Return an empty grid with a named panel for each of `names`, of the same size for one panel or ten."""
    width = _num_columns(len(names), num_columns)
    num_rows = max(1, -(-len(names) // width))
    area = num_rows * _PANEL_HEIGHT + (num_rows - 1) * _PANEL_GAP
    gaps = {"vertical_spacing": _PANEL_GAP / area, "horizontal_spacing": 0.1}
    figure = make_subplots(rows=num_rows, cols=width, subplot_titles=names, **gaps)
    figure.update_annotations(font={"size": 14})
    height = area + MARGIN["t"] + MARGIN["b"]
    return figure.update_layout(template=TEMPLATE, title={"text": title}, height=height)


def shown(losses: NDArray[np.float64], measure: Measure) -> NDArray[np.float64]:
    """Return losses as a measure shows them."""
    return losses if measure == "loss" else np.exp(losses)


def panel_row(title: str, names: Sequence[str], x: str, y: str) -> go.Figure:
    """Return an empty figure with a named panel for each of `names` side by side; one panel without any.

    Args:
        title: of the figure.
        names: of the panels.
        x: title of every horizontal axis.
        y: title of the first vertical axis.
    """
    figure = make_subplots(rows=1, cols=max(1, len(names)), subplot_titles=list(names), shared_yaxes=True)
    figure.update_annotations(font={"size": 14})
    figure.update_xaxes(title_text=x).update_yaxes(title_text=y, col=1)
    return figure.update_layout(template=TEMPLATE, title={"text": title}, height=_ROW_HEIGHT)


def places(num_panels: int, num_columns: int = 2) -> list[dict[str, int]]:
    """Return row and column, from 1, of each panel of a grid that is filled row by row."""
    width = _num_columns(num_panels, num_columns)
    return [{"row": index // width + 1, "col": index % width + 1} for index in range(num_panels)]


def label_axes(figure: go.Figure, x: str, y: str, num_panels: int, num_columns: int = 2) -> go.Figure:
    """Title the vertical axes of the first column and the lowest horizontal axis of each column."""
    grid = places(num_panels, num_columns)
    for place in grid:
        if place["col"] == 1:
            figure.update_yaxes(title_text=y, **place)
        if place | {"row": place["row"] + 1} not in grid:
            figure.update_xaxes(title_text=x, **place)
    return figure


def nothing(title: str, reason: str) -> go.Figure:
    """Return an empty figure that says why it is empty."""
    layout = {"template": TEMPLATE, "title": {"text": title}, "height": 160, "meta": {"reason": reason}}
    axis = {"visible": False}
    figure = go.Figure(layout={**layout, "xaxis": axis, "yaxis": axis})
    return figure.add_annotation(text=reason, showarrow=False, x=0, xanchor="left", xref="paper", y=0.5, yref="paper")


def variants(frame: pd.DataFrame) -> dict[str, pd.DataFrame]:
    """Return the rows of every variant under its name, in their order."""
    groups = frame.groupby(["bin", "space"], sort=False)
    return {str(Variant(str(bin_name), str(space))): rows for (bin_name, space), rows in groups}


def variant_labels(frame: pd.DataFrame) -> list[str]:
    """Return the variant of every row, on two lines."""
    return [str(Variant(b, s)).replace(" · ", "<br>") for b, s in zip(frame["bin"], frame["space"], strict=True)]


def color_of(place: int) -> str:
    """Return the colour of the series in a place; they repeat after the last."""
    return (*SERIES, "#F0E442", GREY)[place % (len(SERIES) + 2)]


def arm_look(arm: str) -> dict[str, object]:
    """Return name, colour and symbol of an arm, the same in every figure; an unknown arm is grey."""
    marker = {"color": ARM_COLORS.get(arm, GREY), "symbol": ARM_SYMBOLS.get(arm, "x"), "size": 8}
    return {"name": arm, "legendgroup": arm, "marker": marker}


def bar_look(arm: str) -> dict[str, object]:
    """Return name and colour of an arm's bars."""
    return {"name": arm, "legendgroup": arm, "marker": {"color": ARM_COLORS.get(arm, GREY)}}


def error_bars(above: object, below: object | None = None) -> dict[str, object]:
    """Return error bars, of equal length to both sides where there is one."""
    sides = {"array": above} if below is None else {"array": above, "arrayminus": below, "symmetric": False}
    return {**sides, "color": GREY, "type": "data", "thickness": 1.5}


def log_range(values: pd.Series) -> list[float] | None:
    """Return the decimal exponents between which all finite values lie; None, plotly's own choice, without any."""
    finite = values[np.isfinite(values) & (values > 0)]
    if finite.empty:
        return None
    return [float(np.log10(finite.min() / _LOG_ROOM)), float(np.log10(finite.max() * _LOG_ROOM))]


def _num_columns(num_panels: int, num_columns: int) -> int:
    return max(1, min(num_columns, num_panels))
