"""The report: markdown from the findings, and one HTML page that opens offline."""

import html
import re
from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd
import plotly.graph_objects as go
from markdown_it import MarkdownIt
from plotly.offline import get_plotlyjs

from budwood.reporting import formats
from budwood.reporting.ledger import CONFIDENCE, LEDGERS, NUM_RESAMPLES, total_by_stage
from budwood.reporting.records import BASELINE, Findings, Teacher, TeacherPerplexity, Winner, variant_name
from budwood.reporting.summary import start_here
from budwood.reporting.tables import NOISE_STANDARD_ERRORS, verdict

# Where each figure belongs and what to see in it.
FIGURES = {
    "perplexity_by_arm": (
        "Results",
        "Lower is better; bars are one unpaired standard error, the dashed line the teacher.",
    ),
    "tasks_by_arm": (
        "Questions",
        "Higher is better; bars are one unpaired standard error, dashed the teacher, dotted what guessing gives.",
    ),
    "training_curves_tokens": ("Savings", "A curve below the dotted line has passed the final loss of random_init."),
    "training_curves_flops": ("Savings", "The same losses over the training's cost; the search is not in it."),
    "probe_losses": ("Selection", "The thick line is the space that each bin goes on with."),
    "parameter_spread": ("Search spaces", "A bin that holds little of a uniform sample is hard to hit by chance."),
    "search_trajectory": (
        "Search",
        "Open points were dropped before they had read all text. Where the line is flat, nothing better was found.",
    ),
    "flops_by_stage": ("Costs", "What each variant spent; 'shared' costs serve several variants."),
}
_ELSEWHERE = "Further figures"

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
th, td { padding: .4rem .75rem; border-bottom: 1px solid var(--line); }
th { white-space: normal; vertical-align: bottom; }
tbody tr:nth-child(even) { background: var(--band); }
figure { margin: 2rem 0; }
figcaption { color: var(--soft); font-size: .9rem; }
"""


def markdown_report(findings: Findings) -> str:
    """Return the report as markdown: what was found in plain words, then the tables behind it.

    Every number, and every word that judges one, is computed from the findings.
    """
    sections = {
        "Start here": start_here(findings),
        "Results": _results(findings.results),
        "Questions": _tasks(findings.tasks),
        "Speed and memory": _speeds(findings.speeds),
        "Savings": _savings(findings.savings),
        **findings.further,
        "Search": _winners(findings.winners),
        "Search spaces": _search_spaces(findings.search_spaces),
        "Text": _corpus(findings.corpus_counts),
        "Teacher": _teacher(findings.teacher),
        "Costs": _costs(total_by_stage(findings.ledger)),
        "How this was made": _made(findings.results, findings.provenance),
    }
    return "\n\n".join(["# Budwood report", *(f"## {name}\n\n{body}" for name, body in sections.items())]) + "\n"


def html_report(markdown: str, figures: Mapping[str, go.Figure]) -> str:
    """Return one HTML page that holds everything it needs: text, styles, figures and plotly.js, once.

    A figure named in `FIGURES` stands at the end of the section of that heading; others stand at the end of the page.

    Args:
        markdown: the text; its HTML is shown, never interpreted.
        figures: plotly figures by name.
    """
    body = MarkdownIt("commonmark", {"html": False}).enable("table").render(markdown)
    body = body.replace("<table>", '<div class="scroll"><table>').replace("</table>", "</table></div>")
    sections = re.split("(?=<h2>)", body)
    headings = [re.match("<h2>(.*?)</h2>", section) for section in sections]
    wanted = {name: html.escape(FIGURES.get(name, (_ELSEWHERE, ""))[0]) for name in figures}
    pages: list[str] = []
    for section, heading in zip(sections, headings, strict=True):
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
    """Return a figure with its line on what to see."""
    config = {"displayModeBar": False, "responsive": True}
    identifier = re.sub(r"\W", "-", f"figure-{name}")
    plot = figure.to_html(config, full_html=False, include_plotlyjs=False, div_id=identifier)
    caption = FIGURES.get(name, ("", ""))[1]
    return f"<figure>{plot}<figcaption>{html.escape(caption)}</figcaption></figure>"


def markdown_table(columns: Mapping[str, list[str]], num_labels: int) -> str:
    """Return a markdown table of ready strings; the first `num_labels` columns are text, the others numbers."""
    safe = {_cell(name): [_cell(value) for value in values] for name, values in columns.items()}
    align = ["left"] * num_labels + ["right"] * (len(safe) - num_labels)
    frame = pd.DataFrame(safe, dtype=object)
    return frame.to_markdown(index=False, disable_numparse=True, colalign=align if len(frame) else None)


def _cell(text: str) -> str:
    return " ".join(text.replace("|", "\\|").split())


def _names(frame: pd.DataFrame) -> list[str]:
    return [variant_name(bin_name, space) for bin_name, space in zip(frame["bin"], frame["space"], strict=True)]


def _errors(frame: pd.DataFrame, column: str, error: str, *, signed: bool = False) -> list[str]:
    pairs = zip(frame[column], frame[error], strict=True)
    return [formats.plus_minus(mean, standard_error, signed=signed) for mean, standard_error in pairs]


def _results(results: pd.DataFrame) -> str:
    """Return the table of the teacher and the arms, and the same models by source of text."""
    differences = zip(results["difference"], results["difference_standard_error"], strict=True)
    words = [formats.MISSING if np.isnan(mean) else verdict(mean, error) for mean, error in differences]
    rates = [formats.MISSING if np.isnan(rate) else f"{rate:.2g}" for rate in results["learning_rate"]]
    columns = {
        **_models(results),
        "parameters": results["num_parameters"].map(formats.count).tolist(),
        **_losses(results, ""),
        "verdict": words,
        "training tokens": results["tokens"].map(formats.count).tolist(),
        "student's training": results["student_flops"].map(formats.flops).tolist(),
        "teacher's forward": results["teacher_flops"].map(formats.flops).tolist(),
        "learning rate": rates,
        "time": results["seconds"].map(formats.duration).tolist(),
    }
    note = (
        "Validation loss and perplexity per token, and bits per byte of the text, ± one standard error over the same "
        "sequences for all models. Bits per byte compare models whatever their tokenizers."
    )
    sources = [name.removeprefix("perplexity_") for name in map(str, results) if name.startswith("perplexity_")]
    by_source = [
        f"### On {name}\n\n{markdown_table(_models(results) | _losses(results, f'_{name}'), 2)}" for name in sources
    ]
    return "\n\n".join([note, markdown_table(columns, 2), *by_source])


def _models(results: pd.DataFrame) -> dict[str, list[str]]:
    """Return the columns that name a row."""
    pairs = zip(results["bin"] == "", _names(results), strict=True)
    return {"variant": ["teacher" if own else name for own, name in pairs], "model": results["model"].tolist()}


def _losses(results: pd.DataFrame, suffix: str) -> dict[str, list[str]]:
    """Return what models score on all text, or on that of a source, with errors."""
    errors = {
        "loss (nats)": ("loss{}", "standard_error", False),
        "bits per byte": ("bits_per_byte{}", "bits_per_byte_standard_error", False),
        f"loss minus {BASELINE} (paired)": ("difference{}", "difference_standard_error", True),
    }
    return {"perplexity": results[f"perplexity{suffix}"].map(formats.significant).tolist()} | {
        title: _errors(results, column.format(suffix), f"{error}{suffix}", signed=signed)
        for title, (column, error, signed) in errors.items()
    }


def _winners(winners: Sequence[Winner]) -> str:
    """Return a table of what every search found."""
    if not winners:
        return "Nothing was searched."
    note = (
        f"The best finalist of every search on text that no stage of it has read, cut and corrected as it is exported "
        f"({CONFIDENCE:.0%} intervals over sequences). Where the interval of its lead over the next finalist holds 0, "
        "the text does not tell the two apart. The cost is what ran; the paper's schedule would have let 5,050 "
        "candidates read 512,000 tokens each."
    )
    trained = max(winner["finalist_tokens"] for winner in winners)
    if trained:
        note += f" Finalists were trained on {formats.count(trained)} tokens before the choice."
    columns = {
        "variant": [variant_name(winner["bin"], winner["space"]) for winner in winners],
        "found": [winner["description"] for winner in winners],
        "parameters": [formats.count(winner["num_parameters"]) for winner in winners],
        "candidates": [formats.count(winner["num_evaluations"]) for winner in winners],
        f"{winners[0]['fitness']} on the search's text": [f"{winner['selection_loss']:.3f}" for winner in winners],
        "loss (nats)": [f"{w['choice_loss']:.3f} {_interval(w['choice_interval'])}" for w in winners],
        "lead (nats)": [
            formats.MISSING if w["lead"] is None else f"{w['lead']:.3f} {_interval(w['lead_interval'])}"
            for w in winners
        ],
        "cost": [formats.flops(winner["search_flops"]) for winner in winners],
        "the paper's schedule": [formats.flops(winner["paper_flops"]) for winner in winners],
    }
    return f"{note}\n\n{markdown_table(columns, 2)}"


def _interval(bounds: tuple[float, float] | None) -> str:
    if bounds is None or any(bound is None or np.isnan(bound) for bound in bounds):
        return f"[{formats.MISSING}]"
    return f"[{bounds[0]:.3f}, {bounds[1]:.3f}]"


def _tasks(tasks: pd.DataFrame) -> str:
    """Return a table of the teacher and the arms for every task."""
    if tasks.empty:
        return "No model was asked anything."
    note = (
        f"Asked through {tasks['harness'].iloc[0]}, in %, ± the standard error that it gives over the questions; where "
        "all of them went alike, so few cannot tell the error. The paired difference is over the same questions, and "
        f"beyond the noise where it exceeds {NOISE_STANDARD_ERRORS:g} of its errors."
    )
    parts = [note]
    for name, rows in tasks.groupby("task", sort=False):
        first = rows.iloc[0]
        guess = "" if np.isnan(first["chance"]) else f"; guessing gives {100 * first['chance']:.1f} %"
        asked = f"{first['num_questions']:,} questions, {first['num_fewshot']} shots, version {first['version']}{guess}"
        pairs = zip(rows["difference"], rows["difference_standard_error"], strict=True)
        columns = {
            **_models(rows),
            f"{first['metric']} (%)": _percents(rows["value"], rows["standard_error"]),
            f"minus {BASELINE} (paired)": _percents(rows["difference"], rows["difference_standard_error"], signed=True),
            "verdict": [formats.MISSING if np.isnan(mean) else verdict(mean, error) for mean, error in pairs],
        }
        parts.append(f"### {name}\n\n{asked}.\n\n{markdown_table(columns, 2)}")
    return "\n\n".join(parts)


def _percents(values: pd.Series, errors: pd.Series, *, signed: bool = False) -> list[str]:
    return [
        f"{100 * value:{'+' if signed and value else ''}.0f} (all alike)"
        if error == 0
        else formats.plus_minus(100 * value, 100 * error, signed=signed)
        for value, error in zip(values, errors, strict=True)
    ]


def _speeds(speeds: pd.DataFrame) -> str:
    """Return the table of latency, throughput and memory."""
    if speeds.empty:
        return "Speed was not measured."
    first = speeds.iloc[0]
    note = (
        f"Measured on `{first['device']}` in {first['precision']}, {first['batch_size']} at a time: prompts of "
        f"{first['prompt_tokens']} tokens are read at once (prefill), then {first['new_tokens']} tokens are generated "
        "one by one with the cache (decode). Times are medians over repeats in which teacher and sub-network took "
        "turns; the speed-up compares times of the same repeat: median (quartiles). Memory is the most that torch "
        "held, weights included. The arms of a variant have the sub-network's speed."
    )
    columns = {
        "variant": _names(speeds),
        "model": speeds["model"].tolist(),
        "parameters": speeds["num_parameters"].map(formats.count).tolist(),
        "prefill": speeds["prefill_seconds"].map(formats.duration).tolist(),
        "prefill, tokens/s": speeds["prefill_tokens_per_second"].map(formats.significant).tolist(),
        "prefill, speed-up": _speedups(speeds, "prefill"),
        "decode per token": speeds["decode_seconds"].map(formats.duration).tolist(),
        "decode, tokens/s": speeds["decode_tokens_per_second"].map(formats.significant).tolist(),
        "decode, speed-up": _speedups(speeds, "decode"),
        "peak memory": speeds["peak_bytes"].map(formats.size).tolist(),
        "KV cache per token": speeds["kv_bytes_per_token"].map(formats.size).tolist(),
    }
    return f"{note}\n\n{markdown_table(columns, 2)}"


def _speedups(speeds: pd.DataFrame, phase: str) -> list[str]:
    names = [f"{phase}_speedup{suffix}" for suffix in ("", "_low", "_high")]
    triples = speeds[names].itertuples(index=False, name=None)
    return [
        formats.MISSING if np.isnan(middle) else f"{middle:.2f}x ({low:.2f} to {high:.2f})"
        for middle, low, high in triples
    ]


def _savings(savings: pd.DataFrame) -> str:
    """Return a table of what was saved against each baseline, each ratio under the name of its ledger."""
    if savings.empty:
        return f"No arm other than `{BASELINE}` was trained."
    note = (
        "The target is the held-out loss at which the baseline ended; where an arm first meets it is read off the "
        "straight line between two measurements. A ratio is the training cost of the baseline over the arm's cost "
        "under the named ledger: above 1 the arm was cheaper, below 1 dearer. `training` is the student alone; "
        "`with search` adds calibration, search and compensation; `with selection` adds those of the other spaces of "
        "the bin, the training of the same arm there, and all probes; `with teacher` adds the teacher's forward "
        f"passes. In brackets {CONFIDENCE:.0%} of {NUM_RESAMPLES:,} resamples of the held-out sequences, and of the "
        "seeds where an arm ran with several; 0 is a curve that never matches. A target met at step 0 costs no "
        "training, so its training ratio is undefined."
    )
    tables = [_savings_table(str(baseline), rows) for baseline, rows in savings.groupby("baseline", sort=False)]
    return "\n\n".join([note, *tables])


def _savings_table(baseline: str, savings: pd.DataFrame) -> str:
    columns = {
        "variant": _names(savings),
        "arm": savings["arm"].tolist(),
        f"final loss of {baseline}": savings["status"].tolist(),
        "nats": savings["target_loss"].map(formats.significant).tolist(),
        "tokens to match": [formats.count(tokens, 3) for tokens in savings["tokens_to_match"]],
        f"tokens of {baseline}": savings["baseline_tokens"].map(formats.count).tolist(),
        **{f"ratio, {name.replace('_', ' ')}": _ratios(savings, f"ratio_{name}") for name in LEDGERS},
        "FLOPs to match": savings["flops_to_match"].map(formats.flops).tolist(),
        f"FLOPs of {baseline}": savings["baseline_flops"].map(formats.flops).tolist(),
        "calibration, search, compensation": savings["search_flops"].map(formats.flops).tolist(),
        "other spaces of the bin, probes": savings["selection_flops"].map(formats.flops).tolist(),
        "teacher": savings["teacher_flops"].map(formats.flops).tolist(),
    }
    return markdown_table(columns, 3)


def _ratios(savings: pd.DataFrame, name: str) -> list[str]:
    """Return ratios with their intervals, where there are any."""
    columns = savings[[name, f"{name}_low", f"{name}_high"]].to_numpy(dtype=float)
    return [formats.MISSING if np.isnan(row[0]) else f"{_times(row[0])}{_brackets(row[1:])}" for row in columns]


def _brackets(ends: np.ndarray) -> str:
    return "" if np.isnan(ends).any() else " ({} to {})".format(*map(_times, ends))


def _times(ratio: float) -> str:
    return f"{formats.significant(ratio)}x"


def _search_spaces(spaces: pd.DataFrame) -> str:
    columns = {
        "bin": spaces["bin"].tolist(),
        "space": spaces["space"].tolist(),
        "reachable": ["yes" if reachable else "no" for reachable in spaces["reachable"]],
        **{name: spaces[name].map(formats.count).tolist() for name in ("low", "high", "smallest", "largest")},
        "members": [f"10^{value:,.1f}" for value in spaces["log10_members"]],
        "members, paper's count": [f"10^{value:,.1f}" for value in spaces["log10_members_paper"]],
    }
    return f"Sizes are parameters; `low` and `high` bound the bin.\n\n{markdown_table(columns, 3)}"


def _corpus(counts: pd.DataFrame) -> str:
    columns = {
        "split": counts["split"].tolist(),
        "source": counts["source"].tolist(),
        **{name: [f"{number:,}" for number in counts[name]] for name in ("documents", "tokens")},
    }
    return markdown_table(columns, 2)


def _teacher(teacher: Teacher) -> str:
    scores = pd.DataFrame(teacher["perplexity"], columns=list(TeacherPerplexity.__annotations__))
    columns = {
        "split": scores["split"].tolist(),
        "source": scores["source"].tolist(),
        "perplexity": scores["perplexity"].map(formats.significant).tolist(),
        "loss (nats)": _errors(scores, "loss", "standard_error"),
        "bits per byte": _errors(scores, "bits_per_byte", "bits_per_byte_standard_error"),
        "tokens": scores["tokens"].map(formats.count).tolist(),
    }
    about = {name: teacher[name] for name in ("name", "model_type", "revision", "fingerprint", "license")}
    about["num_parameters"] = f"{teacher['num_parameters']:,}"
    return f"{_nested(about)}\n\n{markdown_table(columns, 2)}"


def _costs(totals: pd.DataFrame) -> str:
    """Return the table of costs by stage with their sum."""
    total = totals[["flops", "tokens", "seconds"]].sum()
    rows = pd.concat([totals, total.to_frame().T.assign(stage="all")], ignore_index=True)
    shares = rows["flops"] / total["flops"] if total["flops"] > 0 else rows["flops"] * np.nan
    columns = {
        "stage": rows["stage"].tolist(),
        "FLOPs": rows["flops"].map(formats.flops).tolist(),
        "share": [formats.MISSING if np.isnan(share) else f"{100 * share:.1f} %" for share in shares],
        "tokens": rows["tokens"].map(formats.count).tolist(),
        "time": rows["seconds"].map(formats.duration).tolist(),
    }
    return f"All variants and arms together.\n\n{markdown_table(columns, 1)}"


def _made(results: pd.DataFrame, provenance: Mapping[str, object]) -> str:
    trained = results[results["bin"] != ""]
    ran = sorted(
        {f"{device}, {precision}" for device, precision in zip(trained["device"], trained["precision"], strict=True)}
    )
    return _nested({"training ran on": "; ".join(ran) or formats.MISSING, **provenance})


def _nested(values: Mapping[str, object], depth: int = 0) -> str:
    """Return a mapping as a markdown list, one level deeper for each mapping inside."""
    lines = []
    for name, value in values.items():
        inside = f"\n{_nested(value, depth + 1)}" if isinstance(value, Mapping) and value else f" `{value}`"
        lines.append(f"{'  ' * depth}- {name}:{inside}")
    return "\n".join(lines)
