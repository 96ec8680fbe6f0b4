"""The report as one HTML page that opens offline."""

import copy
import html
import re
from collections.abc import Mapping

import plotly.graph_objects as go
from markdown_it import MarkdownIt
from plotly.offline import get_plotlyjs

from budwood.reporting.figures import FIGURES
from budwood.reporting.report import Report

_TITLE_HEIGHT, _TOP = 40, 50
"""Pixels of a figure's own title, and of the names of its panels."""
_PRINT_WIDTH = 680
"""Pixels of the text area of a printed A4 page."""

_STYLE = """
:root { color-scheme: light dark; --page: #fff; --text: #1c1c1c; --soft: #5f5f5f; --line: #d9d9d9; --band: #f5f5f5;
  --link: #0b5fad; --warn: #b3261e; --alarm: #fdf0ef; }
@media screen and (prefers-color-scheme: dark) {
  :root { --page: #121212; --text: #e6e6e6; --soft: #a0a0a0; --line: #3a3a3a; --band: #1d1d1d; --link: #7ab8f5;
    --warn: #f2837b; --alarm: #2b1614; }
}
body { margin: 0 auto; max-width: 82rem; padding: 2rem 1.25rem 4rem; background: var(--page); color: var(--text);
  font: 1rem/1.55 system-ui, sans-serif; }
p, ul, blockquote, pre, aside { max-width: 52rem; }
h1, h2, h3 { line-height: 1.2; }
h2 { margin-top: 3rem; padding-bottom: .3rem; border-bottom: 1px solid var(--line); }
h3 { margin-top: 2rem; }
a { color: var(--link); }
code, pre { background: var(--band); border-radius: .25rem; font-size: .9em; }
code { padding: .1em .3em; overflow-wrap: anywhere; }
pre { padding: .8rem 1rem; overflow-x: auto; }
pre code { padding: 0; overflow-wrap: normal; }
blockquote { margin: 1.5rem 0 .5rem; padding-left: 1rem; border-left: 3px solid var(--line); color: var(--soft); }
aside { border: 2px solid var(--warn); border-radius: .4rem; background: var(--alarm); padding: 0 1rem; }
#contents + ul { columns: 13rem; padding-left: 1.2rem; }
.scroll { overflow-x: auto; margin: 1rem 0; scrollbar-width: thin; }
table { border-collapse: collapse; font-size: .875rem; line-height: 1.4; font-variant-numeric: tabular-nums; }
th, td { padding: .4rem .6rem; border-bottom: 1px solid var(--line); vertical-align: top; }
th { vertical-align: bottom; min-width: 3rem; }
td[style*=right] { white-space: nowrap; }
tbody tr:nth-child(even) { background: var(--band); }
figure { margin: 2rem 0; }
@media (max-width: 40rem) {
  table { font-size: .8rem; }
  th, td { padding: .35rem .4rem; }
  pre { font-size: .75em; }
}
figure h4 { margin: 0; font-size: 1.05rem; }
figcaption { color: var(--soft); font-size: .9rem; }
.grid { min-width: 40rem; }
@media print {
  @page { margin: 14mm; }
  body { max-width: none; padding: 0; font-size: 10pt; }
  table { font-size: 6.5pt; }
  th { min-width: 0; }
  th, td { padding: .2rem .3rem; }
  td[style*=right] { white-space: normal; }
  .scroll { overflow: visible; }
  .grid { min-width: 0; }
  pre { white-space: pre-wrap; }
  h2, h3, h4 { break-after: avoid; }
  tr, figure, pre, aside { break-inside: avoid; }
}
"""
# Plotly draws for the window; a printed page has another width.
_PRINTING = f"""
const draw = (size) => document.querySelectorAll('.plotly-graph-div').forEach((plot) => Plotly.relayout(plot, size));
addEventListener('beforeprint', () => draw({{autosize: false, width: {_PRINT_WIDTH}}}));
addEventListener('afterprint', () => draw({{autosize: true, width: null}}));
"""


def html_report(report: Report, figures: Mapping[str, go.Figure]) -> str:
    """Return one HTML page with everything it needs: text, styles, figures and plotly.js, once.

    A section ends with its figures, in the order of `FIGURES`. An empty figure becomes a sentence.

    Args:
        report: HTML in its text is shown, never interpreted.
        figures: plotly figures by name.
    """
    warning = f"<aside>{_render(report.warning)}</aside>" if report.warning else ""
    parts = [f"<h1>{html.escape(report.title)}</h1>", warning]
    for section in report.sections:
        parts += [f"<h2 id='{section.anchor}'>{html.escape(section.title)}</h2>", _render(section.body)]
        own = [figure for figure in FIGURES if figure.section == section.title and figure.name in figures]
        parts += [_figure(figure.name, figures[figure.name], figure.caption) for figure in own]
    head = "<meta charset='utf-8'><meta name='viewport' content='width=device-width'>"
    head += f"<title>{html.escape(report.title)}</title><style>{_STYLE}</style><script>{get_plotlyjs()}</script>"
    content = "\n".join([*parts, f"<script>{_PRINTING}</script>"])
    return f"<!DOCTYPE html>\n<html lang='en'><head>{head}</head>\n<body>\n{content}\n</body></html>\n"


def _render(markdown: str) -> str:
    body: str = MarkdownIt("commonmark", {"html": False}).enable("table").render(markdown)
    return body.replace("<table>", "<div class='scroll' tabindex='0'><table>").replace("</table>", "</table></div>")


def _figure(name: str, figure: go.Figure, caption: str) -> str:
    """Return a figure with its title and caption, or a sentence on why it is empty.

    The title is text of the page, where it breaks in a narrow window; a grid of panels keeps its width and scrolls.
    """
    title = html.escape(figure.layout.title.text or name)
    if not figure.data:
        reason = html.escape((figure.layout.meta or {}).get("reason", "There is nothing to draw."))
        return f"<p>No figure “{title}”: {reason}</p>"
    drawing = copy.deepcopy(figure)
    if drawing.layout.height:
        drawing.layout.height -= _TITLE_HEIGHT
    drawing.update_layout(title={"text": ""}, margin={"t": _TOP})
    config = {"displayModeBar": False, "responsive": True}
    identifier = re.sub(r"\W", "-", f"figure-{name}")
    plot = drawing.to_html(config, full_html=False, include_plotlyjs=False, div_id=identifier)
    columns = any(axis.domain and axis.domain[0] > 0 for axis in figure.select_xaxes())
    plot = f"<div class='{'grid' if columns else ''}'>{plot}</div>"
    caption = f"<figcaption>{html.escape(caption)}</figcaption>"
    return f"<figure><h4>{title}</h4><div class='scroll' tabindex='0'>{plot}</div>{caption}</figure>"
