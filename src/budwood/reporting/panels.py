"""Figures of a few panels side by side, in the style of all others."""

from collections.abc import Sequence

import plotly.graph_objects as go
from plotly.subplots import make_subplots

from budwood.reporting.style import GREY, SERIES, TEMPLATE

_COLORS = (*SERIES, "#F0E442", GREY)
"""Colours of what is compared, in turn; black, which a dark page hides, is grey."""
_HEIGHT = 460


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
    return figure.update_layout(template=TEMPLATE, title={"text": title}, height=_HEIGHT)


def color_of(place: int) -> str:
    """Return the colour of the series in a place; they repeat after the last."""
    return _COLORS[place % len(_COLORS)]
