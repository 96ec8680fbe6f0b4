"""The report says what the numbers say."""

import dataclasses
import re
from collections.abc import Callable

import numpy as np
import pandas as pd
from reports import report_on, section

from budwood.corpus.packing import OMITTED
from budwood.records.cost import Cost
from budwood.records.evaluation import Sample
from budwood.records.gate import Gate
from budwood.records.names import ARMS
from budwood.records.search import Taken
from budwood.records.training import ProbeScore, SweptRates
from budwood.reporting.formats import MISSING
from budwood.reporting.limits import limited
from budwood.reporting.sections import _REASONS, corpus, opens_in, search_spaces
from budwood.reporting.selection import select_space

OPENING = ["Models to take", "What they write", "What was searched", "Why to believe it", "What it cost", "Contents"]
DETAILS = [
    *("Results", "Forgetting", "Training", "Savings", "Tasks", "Generation", "Speed and memory", "Sanity gates"),
    "Opens in",
    *("Search", "Search spaces", "Text", "Teacher", "How this was made"),
]


def test_sections_in_order(study) -> None:
    report = report_on(study.findings)
    assert [part.title for part in report.sections] == [*OPENING, *DETAILS]
    assert re.findall("^## (.*)$", report.markdown, flags=re.MULTILINE) == [*OPENING, *DETAILS]
    assert "- [Speed and memory](#speed-and-memory)" in section(study.findings, "Contents")


def test_the_opening_quotes_the_tables(make_study: Callable) -> None:
    """Losses shifted by exactly 3 and 3.5 nats, with a flip of 0.1: the words must follow."""
    study = make_study(1)
    base = study.arms[0]["losses"]
    for arm, shift in zip(study.arms[1:], (3.0, 3.5), strict=True):
        arm["losses"] = {s: [x - shift + 0.1 * (-1) ** i for i, x in enumerate(xs)] for s, xs in base.items()}
    models, outcome = (section(study.findings, title) for title in ("Models to take", "Why to believe it"))
    assert models.startswith("### quarter\n\nLowest loss: `distilled` of coarse_uniform, 34.27M parameters, ")
    assert re.search(r", 0\.50+ ± [\d.]+ below `subnet_init` \(beyond the noise\)\.", models)
    # The sample deviation of ±0.1 over 64 sequences is 0.1008, its error 0.0126.
    assert re.search(r"\| subnet_init .* -3\.000 ± 0\.013 \| lower, beyond the noise \|", models)
    assert re.search(r"\| distilled .* -3\.500 ± 0\.013 \| lower, beyond the noise \|", models)
    assert re.search(r"\| teacher \| SmolLM2-135M-Instruct \| 134.5M \| .* \| n/a \| \|", models)
    assert "`subnet_init` is lower in 1 of 1; `distilled` is lower in 1 of 1." in outcome
    assert "the same 64 validation sequences" in outcome
    assert "one seed, so the errors do not include the spread between seeds" in outcome
    assert "60 sub-networks of SmolLM2-135M-Instruct in 1 variant." in section(study.findings, "What was searched")
    # Of 65.6 TFLOP 2.1 + 24 + 3 and 27 + 5.9; then 1.2 + 2.4.
    spent = section(study.findings, "What it cost")
    assert spent.startswith("Total: 65.6 TFLOP, ")
    assert (
        "44% for calibration, elimination, search and compensation, 50% for training with its teacher, 5% for" in spent
    )
    assert "| all | 65.6 TFLOP | 100.0% |" in spent
    untimed = [cost.model_copy(update={"seconds": 0.0}) for cost in study.findings.ledger]
    spent = section(dataclasses.replace(study.findings, ledger=untimed), "What it cost")
    assert " 0 s " not in spent
    assert "A stage without a time was not timed by itself." in spent


def test_samples_show_the_text_itself(study) -> None:
    text = section(study.findings, "What they write")
    assert "> 1\\. The river" in text
    assert "| SmolLM2-135M-Instruct | rises \\*here\\*. |" in text
    assert "| quarter · coarse_uniform · distilled | a b |" in text
    assert section(dataclasses.replace(study, samples=[]).findings, "What they write") == "No text was generated."


def test_exports_are_certified(study) -> None:
    text = section(study.findings, "Why to believe it")
    assert "The export of quarter · coarse_layerwise has 33,630,000 parameters, the counted number." in text
    assert "as `LayerwiseLlamaForCausalLM`, its logits are within 2e-06 of" in text


def test_every_export_says_which_engines_open_it_and_how_that_was_checked(study) -> None:
    text = " ".join(section(study.findings, "Opens in").split())
    assert "| quarter · coarse_layerwise | transformers | yes | loaded again |" in text
    assert text.count("| llama.cpp | no | heads differ by layer |") == len(study.findings.certificates)
    assert opens_in(study.certificates[["bin", "space"]]) == "No export was tried in an engine."


def test_tasks_have_errors_and_verdicts(make_study: Callable) -> None:
    """5 of 20 right, 15, and another 5: the words must follow."""
    study = make_study(1)
    random_init, subnet_init, distilled = (record["tasks"][1] for record in study.downstream[1:])
    base = [1.0] * 5 + [0.0] * 15
    for task, answers in ((random_init, base), (subnet_init, [1.0] * 15 + [0.0] * 5), (distilled, base[::-1])):
        task |= {"answers": answers, "value": sum(answers) / 20, "standard_error": 0.0993}
    text = section(study.findings, "Tasks")
    assert "- **continuation**: acc_norm, 20 questions, 0 shots, version 1.0; guessing scores 25.0%" in text
    scores, differences = ({arm: cells(part, arm) for arm in ARMS} for part in text.split("### Minus random_init"))
    assert scores["random_init"][1] == "25.0 ± 9.9"
    # Ten of twenty differ by one: mean 0.5, sample deviation sqrt(5 / 19), error 0.1147.
    assert differences["subnet_init"][1] == "+50 ± 11 *"
    # Five gained, five lost: mean 0, sample deviation sqrt(10 / 19), error 0.162.
    assert differences["distilled"][1] == "+0 ± 16"
    assert not differences["random_init"]


def test_cut_questions_are_counted(make_study: Callable) -> None:
    study = make_study(1)
    study.downstream[2]["tasks"][0]["num_cut"] = 3
    text = section(study.findings, "Tasks")
    assert "version 1.0; up to 3 requests were longer than a model's context and lost their beginning\n" in text
    assert text.count("lost their") == 1


def cells(text: str, model: str) -> list[str]:
    """Return the cells of a model's row after its name."""
    for line in text.splitlines():
        row = [cell.strip() for cell in line.strip("|").split("|")]
        if model in row:
            return row[row.index(model) + 1 :]
    return []


def test_the_mean_over_tasks_has_the_error_of_a_mean(make_study: Callable) -> None:
    """Means of 25 and 75% with errors of 3 and 4: 50, and sqrt(9 + 16) / 2."""
    study = make_study(1)
    for record in study.downstream:
        for task, (value, error) in zip(record["tasks"], ((0.25, 0.03), (0.75, 0.04)), strict=True):
            task |= {"value": value, "standard_error": error}
    text = section(study.findings, "Tasks")
    assert cells(text, "distilled") == ["25.0 ± 3.0", "75.0 ± 4.0", "50.0 ± 2.5"]


def test_the_mean_is_of_benchmarks_where_there_are_any(make_study: Callable) -> None:
    """Questions from the study's own text stay out of a mean that is compared with published ones."""
    study = make_study(1)
    for record in study.downstream:
        first, second = record["tasks"]
        record["tasks"] = [first | {"task": name, "value": v} for name, v in (("copa", 0.2), ("piqa", 0.6))]
        record["tasks"].append(second | {"task": "heldout_last_word", "value": 0.9})
    text = section(study.findings, "Tasks")
    assert "mean of 2" in text
    assert cells(text, "distilled")[3].startswith("40.0 ±")


def test_answers_that_are_all_alike_have_no_error(make_study: Callable) -> None:
    study = make_study(1)
    for record in study.downstream:
        record["tasks"] = [record["tasks"][0] | {"answers": [0.0] * 20, "value": 0.0, "standard_error": 0.0}]
    text = section(study.findings, "Tasks")
    assert text.count(" 0 (all alike) ") == 4
    assert text.count(" +0 (all alike) ") == 2
    assert "*" not in text.split("paired standard errors.")[1]


def test_speeds_have_their_spread_and_settings(make_study: Callable) -> None:
    text = section(make_study(1).findings, "Speed and memory")
    assert "Measured on `cpu (2 threads)` in float32, batch size 1: prompts of 128 tokens" in text
    teacher, subnet = text.strip().splitlines()[-2:]
    assert teacher.count(" n/a ") == 2
    assert "4.00x (4.00 to 4.00)" in subnet
    assert "312 ms" in subnet
    assert "45.0 KiB" in subnet


def test_what_was_not_measured_is_said(make_study: Callable) -> None:
    study = dataclasses.replace(make_study(1), downstream=[], efficiency=[])
    assert section(study.findings, "Tasks") == "No task was evaluated."
    assert section(study.findings, "Speed and memory") == "Speed was not measured."


def test_no_ratio_where_none_is_defined(make_study: Callable) -> None:
    study = make_study(1)
    arms, held_out = study.curves["arm"], study.curves["heldout_loss"]
    study.curves.loc[arms == "subnet_init", "heldout_loss"] = held_out.where(held_out.isna(), 20.0)
    study.curves.loc[arms == "distilled", "heldout_loss"] = held_out.where(held_out.isna(), 1.0)
    table = section(study.findings, "Savings").splitlines()
    rows = {arm: next(row for row in table if f"| {arm} " in row) for arm in ("subnet_init", "distilled")}
    assert "not reached" in rows["subnet_init"]
    assert not re.search(r"\dx ", rows["subnet_init"])
    assert "at step 0" in rows["distilled"]
    assert len(re.findall(r"\dx ", rows["distilled"])) == 3


def test_a_report_without_arms_or_with_one(make_study: Callable) -> None:
    study = make_study(1)
    del study.arms[1:]
    alone = dataclasses.replace(study, curves=study.curves.query("arm == 'random_init'"))
    assert "there is nothing to compare" in section(alone.findings, "Why to believe it")
    models = section(alone.findings, "Models to take")
    assert "Lowest loss: `random_init` of coarse_uniform" in models
    assert "did not help" not in models, "nothing was compared"
    del study.arms[0]
    none = dataclasses.replace(study, curves=study.curves.iloc[:0], ledger=[])
    assert section(none.findings, "Models to take") == "No arm was trained."
    assert section(none.findings, "What it cost") == "No costs were recorded."


def test_a_report_without_its_baseline_says_that_nothing_can_be_compared(make_study: Callable) -> None:
    study = make_study(1)
    del study.arms[0]
    lone = dataclasses.replace(study, curves=study.curves.query("arm != 'random_init'"))
    outcome = section(lone.findings, "Why to believe it")
    assert "`random_init` was not trained, so there is no evidence on whether the sub-networks helped." in outcome
    assert "undecided" not in outcome
    assert "there are no savings to report" in section(lone.findings, "Savings")


def test_a_reference_appears_once_in_its_bin(make_study: Callable) -> None:
    study = make_study(2)
    references = [study.arms[place] | {"arm": "reference_init", "num_parameters": 41_000_000} for place in (0, 3)]
    study.arms.extend(references)
    assert section(study.findings, "Models to take").count("| reference_init | 41.00M |") == 1


def test_a_study_with_probes_has_a_section_on_its_selection(study) -> None:
    probe = ProbeScore.model_construct(num_parameters=33_600_000, tokens=2048, student_flops=4e11, losses=[3.0, 4.0])
    findings = dataclasses.replace(study.findings, selections=select_space("quarter", {"coarse_uniform": probe}))
    titles = [part.title for part in report_on(findings).sections]
    assert titles == [*OPENING, *DETAILS[:4], "Selection", *DETAILS[4:]]
    assert "`coarse_uniform` is its only space." in section(findings, "Selection")


def test_savings_against_every_baseline_have_a_table_of_their_own(study) -> None:
    again = study.findings.savings.assign(baseline="reference_init")
    both = dataclasses.replace(study.findings, savings=pd.concat([study.findings.savings, again]))
    text = section(both, "Savings")
    assert re.search(r"\| outcome +\| +final loss of random_init \|", text)
    target = study.findings.savings["target_loss"].iloc[0]
    assert re.search(rf"\| (at step 0|not reached|reached) +\| +{target:.3g} \|", text), "the loss is below its name"
    assert "final loss of reference_init" in text


def test_what_winners_take_of_what_bins_limit_is_shown(study) -> None:
    assert limited(study.winners) == ""
    taken = (
        Taken(limit="memory", amount=96 * 2.0**20, most=128 * 2.0**20),
        Taken(limit="memory", amount=1024, most=2048),
    )
    shown = limited([study.winners[0].model_copy(update={"taken": taken})])
    cells = [[cell.strip() for cell in row.strip("|").split("|")][1:] for row in shown.splitlines()[-2:]]
    assert cells == [["memory", "128.0 MiB", "96.00 MiB", "75%"], ["memory", "2.000 KiB", "1.000 KiB", "50%"]]
    spaces = study.search_spaces.assign(limits="memory of at most 128.0 MiB")
    assert "memory of at most 128.0 MiB" in search_spaces(spaces)
    # A CSV file gives no limits back as NaN.
    spaces.loc[0, "limits"] = np.nan
    assert "nan" not in search_spaces(spaces)
    assert "limits" not in search_spaces(study.search_spaces)


def test_winners_have_their_confidence(make_study: Callable) -> None:
    """The first variant's lead is sure, the others had one finalist."""
    findings = make_study(2).findings
    first, second = [line for line in section(findings, "What was searched").splitlines() if "12 layers x 448" in line]
    for value in ("33.63M", " 60 ", "5.500 [5.250, 5.750]", "0.125 [0.062, 0.188]"):
        assert value in first
    assert "n/a" in second
    assert "| perplexity | 6.250 | 2.50 TFLOP | 650 PFLOP |" in section(findings, "Search")


def test_without_a_second_finalist_there_is_no_word_of_leads(make_study: Callable) -> None:
    """As in the quickstart."""
    findings = make_study(1).findings
    alone = [winner.model_copy(update={"lead": None, "lead_interval": None}) for winner in findings.winners]
    assert "lead" in section(findings, "What was searched")
    assert "lead" not in section(dataclasses.replace(findings, winners=alone), "What was searched")


def test_a_report_without_any_search_says_so(study) -> None:
    findings = dataclasses.replace(study.findings, winners=[])
    assert {section(findings, title) for title in ("What was searched", "Search")} == {"Nothing was searched."}


def test_the_sanity_gates_are_named_with_what_they_found(study) -> None:
    def gate(name: str, value: float) -> Gate:
        return Gate(name=name, value=value, limit=0.5, unit="nats", cost=Cost(stage="gate", flops=1.0, tokens=1))

    arms = list(study.findings.arms)
    arms[1] = arms[1].model_copy(update={"gates": (gate("loss at step 0", 0.25),)})
    passed = dataclasses.replace(study.findings, order_gates=[gate("order of heads", -1.5)], arms=arms)
    text = section(passed, "Sanity gates")
    assert "| teacher | order of heads | -1.5 nats | 0.5 | passed |" in text
    assert "| quarter · coarse_uniform, subnet_init, seed 42 | loss at step 0 | 0.25 nats | 0.5 | passed |" in text
    assert "- 2 sanity gates passed" in section(passed, "Why to believe it")
    failed = dataclasses.replace(passed, order_gates=[gate("order of heads", np.nan)])
    assert "| teacher | order of heads | nan nats | 0.5 | FAILED |" in section(failed, "Sanity gates")
    assert "- 1 of 2 sanity gates failed: order of heads: nan nats" in section(failed, "Why to believe it")
    assert section(study.findings, "Sanity gates").startswith("Nothing was checked")


def test_learning_rates_that_short_runs_chose_are_shown_once_for_all_seeds(study) -> None:
    assert "Learning rates" not in section(study.findings, "Training")
    cost = Cost(stage="sweep", flops=1.0, tokens=1)
    swept = SweptRates(rates=(1e-4, 1e-3, 1e-2), losses=(4.0, 3.5, None), untrained=5.0, cost=cost)
    arms = [arm.model_copy(update={"sweep": swept if arm.arm == "distilled" else None}) for arm in study.findings.arms]
    text = section(dataclasses.replace(study.findings, arms=[*arms, *arms]), "Training")
    assert text.count("0.0001: 4.00, **0.001: 3.50**, 0.01: diverges") == sum(arm.sweep is not None for arm in arms) > 0
    assert "| 0.001 is at the edge of what is stable: at 0.01 nothing is learned | 5.00 |" in text


def test_generation_by_hand(study) -> None:
    """Agreement 0.2 and 0.6: a mean of 0.4, and an error of 0.283 / sqrt(2)."""
    where = {"bin": "quarter", "space": "coarse_uniform", "model": "distilled", "text": ""}
    found = {"ids": (1,) * 8, "repetition": 0.8, "distinct": 0.5}
    own = Sample(model="SmolLM2-135M-Instruct", prompt="a", text="", ids=(1, 2), repetition=0.5, distinct=1.0)
    arm = [Sample(**where, **found, prompt=prompt, agreement=share) for prompt, share in (("a", 0.2), ("b", 0.6))]
    samples = [own, *arm]
    text = section(dataclasses.replace(study, samples=samples).findings, "Generation")
    assert "| quarter · coarse_uniform | distilled | 40 ± 20 | 80 (all alike) | 50 (all alike) | 8 |" in text
    assert "| teacher | SmolLM2-135M-Instruct | n/a | 50.000 ± n/a | 100.000 ± n/a | 2 |" in text


def test_forgetting_is_paired_with_the_cut(study) -> None:
    """Foreign text rises by 1 and 1.2 nats over the cut: 1.1 with an error of 0.1."""
    arms = list(study.findings.arms)
    foreign = {"french": [8.0, 7.2]}
    arms[1] = arms[1].model_copy(update={"foreign": foreign, "foreign_before": {"french": [7.0, 6.0]}})
    arms[0] = arms[0].model_copy(update={"foreign": foreign})
    teacher = study.evaluation
    row = teacher.perplexity[0].model_copy(
        update={"split": "foreign", "source": "french", "loss": 3.0, "standard_error": 0.5}
    )
    evaluation = teacher.model_copy(update={"perplexity": (*teacher.perplexity, row)})
    findings = dataclasses.replace(study.findings, arms=arms, teacher_evaluation=evaluation)
    text = section(findings, "Forgetting")
    assert "| french | quarter · coarse_uniform, random_init, seed 42 | 3.00 ± 0.50 | n/a | 7.60 ± 0.40 | n/a |" in text
    assert (
        "| quarter · coarse_uniform, subnet_init, seed 42 | 3.00 ± 0.50 | 6.50 ± 0.50 | 7.60 ± 0.40 | +1.10 ± 0.10 * |"
        in text
    )
    assert section(study.findings, "Forgetting").startswith("Nothing is known")


def test_the_text_section_says_what_was_left_out(study, tmp_path):
    omitted = {"split": OMITTED, "source": list(_REASONS), "documents": [2, 3, 1_051, 0]}
    file = tmp_path / "counts.csv"
    pd.concat([study.corpus_counts, pd.DataFrame(omitted)]).to_csv(file, index=False)
    lines = corpus(pd.read_csv(file)).splitlines()
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines[-5:]]
    assert cells == [
        ["validation", "addresses", "120", "65,536"],
        ["left out", "rows that cannot be used", "2", MISSING],
        ["left out", "rows without text", "3", MISSING],
        ["left out", "texts that occurred before", "1,051", MISSING],
        ["left out", "texts like one of another split", "0", MISSING],
    ]
