"""One HTML page that opens offline: a markdown text with figures in it."""

import copy
import html
import re
from collections.abc import Mapping

import plotly.graph_objects as go
from markdown_it import MarkdownIt
from plotly.offline import get_plotlyjs

# Where each figure belongs and what to see in it.
FIGURES = {
    "perplexity_by_arm": (
        "Results",
        "Lower is better; bars are one unpaired standard error, the dashed line the teacher.",
    ),
    "training_curves_tokens": (
        "Training",
        "Bands: one standard error over sequences; dotted: where random_init ended; stars: where another arm meets it.",
    ),
    "training_curves_flops": ("Training", "The same losses over the training's cost; the search is not in it."),
    "training_curves_flops_with_search": (
        "Training",
        "The same losses, every curve but random_init's moved right by all that it took to find and cut its start.",
    ),
    "training_losses": (
        "Training",
        "What training minimised. With a teacher that is another objective: heights compare only between arms without.",
    ),
    "savings_by_ledger": (
        "Savings",
        "Above the dotted line the arm was cheaper than random_init. Each ledger charges more than the one before it.",
    ),
    "probe_losses": ("Selection", "The thick line is the space that each bin goes on with."),
    "tasks_by_arm": (
        "Questions",
        "Higher is better; bars are one unpaired standard error, dashed the teacher, dotted what guessing gives.",
    ),
    "speed_and_memory": ("Speed and memory", "Bars are quartiles over repeats; the dashed line is the teacher."),
    "winners_by_variant": (
        "Search",
        "What the searches found, as it is exported, on text that no stage of them has read; bars are 95 % intervals.",
    ),
    "winner_layers": ("Search", "Layers of the teacher by rank; gaps are layers that were dropped."),
    "elite_sizes": ("Search", "Grey: the range over all candidates. Where layers differ, means over the kept ones."),
    "search_trajectory": (
        "Search",
        "Open points were dropped before they had read all text; faint lines begin generations.",
    ),
    "search_sizes": ("Search", "The bin is shaded; open points were dropped before they had read all text."),
    "draws_and_elites": (
        "Search",
        "What a search adds to drawing at random. A draw that was dropped stands at the loss of the text that it read.",
    ),
    "parameter_spread": ("Search spaces", "A bin that holds little of a uniform sample is hard to hit by chance."),
    "flops_by_stage": ("Costs", "What each variant spent; 'shared' costs serve several variants."),
}
_ELSEWHERE = "Further figures"
_TITLE_HEIGHT, _TOP = 40, 50
"""Pixels of a figure's own title, and of what then stands above its panels: their names."""

_STYLE = """
:root { color-scheme: light dark; --page: #ffffff; --text: #1c1c1c; --soft: #5f5f5f; --line: #d9d9d9; --band: #f5f5f5; }
@media (prefers-color-scheme: dark) {
  :root { --page: #121212; --text: #e6e6e6; --soft: #a0a0a0; --line: #3a3a3a; --band: #1d1d1d; }
}
body { margin: 0 auto; max-width: 62rem; padding: 2rem 1.25rem 4rem; background: var(--page); color: var(--text);
  font: 1rem/1.55 system-ui, sans-serif; }
h1, h2, h3 { line-height: 1.2; }
h2 { margin-top: 3rem; padding-bottom: .3rem; border-bottom: 1px solid var(--line); }
code { background: var(--band); border-radius: .25rem; padding: .1em .3em; font-size: .9em; overflow-wrap: anywhere; }
.scroll { overflow-x: auto; margin: 1rem 0; }
table { border-collapse: collapse; font-size: .9rem; font-variant-numeric: tabular-nums; white-space: nowrap; }
th, td { padding: .4rem .6rem; border-bottom: 1px solid var(--line); vertical-align: top; }
th { white-space: normal; vertical-align: bottom; }
td:first-child { white-space: normal; min-width: 13rem; }
tbody tr:nth-child(even) { background: var(--band); }
figure { margin: 2rem 0; }
figure h4 { margin: 0; font-size: 1.05rem; }
figcaption { color: var(--soft); font-size: .9rem; }
.grid { min-width: 40rem; }
"""


def html_report(markdown: str, figures: Mapping[str, go.Figure]) -> str:
    """Return one HTML page that holds everything it needs: text, styles, figures and plotly.js, once.

    A figure named in `FIGURES` stands at the end of the section of that heading, in the order of `FIGURES`; others
    stand at the end of the page. A figure without a drawing is told in words.

    Args:
        markdown: the text; its HTML is shown, never interpreted.
        figures: plotly figures by name.
    """
    body = MarkdownIt("commonmark", {"html": False}).enable("table").render(markdown)
    body = body.replace("<table>", '<div class="scroll"><table>').replace("</table>", "</table></div>")
    order = [name for name in FIGURES if name in figures] + [name for name in figures if name not in FIGURES]
    wanted = {name: html.escape(FIGURES.get(name, (_ELSEWHERE, ""))[0]) for name in order}
    pages: list[str] = []
    for section in re.split("(?=<h2>)", body):
        heading = re.match("<h2>(.*?)</h2>", section)
        placed = [name for name, title in wanted.items() if heading and title == heading[1]]
        pages += [section, *(_figure(name, figures[name]) for name in placed)]
        wanted = {name: title for name, title in wanted.items() if name not in placed}
    if wanted:
        pages += [f"<h2>{_ELSEWHERE}</h2>", *(_figure(name, figures[name]) for name in wanted)]
    head = "<meta charset='utf-8'><meta name='viewport' content='width=device-width'><title>Budwood report</title>"
    head += f"<style>{_STYLE}</style><script>{get_plotlyjs()}</script>"
    content = "\n".join(pages)
    return f"<!DOCTYPE html>\n<html lang='en'><head>{head}</head>\n<body>\n{content}\n</body></html>\n"


def _figure(name: str, figure: go.Figure) -> str:
    """Return a figure under its title with its line on what to see, or in words why there is none.

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
    caption = html.escape(FIGURES.get(name, ("", ""))[1])
    return f"<figure><h4>{title}</h4><div class='scroll'>{plot}</div><figcaption>{caption}</figcaption></figure>"
