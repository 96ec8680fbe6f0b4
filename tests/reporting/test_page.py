"""The page needs nothing from outside, and shows every figure or says why there is none."""

import dataclasses
import html
import re
from html.parser import HTMLParser

import plotly.graph_objects as go
import pytest
from reports import report_on

from budwood.pipelines.reporting.nodes import draw_figures, tabulate_results, write_pages
from budwood.reporting.figures import FIGURES, drawable
from budwood.reporting.page import html_report
from budwood.reporting.report import Report, Section
from budwood.reporting.style import nothing


class Tags(HTMLParser):
    """Collects elements, what they load, targets of links, and the text of styles."""

    def __init__(self, page: str) -> None:
        """Read a page."""
        super().__init__()
        self.tags: list[str] = []
        self.loaded: list[str] = []
        self.ids: set[str] = set()
        self.styles = ""
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Note what an element loads."""
        self.tags.append(tag)
        self.loaded += [value or "" for name, value in attrs if name in ("src", "href", "srcset", "data")]
        self.ids |= {value or "" for name, value in attrs if name == "id"}

    def handle_data(self, data: str) -> None:
        """Note the text of a style."""
        self.styles += data if self.tags and self.tags[-1] == "style" else ""


def report_of(body: str, title: str = "Search") -> Report:
    """Return a report of one section."""
    return Report(title="A report", warning="", sections=(Section(title=title, body=body),))


def test_a_bar_in_a_name_does_not_break_a_table(study) -> None:
    counts = study.corpus_counts.assign(source="a|b")
    page = html_report(report_on(dataclasses.replace(study, corpus_counts=counts).findings), {})
    assert "<td>a|b</td>" in page or '<td style="text-align:left">a|b</td>' in page


@pytest.mark.slow
def test_the_page_is_whole_and_offline(study) -> None:
    report = report_on(study.findings)
    page = html_report(report, study.figures)
    tags = Tags(page)
    assert tags.loaded
    # Links of the contents lead somewhere.
    assert {target.removeprefix("#") for target in tags.loaded} <= tags.ids
    assert "link" not in tags.tags
    assert not re.search(r"@import|url\(", tags.styles)
    assert page.count("Plotly.newPlot(") - html_report(report_of(""), {}).count("Plotly.newPlot(") == len(study.figures)
    assert tags.tags.count("figure") == len(study.figures)
    assert tags.tags.count("table") == report.markdown.count("\n|:-")
    assert "prefers-color-scheme: dark" in tags.styles
    assert "@media print" in tags.styles


@pytest.mark.slow
def test_plotly_is_inlined_once(study) -> None:
    report = report_on(study.findings)
    few, many = (html_report(report, dict(list(study.figures.items())[:number])) for number in (1, 6))
    assert len(few) > 3_000_000
    assert len(many) - len(few) < 1_000_000


@pytest.mark.slow
def test_figures_end_their_sections(study) -> None:
    page = html_report(report_on(study.findings), study.figures)
    body = page[page.index("<body>") :]
    # Split, not searched by one expression: figures are megabytes.
    sections = dict(part.partition(">")[2].split("</h2>", 1) for part in body.split("<h2 id=")[1:])
    for figure in drawable(study.data):
        section = html.unescape(sections[figure.section])
        assert f'id="figure-{figure.name}"' in section
        assert figure.caption in section
        assert f"<h4>{study.figures[figure.name].layout.title.text}</h4>" in section


def test_every_figure_has_a_name_of_its_own_and_a_section(study) -> None:
    assert len({figure.name for figure in FIGURES}) == len(FIGURES)
    titles = {section.title for section in report_on(study.findings).sections}
    assert {figure.section for figure in FIGURES} - titles == {"Selection"}


@pytest.mark.parametrize("text", ["<script>alert(1)</script>", "<img src=x>"])
def test_html_in_the_text_is_shown_not_run(text: str) -> None:
    report = Report(title=text, warning=text, sections=(Section(title=text, body=text),))
    tags = Tags(html_report(report, {}))
    assert tags.tags.count("script") == 2
    assert "img" not in tags.tags


def test_a_figure_without_a_drawing_is_a_sentence() -> None:
    page = html_report(report_of(""), {"search_trajectory": nothing("A <title>", "Nothing was searched.")})
    assert "<p>No figure “A &lt;title&gt;”: Nothing was searched.</p>" in page
    assert "<figure>" not in page


@pytest.mark.slow
def test_only_grids_keep_their_width_in_a_narrow_window(study) -> None:
    places = (("training_curves_tokens", "Training", True), ("perplexity_by_arm", "Results", False))
    for name, title, grid in places:
        page = html_report(report_of("", title), {name: study.figures[name]})
        assert ("<div class='grid'>" in page) == grid


def test_the_figures_of_the_catalog_keep_their_titles() -> None:
    figure = go.Figure(go.Bar(y=[1]), layout={"title": {"text": "Losses"}, "height": 300})
    html_report(report_of(""), {"search_trajectory": figure})
    assert (figure.layout.title.text, figure.layout.height) == ("Losses", 300)


@pytest.mark.slow
def test_the_nodes_hand_every_dataset_to_the_page(study) -> None:
    """As Kedro calls them: datasets by position, their names beforehand."""
    results, saved = tabulate_results(study.scores, study.curves, study.costs, study.teacher, study.evaluation)
    assert saved["arm"].tolist() == study.saved["arm"].tolist()
    data = study.data | {"results": results, "savings": saved}
    figures = draw_figures(*data.values(), names=list(data))
    assert set(figures) == {figure.dataset for figure in drawable(data)}
    findings = study.findings
    written = {field.name: getattr(findings, field.name) for field in dataclasses.fields(findings)} | figures
    markdown, page = write_pages(*written.values(), names=list(written))
    assert markdown == report_on(findings).markdown
    assert page.count("<figure>") == len(figures)
