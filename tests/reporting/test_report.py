"""The report says what the numbers say."""

import dataclasses
import re
from collections.abc import Callable

import pandas as pd
import plotly.graph_objects as go

from budwood.reporting.page import html_report
from budwood.reporting.records import ARMS
from budwood.reporting.report import markdown_report

HEADINGS = [
    *("Start here", "Results", "Training", "Savings", "Questions", "Speed and memory"),
    *("Search", "Search spaces", "Text", "Teacher", "Costs", "How this was made"),
]


def start(markdown: str) -> str:
    """Return the section that opens the report."""
    return re.sub(" +", " ", markdown.split("## Start here")[1].split("\n## ", maxsplit=1)[0])


def test_sections_in_order(study) -> None:
    assert re.findall("^## (.*)$", markdown_report(study.findings), flags=re.MULTILINE) == HEADINGS


def test_the_start_quotes_the_tables(make_study: Callable) -> None:
    """Losses shifted by exactly 3 and 3.5 nats, with a flip of 0.1: the words must follow."""
    study = make_study(1)
    base = study.arms[0]["losses"]
    for arm, shift in zip(study.arms[1:], (3.0, 3.5), strict=True):
        arm["losses"] = {s: [x - shift + 0.1 * (-1) ** i for i, x in enumerate(xs)] for s, xs in base.items()}
    text = start(markdown_report(study.findings))
    assert "Sub-networks of SmolLM2-135M-Instruct were searched among 60 candidates" in text
    assert "`subnet_init` is lower in 1 of 1" in text
    assert "The lowest loss has `distilled` in quarter · coarse_uniform: " in text
    # The sample deviation of ±0.1 over 64 sequences is 0.1008, its error 0.0126.
    assert re.search(r"\| subnet_init .* -3\.000 ± 0\.013 \| lower \| [\d.]+k \|", text)
    assert re.search(r"\| distilled .* -3\.500 ± 0\.013 \| lower \| [\d.]+k \|", text)
    assert re.search(r"\| random_init .* 9\.22 TFLOP \|", text)
    assert "quarter · coarse_uniform: 12 layers x 448 wide, 34.27M parameters" in text
    assert "2.50 TFLOP" in text
    # Of 65.6 TFLOP 2.1 + 24 + 3 and 27 + 5.9; then 1.2 + 2.4.
    shares = "44% for calibration, elimination, search and compensation, 50% for training"
    assert f"Everything together cost 65.6 TFLOP: {shares}" in text
    assert "over 64 validation sequences" in text


def test_a_difference_within_the_noise_is_called_so(make_study: Callable) -> None:
    study = make_study(1)
    base = study.arms[0]["losses"]
    for arm in study.arms[1:]:
        arm["losses"] = {s: [x - 0.01 + (-1) ** i for i, x in enumerate(xs)] for s, xs in base.items()}
    text = start(markdown_report(study.findings))
    assert "`subnet_init` is undecided in 1 of 1" in text
    assert "(undecided)" in text
    assert not re.search(r"\| +(lower|higher) \|", text)


def test_a_winning_baseline_is_told(make_study: Callable) -> None:
    study = make_study(1)
    base = study.arms[0]["losses"]
    for arm in study.arms[1:]:
        arm["losses"] = {s: [x + 1 + 0.1 * (i % 2) for i, x in enumerate(xs)] for s, xs in base.items()}
    text = start(markdown_report(study.findings))
    assert "The lowest loss has `random_init` in quarter · coarse_uniform" in text
    assert "nats below `subnet_init` there (beyond the noise)" in text
    assert "`subnet_init` is higher in 1 of 1" in text
    assert len(re.findall(r"\| +higher \|", text)) == 2


def test_answers_are_told_with_errors_and_verdicts(make_study: Callable) -> None:
    """5 of 20 right, 15, and another 5: the words must follow."""
    study = make_study(1)
    random_init, subnet_init, distilled = (record["tasks"][1] for record in study.downstream[1:])
    base = [1.0] * 5 + [0.0] * 15
    for task, answers in ((random_init, base), (subnet_init, [1.0] * 15 + [0.0] * 5), (distilled, base[::-1])):
        task |= {"answers": answers, "value": sum(answers) / 20, "standard_error": 0.0993}
    section = markdown_report(study.findings).split("## Questions")[1].split("\n## ")[0]
    assert "- **continuation**: acc_norm, 20 questions, 0 shots, version 1.0; guessing gives 25.0 %" in section
    scores, differences = ({arm: cells(text, arm) for arm in ARMS} for text in section.split("### Minus random_init"))
    assert scores["random_init"][1] == "25.0 ± 9.9"
    # Ten of twenty differ by one: mean 0.5, sample deviation sqrt(5 / 19), error 0.1147.
    assert differences["subnet_init"][1] == "+50 ± 11 *"
    # Five gained, five lost: mean 0, sample deviation sqrt(10 / 19), error 0.162.
    assert differences["distilled"][1] == "+0 ± 16"
    assert not differences["random_init"]


def cells(text: str, model: str) -> list[str]:
    """Return the cells of a model's row after its name."""
    for line in text.splitlines():
        row = [cell.strip() for cell in line.strip("|").split("|")]
        if model in row:
            return row[row.index(model) + 1 :]
    return []


def test_the_mean_over_tasks_has_the_error_of_a_mean(make_study: Callable) -> None:
    """Means of 25 and 75 % with errors of 3 and 4: 50, and sqrt(9 + 16) / 2."""
    study = make_study(1)
    for record in study.downstream:
        for task, (value, error) in zip(record["tasks"], ((0.25, 0.03), (0.75, 0.04)), strict=True):
            task |= {"value": value, "standard_error": error}
    section = markdown_report(study.findings).split("## Questions")[1]
    assert cells(section, "distilled") == ["25.0 ± 3.0", "75.0 ± 4.0", "50.0 ± 2.5"]


def test_answers_that_are_all_alike_have_no_error(make_study: Callable) -> None:
    study = make_study(1)
    for record in study.downstream:
        record["tasks"] = [record["tasks"][0] | {"answers": [0.0] * 20, "value": 0.0, "standard_error": 0.0}]
    section = markdown_report(study.findings).split("## Questions")[1].split("\n## ")[0]
    assert section.count(" 0 (all alike) ") == 4
    assert section.count(" +0 (all alike) ") == 2
    assert "*" not in section.split("paired standard errors.")[1]


def test_speeds_are_told_with_their_spread_and_settings(make_study: Callable) -> None:
    section = markdown_report(make_study(1).findings).split("## Speed and memory")[1].split("## ")[0]
    assert "Measured on `cpu (2 threads)` in float32, 1 at a time: prompts of 128 tokens" in section
    teacher, subnet = section.strip().splitlines()[-2:]
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
    table = markdown.split("## Savings")[1].splitlines()
    rows = {arm: next(row for row in table if f"| {arm} " in row) for arm in ("subnet_init", "distilled")}
    assert "not reached" in rows["subnet_init"]
    assert not re.search(r"\dx ", rows["subnet_init"])
    assert "at step 0" in rows["distilled"]
    assert len(re.findall(r"\dx ", rows["distilled"])) == 3
    assert re.search(r"\| subnet_init .*\| not reached \|", start(markdown))
    assert re.search(r"\| distilled .*\| 0 \|", start(markdown))


def test_a_report_without_arms_or_with_one(make_study: Callable) -> None:
    study = make_study(1)
    del study.arms[1:]
    alone = dataclasses.replace(study, curves=study.curves.query("arm == 'random_init'"))
    text = markdown_report(alone.findings)
    assert "there is nothing to compare" in text
    assert "The lowest loss has `random_init` in quarter · coarse_uniform" in text
    del study.arms[0]
    none = dataclasses.replace(study, curves=study.curves.iloc[:0], ledger=[])
    assert "No arm was trained" in markdown_report(none.findings)


def test_a_report_without_its_baseline_says_that_nothing_can_be_compared(make_study: Callable) -> None:
    study = make_study(1)
    del study.arms[0]
    lone = dataclasses.replace(study, curves=study.curves.query("arm != 'random_init'"))
    text = markdown_report(lone.findings)
    assert "`random_init` was not trained, so nothing tells whether that helped." in start(text)
    assert "there is nothing to save against" in text
    assert "undecided" not in start(text).split("|")[0]


def test_provenance_is_listed(study) -> None:
    made = markdown_report(study.findings).split("## How this was made")[1]
    assert "- training ran on: `cpu, float32`\n- seed: `42`\n- fingerprints:\n  - corpus: `9f2c`" in made


def test_a_section_that_only_some_studies_have_brings_its_figure(study) -> None:
    findings = dataclasses.replace(study.findings, further={"Selection": "What was chosen."})
    markdown = markdown_report(findings)
    assert re.findall("^## (.*)$", markdown, flags=re.MULTILINE) == [*HEADINGS[:4], "Selection", *HEADINGS[4:]]
    page = html_report(markdown, {"probe_losses": go.Figure(go.Scatter(y=[1]))})
    section = page[page.index("<h2>Selection</h2>") : page.index("<h2>Questions</h2>")]
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
