"""The page needs nothing from outside, and shows every figure or says why there is none."""

import dataclasses
import re
from html.parser import HTMLParser

import plotly.graph_objects as go
import pytest

from budwood.reporting.page import FIGURES, html_report
from budwood.reporting.report import markdown_report
from budwood.reporting.style import nothing


class Tags(HTMLParser):
    """Collects elements, what they load, and the text of styles."""

    def __init__(self, page: str) -> None:
        """Read a page."""
        super().__init__()
        self.tags: list[str] = []
        self.loaded: list[str] = []
        self.styles = ""
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Note what an element loads."""
        self.tags.append(tag)
        self.loaded += [value or "" for name, value in attrs if name in ("src", "href", "srcset", "data")]

    def handle_data(self, data: str) -> None:
        """Note the text of a style."""
        self.styles += data if self.tags and self.tags[-1] == "style" else ""


def test_a_bar_in_a_name_does_not_break_a_table(study) -> None:
    counts = study.corpus_counts.assign(source="a|b")
    markdown = markdown_report(dataclasses.replace(study, corpus_counts=counts).findings)
    page = html_report(markdown, {})
    assert "<td>a|b</td>" in page or '<td style="text-align:left">a|b</td>' in page


def test_the_page_is_whole_and_offline(study) -> None:
    figures = {**study.figures, "one <more>": go.Figure(go.Bar(y=[1]))}
    page = html_report(markdown_report(study.findings), figures)
    tags = Tags(page)
    assert tags.loaded == []
    assert "link" not in tags.tags
    assert not re.search(r"@import|url\(", tags.styles)
    assert page.count("Plotly.newPlot(") - html_report("", {}).count("Plotly.newPlot(") == len(figures)
    assert tags.tags.count("figure") == len(figures)
    # Eleven sections have one, and results, savings and questions a second.
    assert tags.tags.count("table") == 14
    assert "prefers-color-scheme: dark" in tags.styles


def test_plotly_is_inlined_once(study) -> None:
    few, many = (html_report("", dict(list(study.figures.items())[:number])) for number in (1, 6))
    assert len(few) > 3_000_000
    assert len(many) - len(few) < 1_000_000


def test_figures_stand_in_their_sections(study) -> None:
    page = html_report(markdown_report(study.findings), study.figures)
    body = page[page.index("<body>") :]
    sections = dict(re.findall(r"<h2>(.*?)</h2>(.*?)(?=<h2>|</body>)", body, flags=re.DOTALL))
    for name in study.figures:
        heading, caption = FIGURES[name]
        assert f'id="figure-{name}"' in sections[heading]
        assert caption.replace("'", "&#x27;") in sections[heading]
        assert f"<h4>{study.figures[name].layout.title.text}</h4>" in sections[heading].replace("&#x27;", "'")


def test_figures_without_a_section_stand_at_the_end(study) -> None:
    page = html_report("# Only a title", study.figures)
    assert page.count("<figure>") == len(study.figures)


@pytest.mark.parametrize("text", ["<script>alert(1)</script>", "<img src=x>"])
def test_html_in_the_markdown_is_shown_not_run(text: str) -> None:
    tags = Tags(html_report(f"# Title\n\n{text}\n", {}))
    assert tags.tags.count("script") == 1
    assert "img" not in tags.tags


def test_a_figure_without_a_drawing_is_told_in_words() -> None:
    page = html_report("## Search\n", {"search_trajectory": nothing("A <title>", "Nothing was searched.")})
    assert "<p>No figure “A &lt;title&gt;”: Nothing was searched.</p>" in page
    assert "<figure>" not in page


def test_only_grids_keep_their_width_in_a_narrow_window(study) -> None:
    figures = study.figures
    for name, grid in (("training_curves_tokens", True), ("perplexity_by_arm", False), ("flops_by_stage", False)):
        assert ("<div class='grid'>" in html_report("", {name: figures[name]})) == grid


def test_the_figures_of_the_catalog_keep_their_titles(study) -> None:
    figure = study.figures["flops_by_stage"]
    height = figure.layout.height
    html_report("", {"flops_by_stage": figure})
    assert (figure.layout.title.text, figure.layout.height) == ("Cost by stage", height)
