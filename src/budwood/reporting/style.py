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
from budwood.reporting.markup import variant_names

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
    "gate": "#882255",
    "sweep": "#AA4499",
    "training": "#44AA99",
    "teacher": "#CC79A7",
    "heldout": "#7f7f7f",
    "evaluation": "#bfbfbf",
    "certificate": "#D55E00",
}
Quantity = Literal["loss", "perplexity"]
"""What a held-out curve shows."""
QUANTITY_AXES: dict[Quantity, str] = {"loss": "held-out loss (nats per token)", "perplexity": "held-out perplexity"}

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
_PANEL_HEIGHT, _PANEL_GAP = 260, 90
# Margin of a logarithmic axis, as a factor.
_LOG_ROOM = 1.5

Panel = dict[str, int]
"""Row and column of a panel, from 1."""
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


def panels(
    title: str, names: Sequence[str], x: str, y: str, num_columns: int = 2, **shared: bool
) -> tuple[go.Figure, list[Panel]]:
    """Return an empty grid with a named panel for each of `names`, and the places of the panels, filled row by row.

    Panels have the same size, be they one or ten.

    Args:
        title: of the figure.
        names: of the panels.
        x: title of the lowest horizontal axis of each column.
        y: title of the vertical axes of the first column.
        num_columns: the most panels side by side.
        shared: the axes that panels share, as `plotly.subplots.make_subplots` names them.
    """
    width = max(1, min(num_columns, len(names)))
    num_rows = max(1, -(-len(names) // width))
    area = num_rows * _PANEL_HEIGHT + (num_rows - 1) * _PANEL_GAP
    gaps = {"vertical_spacing": _PANEL_GAP / area, "horizontal_spacing": 0.1}
    figure = make_subplots(rows=num_rows, cols=width, subplot_titles=names, **gaps, **shared)
    figure.update_annotations(font={"size": 14}).update_yaxes(title_text=y, col=1)
    places = [{"row": index // width + 1, "col": index % width + 1} for index in range(len(names))]
    for place in places[-width:]:
        figure.update_xaxes(title_text=x, **place)
    height = area + MARGIN["t"] + MARGIN["b"]
    return figure.update_layout(template=TEMPLATE, title={"text": title}, height=height), places


def legend_once(figure: go.Figure) -> go.Figure:
    """Show one entry for all that have a name in common, for lines across a panel too; it switches all of them."""
    seen = set[str]()
    for drawn in (*figure.data, *figure.layout.shapes):
        if drawn.name and drawn.showlegend is not False:
            drawn.update(legendgroup=drawn.name, showlegend=drawn.name not in seen)
            seen.add(drawn.name)
    return figure


def shown(losses: NDArray[np.float64], measure: Quantity) -> NDArray[np.float64]:
    """Return losses as a measure shows them."""
    return losses if measure == "loss" else np.exp(losses)


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


def by_variant(
    title: str, frame: pd.DataFrame, x: str, y: str, reason: str
) -> tuple[go.Figure, list[tuple[Panel, pd.DataFrame]]]:
    """Return a grid with a panel for every variant, and the place and the rows of each."""
    found = variants(frame)
    if not found:
        return nothing(title, reason), []
    figure, places = panels(title, list(found), x, y)
    return figure, list(zip(places, found.values(), strict=True))


def color_of_arm(arm: object) -> str:
    """Return the colour of an arm, the same in every figure; an unknown arm is grey."""
    return ARM_COLORS.get(str(arm), GREY)


def variant_labels(frame: pd.DataFrame) -> list[str]:
    """Return the variant of every row, on two lines."""
    return [name.replace(" · ", "<br>") for name in variant_names(frame)]


def color_of(place: int) -> str:
    """Return the colour of the series in a place; they repeat after the last."""
    return (*SERIES, "#F0E442", GREY)[place % (len(SERIES) + 2)]


def arm_look(arm: str) -> dict[str, object]:
    """Return name, colour and symbol of an arm."""
    marker = {"color": color_of_arm(arm), "symbol": ARM_SYMBOLS.get(arm, "x"), "size": 8}
    return {"name": arm, "marker": marker}


def bar_look(arm: str) -> dict[str, object]:
    """Return name and colour of an arm's bars."""
    return {"name": arm, "marker": {"color": color_of_arm(arm)}}


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
