"""The report as one HTML page that opens offline."""

import copy
import re
from collections.abc import Mapping
from importlib.resources import files

import plotly.graph_objects as go
from jinja2 import Environment
from markdown_it import MarkdownIt
from plotly.offline import get_plotlyjs

from budwood.reporting.figures import FIGURES, Figure
from budwood.reporting.report import Report

_TITLE_HEIGHT, _TOP = 40, 50
"""Pixels of a figure's own title, and of the names of its panels."""


def html_report(report: Report, figures: Mapping[str, go.Figure]) -> str:
    """Return one HTML page with everything it needs: text, styles, figures and plotly.js, once.

    A section ends with its figures, in the order of `FIGURES`. An empty figure becomes a sentence.

    Args:
        report: HTML in its text is shown, never interpreted.
        figures: plotly figures by name.
    """
    environment = Environment(autoescape=True, trim_blocks=True)
    environment.filters["markdown"] = _render
    template = environment.from_string(files(__package__).joinpath("page.html").read_text(encoding="utf-8"))
    own = {
        section.title: [
            _shown(figure, figures[figure.name])
            for figure in FIGURES
            if figure.section == section.title and figure.name in figures
        ]
        for section in report.sections
    }
    return template.render(report=report, figures=own, plotly=get_plotlyjs())


def _render(markdown: str) -> str:
    body: str = MarkdownIt("commonmark", {"html": False}).enable("table").render(markdown)
    return body.replace("<table>", "<div class='scroll' tabindex='0'><table>").replace("</table>", "</table></div>")


def _shown(figure: Figure, drawn: go.Figure) -> dict[str, str | bool]:
    """Return what the page shows of a figure, or why it is empty.

    The title is text of the page, where it breaks in a narrow window; a grid of panels keeps its width and scrolls.
    """
    title = drawn.layout.title.text or figure.name
    if not drawn.data:
        return {"title": title, "reason": (drawn.layout.meta or {}).get("reason", "There is nothing to draw.")}
    drawing = copy.deepcopy(drawn)
    if drawing.layout.height:
        drawing.layout.height -= _TITLE_HEIGHT
    drawing.update_layout(title={"text": ""}, margin={"t": _TOP})
    config = {"displayModeBar": False, "responsive": True}
    identifier = re.sub(r"\W", "-", f"figure-{figure.name}")
    plot = drawing.to_html(config, full_html=False, include_plotlyjs=False, div_id=identifier)
    is_grid = any(axis.domain and axis.domain[0] > 0 for axis in drawn.select_xaxes())
    return {"title": title, "caption": figure.caption, "is_grid": is_grid, "plot": plot}
