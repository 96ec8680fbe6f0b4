"""The detailed sections of the report: tables -> markdown."""

from collections.abc import Callable, Sequence

import numpy as np
import pandas as pd

from budwood import __version__
from budwood.arch.bytes import spell_bytes
from budwood.corpus.packing import OMITTED
from budwood.corpus.split import FOREIGN
from budwood.evaluation.statistics import mean_and_error
from budwood.records.evaluation import Sample
from budwood.records.gate import LONG_STEPS
from budwood.records.names import BASELINE, Variant
from budwood.records.search import Winner
from budwood.records.serving import ENGINES
from budwood.records.teacher import SourceLoss, TeacherRecord
from budwood.records.training import Score
from budwood.reporting import formats, markup
from budwood.reporting.benchmarks import mean_over_tasks
from budwood.reporting.findings import Findings
from budwood.reporting.ledger import LEDGERS, NUM_RESAMPLES
from budwood.reporting.matching import arm_settings
from budwood.reporting.tables import NOISE_STANDARD_ERRORS, noise_rule, paired_difference, verdict
from budwood.search.choice import CONFIDENCE

_REASONS = {
    "skipped_rows": "rows that cannot be used",
    "empty_rows": "rows without text",
    "equal_documents": "texts that occurred before",
    "near_documents": "texts like one of another split",
}
"""What a report calls the reasons of `budwood.corpus.packing.PackedCorpus.omitted`."""
_BEYOND = "*"
"""Marks a difference beyond the noise in tables without a verdict column."""


def results(table: pd.DataFrame) -> str:
    """Return the losses of all models by source of text."""
    sources = [name.removeprefix("perplexity_") for name in map(str, table) if name.startswith("perplexity_")]
    columns = _models(table)
    for source in sources:
        columns[f"{source}: perplexity"] = table[f"perplexity_{source}"].map(formats.significant).tolist()
        columns[f"{source}: loss (nats)"] = markup.means_and_errors(table, f"loss_{source}", f"standard_error_{source}")
        columns[f"{source}: minus {BASELINE}"] = _marked(
            *(table[f"difference{end}_{source}"] for end in ("", "_standard_error", "_noise"))
        )
    note = f"By source of text. `{_BEYOND}`: beyond the noise, {noise_rule(int(table['num_seeds'].fillna(1).max()))}."
    return f"{note}\n\n{markup.markdown_table(columns, 2)}"


def training(table: pd.DataFrame) -> str:
    """Return how every arm was trained."""
    arms = table[table["bin"] != ""]
    if arms.empty:
        return markup.NO_TRAINING
    columns = {
        **_models(arms),
        "training tokens": arms["tokens"].map(formats.count).tolist(),
        "student's training": arms["student_flops"].map(formats.flops).tolist(),
        "teacher's forward": arms["teacher_flops"].map(formats.flops).tolist(),
        "learning rate": [formats.MISSING if np.isnan(rate) else f"{rate:.2g}" for rate in arms["learning_rate"]],
        "time": arms["seconds"].map(formats.duration).tolist(),
    }
    return markup.markdown_table(columns, 2)


def opens_in(certificates: pd.DataFrame) -> str:
    """Return which engines open every export, and how that was checked or why not."""
    rows = [
        (str(Variant(row["bin"], row["space"])), engine, *str(row[engine]).split(": ", 1))
        for row in certificates.to_dict("records")
        for engine in ENGINES
        if engine in row
    ]
    if not rows:
        return "No export was tried in an engine."
    variants, names, words, reasons = (list(column) for column in zip(*rows, strict=True))
    columns = {
        "variant": markup.once(variants),
        "engine": names,
        "opens": words,
        "how that was checked, or why not": [markup.literal(reason) for reason in reasons],
    }
    note = (
        "Exports before training; `subnet_init` and `distilled` have the same sizes and a table of their own in their "
        "cards. `serving.gguf` writes the form that llama.cpp reads, `serving.engines` tries the engines."
    )
    return f"{note}\n\n{markup.markdown_table(columns, len(columns))}"


def searches(found: Sequence[Winner]) -> str:
    """Return what every search minimised, and its cost beside that of the paper's schedule."""
    if not found:
        return "Nothing was searched."
    note = (
        "The cost is all that it took to find and cut out the winner, as `with search` charges it; what several "
        "variants need is in the cost of each. In the paper's schedule 5,050 candidates read 512,000 tokens each. "
        "Losses of the winners are under [What was searched](#what-was-searched)."
    )
    columns = {
        "variant": [str(Variant(winner.bin, winner.space)) for winner in found],
        "fitness": [winner.fitness for winner in found],
        "winner's fitness": [f"{winner.selection_loss:.3f}" for winner in found],
        "cost": [formats.flops(winner.search_flops) for winner in found],
        "the paper's schedule": [formats.flops(winner.paper_flops) for winner in found],
    }
    return f"{note}\n\n{markup.markdown_table(columns, 2)}"


def tasks(tasks: pd.DataFrame) -> str:
    """Return one table of all models and tasks, and one of the paired differences to the baseline."""
    if tasks.empty:
        return "No task was evaluated."
    note = (
        f"Scores of {tasks['harness'].iloc[0]} in %, ± its standard error over the questions. Where all answers are "
        "alike, the error is unknown. The mean weights all tasks equally. Tasks and speed are measured for the first "
        "seed only."
    )
    facts = []
    for name, rows in tasks.groupby("task", sort=False):
        first = rows.iloc[0]
        most = int(rows["num_cut"].max())
        cut = f"; up to {most:,} requests were longer than a model's context and lost their beginning" if most else ""
        guess = "" if np.isnan(first["chance"]) else f"; guessing scores {100 * first['chance']:.1f}%"
        facts.append(
            f"- **{name}**: {first['metric']}, {first['num_questions']:,} questions, {first['num_fewshot']} shots, "
            f"version {first['version']}{guess}{cut}"
        )
    table = mean_over_tasks(tasks)
    compared = table[table["difference"].notna()]
    scores = _by_task(table, lambda own: _percents(own["value"], own["standard_error"]))
    differences = _by_task(
        compared, lambda own: _marked(100 * own["difference"], 100 * own["difference_standard_error"])
    )
    paired = (
        f"### Minus {BASELINE}\n\nPaired over the same questions, in percentage points; `{_BEYOND}`: beyond the noise, "
        f"{NOISE_STANDARD_ERRORS:g} paired standard errors."
    )
    parts = [note, "\n".join(facts), markup.markdown_table(scores, 2)]
    return "\n\n".join([*parts, paired, markup.markdown_table(differences, 2)] if len(compared) else parts)


def _by_task(table: pd.DataFrame, cells: Callable[[pd.DataFrame], list[str]]) -> dict[str, list[str]]:
    """Return a row for every model of a table of tasks, and a column of cells for every task."""
    key = ["bin", "space", "model"]
    models = table[key].drop_duplicates()
    columns = {
        str(name): cells(models.merge(rows, how="left", on=key)) for name, rows in table.groupby("task", sort=False)
    }
    return _models(models) | columns


def speeds(table: pd.DataFrame) -> str:
    """Return the table of latency, throughput and memory."""
    if table.empty:
        return "Speed was not measured."
    first = table.iloc[0]
    note = (
        f"Measured on `{first['device']}` in {first['precision']}, batch size {first['batch_size']}: prompts of "
        f"{first['prompt_tokens']} tokens are read at once (prefill), then {first['new_tokens']} tokens are generated "
        "one by one with the cache (decode). Times are medians over repeats in which teacher and sub-network took "
        "turns; the speed-up compares times of the same repeat: median (quartiles). Memory is the peak that torch "
        "allocated, weights included. All arms of a variant run at the speed of its sub-network."
    )
    columns = {
        "variant": markup.once(markup.variant_names(table)),
        "model": table["model"].tolist(),
        "parameters": table["num_parameters"].map(formats.count).tolist(),
        "prefill": table["prefill_seconds"].map(formats.duration).tolist(),
        "prefill, tokens/s": table["prefill_tokens_per_second"].map(formats.significant).tolist(),
        "prefill, speed-up": _speedups(table, "prefill"),
        "decode per token": table["decode_seconds"].map(formats.duration).tolist(),
        "decode, tokens/s": table["decode_tokens_per_second"].map(formats.significant).tolist(),
        "decode, speed-up": _speedups(table, "decode"),
        "peak memory": table["peak_bytes"].map(spell_bytes).tolist(),
        "KV cache per token": table["kv_bytes_per_token"].map(spell_bytes).tolist(),
    }
    return f"{note}\n\n{markup.markdown_table(columns, 2)}"


def saved(table: pd.DataFrame) -> str:
    """Return the savings against each baseline under every ledger, and the costs behind them."""
    if table.empty:
        return f"No other arm was trained as `{BASELINE}` was, so there are no savings to report."
    if table["target_loss"].isna().all():
        return f"`{BASELINE}` was not trained, or has no final loss, so there are no savings to report."
    baselines = table["baseline"] if "baseline" in table else pd.Series(BASELINE, index=table.index)
    note = (
        "The target is the final held-out loss of the baseline; the point at which an arm first reaches it is "
        "interpolated between two measurements. A ratio is the training cost of the baseline over the arm's cost under "
        "the named ledger: above 1 the arm was cheaper. `training` is the student alone; `with search` adds "
        "calibration, elimination, search and compensation; `with selection` adds those of the other spaces of the "
        "bin, one training of the same arm in each, and all probes; `with teacher` adds the teacher's forward passes. "
        "No ratio counts sweeps of learning rates, which both sides may need; the ledger does. "
        f"In brackets: {CONFIDENCE:.0%} intervals from {NUM_RESAMPLES:,} resamples of the held-out sequences, "
        "in which means over several seeds spread as Student's t; 0 is a curve that never reaches the target. A "
        "target reached at step 0 costs no training, so its training ratio is undefined."
    )
    parts = [part for name, rows in table.groupby(baselines, sort=False) for part in _savings(str(name), rows)]
    return "\n\n".join([note, *parts])


def _savings(baseline: str, table: pd.DataFrame) -> list[str]:
    rows = {"variant": markup.once(markup.variant_names(table)), "arm": table["arm"].tolist()}
    ratios = {
        **rows,
        "outcome": table["status"].tolist(),
        f"final loss of {baseline}": table["target_loss"].map(formats.significant).tolist(),
        "tokens to match": [formats.count(tokens, 3) for tokens in table["tokens_to_match"]],
        **{f"ratio, {name.replace('_', ' ')}": _ratios(table, f"ratio_{name}") for name in LEDGERS},
    }
    charges = {
        **rows,
        f"tokens of {baseline}": table["baseline_tokens"].map(formats.count).tolist(),
        "FLOPs to match": table["flops_to_match"].map(formats.flops).tolist(),
        f"FLOPs of {baseline}": table["baseline_flops"].map(formats.flops).tolist(),
        "calibration, elimination, search, compensation": table["search_flops"].map(formats.flops).tolist(),
        "other spaces of the bin, probes": table["selection_flops"].map(formats.flops).tolist(),
        "teacher": table["teacher_flops"].map(formats.flops).tolist(),
    }
    behind = "The costs behind these ratios:"
    return [f"### Against {baseline}", markup.markdown_table(ratios, 3), behind, markup.markdown_table(charges, 2)]


def forgetting(findings: Findings) -> str:
    """Return what training makes of text that it has none of."""
    own = {loss.source: loss for loss in findings.teacher_evaluation.perplexity if loss.split == FOREIGN}
    rows = [(arm, source) for source in own for arm in findings.arms if source in arm.foreign]
    if not rows:
        return "Nothing is known of what training forgets: no source has `splits: {foreign: 1}`."
    unknown = (np.nan, np.nan)
    befores = [mean_and_error(arm.foreign_before[source]) if arm.foreign_before else unknown for arm, source in rows]
    changes = [
        paired_difference(arm.foreign[source], arm.foreign_before[source]) if arm.foreign_before else unknown
        for arm, source in rows
    ]
    columns = {
        "source": markup.once([source for _, source in rows]),
        "run": [_run(arm) for arm, _ in rows],
        "teacher": [formats.plus_minus(own[source].loss, own[source].standard_error) for _, source in rows],
        "before": [formats.plus_minus(*before) for before in befores],
        "after": [formats.plus_minus(*mean_and_error(arm.foreign[source])) for arm, source in rows],
        "after minus before": _marked(*(pd.Series(part) for part in zip(*changes, strict=True))),
    }
    note = (
        "Nats per token of text that is only ever measured: of the teacher, of the sub-network as it was cut, and "
        f"after training. `{_BEYOND}`: beyond the noise, {NOISE_STANDARD_ERRORS:g} paired standard errors."
    )
    return f"{note}\n\n{markup.markdown_table(columns, 2)}"


def generation(samples: Sequence[Sample]) -> str:
    """Return how much models repeat themselves, and how far they write what the teacher does."""
    if not samples:
        return "No text was generated."
    note = (
        "Greedy continuations of held-out beginnings, means over prompts in %, ± one standard error. Agreement: the "
        "teacher's tokens that are the model's likeliest too, each after the teacher's before it. Repetition: "
        "sequences of four tokens that the same continuation has before. Distinct: different pairs of tokens."
    )
    key, measured = ["bin", "space", "model"], ["agreement", "repetition", "distinct"]
    table = pd.DataFrame([sample.model_dump(include={*key, *measured, "ids"}) for sample in samples])
    table = table.assign(tokens=table["ids"].map(len)).astype(dict.fromkeys(measured, float))
    groups = table.groupby(key, sort=False)
    means, errors = groups[[*measured, "tokens"]].mean().reset_index(), groups[measured].sem().reset_index()
    columns = {name: _percents(means[name], errors[name]) for name in measured}
    written = {"tokens written": [f"{number:.0f}" for number in means["tokens"]]}
    return f"{note}\n\n{markup.markdown_table({**_models(means), **columns, **written}, 2)}"


def gates(findings: Findings) -> str:
    """Return what was checked before money was spent on it."""
    rows = [("teacher", gate) for gate in findings.order_gates]
    rows += [(_run(arm), gate) for arm in findings.arms for gate in arm.gates]
    if not rows:
        return "Nothing was checked: no space orders the teacher, and no start has a certificate."
    note = (
        "Each number must be below its limit. Half of an axis is kept by itself for the order. A run of fewer than "
        f"{LONG_STEPS:,} steps is not preceded by a check that one batch can be learned by heart."
    )
    columns = {
        "of": markup.once([name for name, _ in rows]),
        "gate": [gate.name for _, gate in rows],
        "found": [f"{gate.value:.3g} {gate.unit}" for _, gate in rows],
        "limit": [f"{gate.limit:g}" for _, gate in rows],
        "verdict": ["passed" if gate.passed else "FAILED" for _, gate in rows],
    }
    return f"{note}\n\n{markup.markdown_table(columns, 2)}"


def search_spaces(spaces: pd.DataFrame) -> str:
    """Return the size of every space and its smallest and largest members."""
    limits = spaces["limits"].fillna("")  # a CSV file gives none back as NaN
    columns = {
        "bin": spaces["bin"].tolist(),
        "space": spaces["space"].tolist(),
        **{name: spaces[name].map(formats.count).tolist() for name in ("low", "high", "smallest", "largest")},
        **({"limits": limits.tolist()} if limits.any() else {}),
        "members": [f"10^{value:,.1f}" for value in spaces["log10_members"]],
        "members, paper's count": [f"10^{value:,.1f}" for value in spaces["log10_members_paper"]],
    }
    return f"Sizes are parameters; `low` and `high` bound the bin.\n\n{markup.markdown_table(columns, 2)}"


def corpus(counts: pd.DataFrame) -> str:
    """Return how much text every split has of every source, and how much was left out."""
    named = zip(counts["split"], counts["source"], strict=True)
    columns = {
        "split": counts["split"].replace(OMITTED, "left out").tolist(),
        "source": [_REASONS[source] if split == OMITTED else source for split, source in named],
        "documents": counts["documents"].map("{:,}".format).tolist(),
        "tokens": [formats.MISSING if pd.isna(tokens) else f"{int(tokens):,}" for tokens in counts["tokens"]],
    }
    return markup.markdown_table(columns, 2)


def teacher(record: TeacherRecord, losses: Sequence[SourceLoss]) -> str:
    """Return the identity of the teacher, and its loss on every split."""
    scores = pd.DataFrame([loss.model_dump() for loss in losses], columns=list(SourceLoss.model_fields))
    columns = {
        "split": scores["split"].tolist(),
        "source": scores["source"].tolist(),
        "perplexity": scores["perplexity"].map(formats.significant).tolist(),
        "loss (nats)": markup.means_and_errors(scores, "loss", "standard_error"),
        "bits per byte": markup.means_and_errors(scores, "bits_per_byte", "bits_per_byte_standard_error"),
        "tokens": scores["tokens"].map(formats.count).tolist(),
    }
    about = record.model_dump(include={"name", "model_type", "revision", "fingerprint", "license"})
    about["num_parameters"] = f"{record.num_parameters:,}"
    return f"{markup.nested_list(about)}\n\n{markup.markdown_table(columns, 2)}"


def made(findings: Findings) -> str:
    """Return the recorded settings of every training, and how everything was made."""
    trained = findings.results[findings.results["bin"] != ""]
    ran = sorted(
        {f"{device}, {precision}" for device, precision in zip(trained["device"], trained["precision"], strict=True)}
    )
    settings = {_run(arm): arm_settings(arm) for arm in findings.arms}
    first = next(iter(settings.values()), {})
    common = {name: value for name, value in first.items() if all(of.get(name) == value for of in settings.values())}
    own = {run: {name: value for name, value in of.items() if name not in common} for run, of in settings.items()}
    recorded = {"training": common, "training of each arm": own}
    facts = {"budwood": __version__, "training ran on": "; ".join(ran) or formats.MISSING}
    return markup.nested_list(facts | {name: values for name, values in recorded.items() if values})


def _run(arm: Score) -> str:
    return f"{Variant(arm.bin, arm.space)}, {arm.arm}, seed {arm.seed}"


def _models(frame: pd.DataFrame) -> dict[str, list[str]]:
    """Return the columns that name a row; a variant is named once."""
    pairs = zip(frame["bin"] == "", markup.variant_names(frame), strict=True)
    return {
        "variant": markup.once(["teacher" if own else name for own, name in pairs]),
        "model": frame["model"].tolist(),
    }


def _marked(means: pd.Series, errors: pd.Series, noises: pd.Series | None = None) -> list[str]:
    """Return differences with errors, with a mark where they are beyond the noise: 2 errors without any given."""
    noises = NOISE_STANDARD_ERRORS * errors if noises is None else noises
    return [
        f"{mean:+.0f} (all alike)"
        if error == 0
        else formats.plus_minus(mean, error, signed=True)
        + (f" {_BEYOND}" if "beyond" in verdict(mean, error, noise) else "")
        for mean, error, noise in zip(means, errors, noises, strict=True)
    ]


def _percents(values: pd.Series, errors: pd.Series) -> list[str]:
    return [
        f"{100 * value:.0f} (all alike)" if error == 0 else formats.plus_minus(100 * value, 100 * error)
        for value, error in zip(values, errors, strict=True)
    ]


def _speedups(table: pd.DataFrame, phase: str) -> list[str]:
    names = [f"{phase}_speedup{suffix}" for suffix in ("", "_low", "_high")]
    triples = table[names].itertuples(index=False, name=None)
    return [
        formats.MISSING if np.isnan(middle) else f"{middle:.2f}x ({low:.2f} to {high:.2f})"
        for middle, low, high in triples
    ]


def _ratios(table: pd.DataFrame, name: str) -> list[str]:
    """Return ratios with their intervals, where there are any."""
    columns = table[[name, f"{name}_low", f"{name}_high"]].to_numpy(dtype=float)
    shown = []
    for ratio, *ends in columns:
        words = "" if np.isnan(ends).any() else " ({} to {})".format(*map(formats.significant, ends))
        shown.append(formats.MISSING if np.isnan(ratio) else f"{formats.significant(ratio)}x{words}")
    return shown
