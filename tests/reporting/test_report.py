"""The report says what the numbers say, and its page needs nothing from outside."""

import dataclasses
import re
from collections.abc import Callable
from html.parser import HTMLParser

import pandas as pd
import plotly.graph_objects as go
import pytest

from budwood.reporting.records import ARMS
from budwood.reporting.report import FIGURES, html_report, markdown_report

HEADINGS = [
    *("Start here", "Results", "Questions", "Speed and memory", "Savings"),
    *("Search", "Search spaces", "Text", "Teacher", "Costs", "How this was made"),
]


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


def start(markdown: str) -> str:
    """Return the section that opens the report."""
    return markdown.split("## Start here")[1].split("\n## ", maxsplit=1)[0]


def test_sections_in_order(study) -> None:
    assert re.findall("^## (.*)$", markdown_report(study.findings), flags=re.MULTILINE) == HEADINGS


def test_the_start_quotes_the_tables(make_study: Callable) -> None:
    """Losses shifted by exactly 3 and 3.5 nats, with a flip of 0.1: the words must follow."""
    study = make_study(1)
    base = study.arms[0]["losses"]
    for arm, shift in zip(study.arms[1:], (3.0, 3.5), strict=True):
        arm["losses"] = {s: [x - shift + 0.1 * (-1) ** i for i, x in enumerate(xs)] for s, xs in base.items()}
    text = start(markdown_report(study.findings))
    assert "`subnet_init` is lower in 1 of 1" in text
    assert "Lowest validation loss of 3 arms: `distilled`" in text
    # The sample deviation of ±0.1 over 64 sequences is 0.1008, its error 0.0126.
    assert "`subnet_init` -3.000 ± 0.013 nats (lower, beyond the noise)" in text
    assert "`distilled` -3.500 ± 0.013 nats (lower, beyond the noise)" in text
    assert "`random_init` 9.22 TFLOP" in text
    assert "calibration, search and compensation 29.1 TFLOP" in text
    assert "over 64 validation sequences" in text


def test_a_difference_within_the_noise_is_called_so(make_study: Callable) -> None:
    study = make_study(1)
    base = study.arms[0]["losses"]
    for arm in study.arms[1:]:
        arm["losses"] = {s: [x - 0.01 + (-1) ** i for i, x in enumerate(xs)] for s, xs in base.items()}
    text = start(markdown_report(study.findings))
    assert "`subnet_init` is undecided in 1 of 1" in text
    assert "beyond the noise)" not in text


def test_a_winning_baseline_is_told(make_study: Callable) -> None:
    study = make_study(1)
    base = study.arms[0]["losses"]
    for arm in study.arms[1:]:
        arm["losses"] = {s: [x + 1 + 0.1 * (i % 2) for i, x in enumerate(xs)] for s, xs in base.items()}
    text = start(markdown_report(study.findings))
    assert "Lowest validation loss of 3 arms: `random_init`" in text
    assert "`subnet_init` is higher in 1 of 1" in text
    assert "nats (higher, beyond the noise)" in text


def test_answers_are_told_with_errors_and_verdicts(make_study: Callable) -> None:
    """5 of 20 right, 15, and another 5: the words must follow."""
    study = make_study(1)
    random_init, subnet_init, distilled = (record["tasks"][1] for record in study.downstream[1:])
    base = [1.0] * 5 + [0.0] * 15
    for task, answers in ((random_init, base), (subnet_init, [1.0] * 15 + [0.0] * 5), (distilled, base[::-1])):
        task |= {"answers": answers, "value": sum(answers) / 20, "standard_error": 0.0993}
    section = markdown_report(study.findings).split("### continuation")[1].split("## ")[0]
    assert "20 questions, 0 shots, version 1.0; guessing gives 25.0 %." in section
    lines = [line for line in section.splitlines() if line.startswith("| quarter")]
    rows = {arm: next(line for line in lines if f" {arm} " in line) for arm in ARMS}
    assert "25.0 ± 9.9" in rows["random_init"]
    # Ten of twenty differ by one: mean 0.5, sample deviation sqrt(5 / 19), error 0.1147.
    assert "+50 ± 11" in rows["subnet_init"]
    assert "higher, beyond the noise" in rows["subnet_init"]
    # Five gained, five lost: mean 0, sample deviation sqrt(10 / 19), error 0.162.
    assert "+0 ± 16" in rows["distilled"]
    assert "within the noise" in rows["distilled"]


def test_answers_that_are_all_alike_have_no_error(make_study: Callable) -> None:
    study = make_study(1)
    for record in study.downstream:
        record["tasks"][0] |= {"answers": [0.0] * 20, "value": 0.0, "standard_error": 0.0}
    section = markdown_report(study.findings).split("### last_word")[1].split("### ")[0]
    assert section.count(" 0 (all alike) ") == 4 + 2
    assert "±" not in section


def test_speeds_are_told_with_their_spread_and_settings(make_study: Callable) -> None:
    section = markdown_report(make_study(1).findings).split("## Speed and memory")[1].split("## ")[0]
    assert "Measured on `cpu (2 threads)` in float32, 1 at a time: prompts of 128 tokens" in section
    teacher, subnet = (line for line in section.splitlines() if "quarter" in line)
    assert teacher.count(" n/a ") == 2
    assert "4.00x (4.00 to 4.00)" in subnet
    assert "312 ms" in subnet
    assert "45.0 KiB" in subnet


def test_what_was_not_measured_is_told(make_study: Callable) -> None:
    study = dataclasses.replace(make_study(1), downstream=[], efficiency=[])
    text = markdown_report(study.findings)
    assert "No model was asked anything." in text
    assert "Speed was not measured." in text


def test_no_ratio_where_none_is_defined(make_study: Callable) -> None:
    study = make_study(1)
    arms, held_out = study.curves["arm"], study.curves["heldout_loss"]
    study.curves.loc[arms == "subnet_init", "heldout_loss"] = held_out.where(held_out.isna(), 20.0)
    study.curves.loc[arms == "distilled", "heldout_loss"] = held_out.where(held_out.isna(), 1.0)
    markdown = markdown_report(study.findings)
    rows = {
        arm: next(row for row in markdown.split("## Savings")[1].splitlines() if f" {arm} " in row)
        for arm in set(arms[1:]) - {"random_init"}
    }
    assert "not reached" in rows["subnet_init"]
    assert not re.search(r"\dx ", rows["subnet_init"])
    assert "at step 0" in rows["distilled"]
    assert len(re.findall(r"\dx ", rows["distilled"])) == 3
    assert "`subnet_init` does not reach it, `distilled` has it before any training" in start(markdown)


def test_a_report_without_arms_or_with_one(make_study: Callable) -> None:
    study = make_study(1)
    del study.arms[1:]
    alone = dataclasses.replace(study, curves=study.curves.query("arm == 'random_init'"))
    text = markdown_report(alone.findings)
    assert "there is nothing to compare" in text
    assert "`random_init` has a validation loss of" in text
    del study.arms[0]
    none = dataclasses.replace(study, curves=study.curves.iloc[:0], ledger=[])
    assert "No arm was trained" in markdown_report(none.findings)


def test_a_bar_in_a_name_does_not_break_a_table(study) -> None:
    counts = study.corpus_counts.assign(source="a|b")
    markdown = markdown_report(dataclasses.replace(study, corpus_counts=counts).findings)
    page = html_report(markdown, {})
    assert "<td>a|b</td>" in page or '<td style="text-align:left">a|b</td>' in page


def test_provenance_is_listed(study) -> None:
    made = markdown_report(study.findings).split("## How this was made")[1]
    assert "- training ran on: `cpu, float32`\n- seed: `42`\n- fingerprints:\n  - corpus: `9f2c`" in made


def test_the_page_is_whole_and_offline(study) -> None:
    figures = {**study.figures, "one <more>": go.Figure(go.Bar(y=[1]))}
    page = html_report(markdown_report(study.findings), figures)
    tags = Tags(page)
    assert tags.loaded == []
    assert "link" not in tags.tags
    assert not re.search(r"@import|url\(", tags.styles)
    assert page.count("Plotly.newPlot(") - html_report("", {}).count("Plotly.newPlot(") == len(figures)
    assert tags.tags.count("figure") == len(figures)
    # Nine sections with one, two sources more in the results, and a second task.
    assert tags.tags.count("table") == 12
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


def test_a_section_that_only_some_studies_have_brings_its_figure(study) -> None:
    findings = dataclasses.replace(study.findings, further={"Selection": "What was chosen."})
    markdown = markdown_report(findings)
    assert re.findall("^## (.*)$", markdown, flags=re.MULTILINE) == [*HEADINGS[:5], "Selection", *HEADINGS[5:]]
    page = html_report(markdown, {"probe_losses": go.Figure()})
    section = page[page.index("<h2>Selection</h2>") : page.index("<h2>Search</h2>")]
    assert "What was chosen." in section
    assert 'id="figure-probe_losses"' in section


def test_savings_against_every_baseline_have_a_table_of_their_own(study) -> None:
    again = study.findings.savings.assign(baseline="reference_init")
    both = dataclasses.replace(study.findings, savings=pd.concat([study.findings.savings, again]))
    section = markdown_report(both).split("## Savings")[1].split("\n## ")[0]
    assert "final loss of random_init" in section
    assert "final loss of reference_init" in section
    # The opening words count every arm once.
    assert start(markdown_report(both)) == start(markdown_report(study.findings))


def test_figures_without_a_section_stand_at_the_end(study) -> None:
    page = html_report("# Only a title", study.figures)
    assert page.count("<figure>") == len(study.figures)


@pytest.mark.parametrize("text", ["<script>alert(1)</script>", "<img src=x>"])
def test_html_in_the_markdown_is_shown_not_run(text: str) -> None:
    tags = Tags(html_report(f"# Title\n\n{text}\n", {}))
    assert tags.tags.count("script") == 1
    assert "img" not in tags.tags


def test_what_a_search_found_is_told_with_its_confidence(make_study) -> None:
    """The first variant's lead is sure, the others had one finalist."""
    page = markdown_report(make_study(2).findings)
    section = page.partition("## Search\n")[2].partition("\n## ")[0]
    first, second = [line for line in section.splitlines() if "12 layers x 448 wide" in line]
    for told in ("33.63M", " 60 ", "6.250", "5.500 [5.250, 5.750]", "0.125 [0.062, 0.188]", "2.50 TFLOP", "650 PFLOP"):
        assert told in first
    assert "n/a" in second
    assert "perplexity on the search's text" in section


def test_a_report_without_any_search_says_so(study) -> None:
    assert "Nothing was searched." in markdown_report(dataclasses.replace(study.findings, winners=[]))
