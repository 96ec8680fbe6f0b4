"""The opening of the report, for a reader who reads no further: what to take, and why."""

from collections.abc import Sequence

import pandas as pd

from budwood.evaluation.settings import NUM_SHOWN_PROMPTS
from budwood.records.cost import SEARCH_STAGES
from budwood.records.evaluation import Sample
from budwood.records.names import BASELINE, REFERENCE, Variant
from budwood.records.serving import ENGINES, NOT_TRIED
from budwood.records.training import Score
from budwood.reporting import formats, markup
from budwood.reporting.findings import Findings
from budwood.reporting.ledger import ledger_frame, total_by_stage
from budwood.reporting.matching import misbooked, mismatches, unlike
from budwood.reporting.tables import lead, noise_rule, verdicts
from budwood.search.choice import CONFIDENCE

_UNLIKE = "not comparable"
_PREPARING_STAGES = ("probe", "sweep", "gate")
_TRAINING_STAGES = ("training", "teacher", "teacher_cache")
_MEASURING_STAGES = ("heldout", "evaluation", "certificate")
_PARTS = {
    "calibration, elimination, search and compensation": SEARCH_STAGES,
    "probes, trials of learning rates and sanity gates": _PREPARING_STAGES,
    "training with its teacher": _TRAINING_STAGES,
    "measuring and certificates": _MEASURING_STAGES,
}
"""What a cost was for, in words, and its stages."""


def warning(findings: Findings) -> str:
    """Return which arms do not compare, or are not those of the ledger, and why; empty where all match."""
    unlike_arms = (
        "**Some arms were not trained and measured alike**, so their losses do not compare and the report gives no "
        "verdict on them. Run the stages that are out of date again."
    )
    other_ledger = (
        "**The ledger is of other trainings**, so savings and costs are not those of the arms. Gather both again: "
        "`kedro run --pipelines=evaluation,reporting`."
    )
    found = {
        unlike_arms: mismatches(findings.arms),
        other_ledger: misbooked(findings.arms, findings.ledger),
    }
    return "\n\n".join(
        "\n".join([lead, "", *(f"- {markup.literal(sentence)}" for sentence in sentences)])
        for lead, sentences in found.items()
        if sentences
    )


def models(findings: Findings) -> str:
    """Return for every bin the model of lowest loss, how to load it, and the losses of all models of the bin."""
    trained = findings.results[findings.results["bin"] != ""]
    if trained.empty:
        return markup.NO_TRAINING
    note = (
        "Validation loss per token, perplexity, and bits per byte, ± one standard error over the same sequences for "
        f"all models. Differences to `{BASELINE}` (the same architecture from random weights) are paired over "
        f"sequences; beyond the noise means {noise_rule(int(trained['num_seeds'].max()))}."
    )
    bins = [_bin(findings, str(name), rows) for name, rows in trained.groupby("bin", sort=False)]
    return "\n\n".join([*bins, note])


def _bin(findings: Findings, name: str, trained: pd.DataFrame) -> str:
    repeated = trained["model"].eq(REFERENCE) & trained.duplicated("model")
    rows = pd.concat([findings.results[findings.results["bin"] == ""], trained[~repeated]])
    spaces = rows["space"].mask(rows["bin"] == "", "teacher").mask(rows["model"] == REFERENCE, "")
    columns = {
        "space": markup.once(spaces.tolist()),
        "model": rows["model"].tolist(),
        "parameters": rows["num_parameters"].map(formats.count).tolist(),
        "loss (nats)": markup.means_and_errors(rows, "loss", "standard_error"),
        "perplexity": rows["perplexity"].map(formats.significant).tolist(),
        "bits per byte": markup.means_and_errors(rows, "bits_per_byte", "bits_per_byte_standard_error"),
        f"minus {BASELINE}": markup.means_and_errors(rows, "difference", "difference_standard_error", signed=True),
        "verdict": _verdicts(findings, rows),
    }
    return "\n\n".join([f"### {name}", *_taken(findings, trained[~repeated]), markup.markdown_table(columns, 2)])


def _verdicts(findings: Findings, rows: pd.DataFrame) -> list[str]:
    """Return the verdicts; nothing for the baseline and the teacher, which are not compared."""
    words = _comparable(findings, rows)
    compared = (rows["bin"] != "") & (rows["model"] != BASELINE)
    return [word if own else "" for word, own in zip(words, compared, strict=True)]


def _comparable(findings: Findings, rows: pd.DataFrame) -> list[str]:
    """Return the verdicts; `not comparable` where an arm was not trained as its baseline was."""
    stale, keys = unlike(findings.arms), zip(rows["bin"], rows["space"], rows["model"], strict=True)
    return [_UNLIKE if key in stale else word for key, word in zip(keys, verdicts(rows), strict=True)]


def _taken(findings: Findings, trained: pd.DataFrame) -> list[str]:
    """Return what to take home of a bin: the arm of lowest loss, its lead, its folder, and the code that loads it."""
    finite = trained.dropna(subset=["loss"]).sort_values("loss", kind="stable")
    if finite.empty:
        return ["No arm has a finite loss."]
    best = finite.iloc[0]
    loss = formats.plus_minus(best["loss"], best["standard_error"])
    teacher = findings.results.loc[findings.results["bin"] == "", "perplexity"].iloc[0]
    found = (
        f"Lowest loss: `{best['model']}` of {best['space']}, {formats.count(best['num_parameters'])} parameters, "
        f"{loss} nats per token (perplexity {formats.significant(best['perplexity'])}, the teacher's "
        f"{formats.significant(teacher)})"
    )
    rivals = finite.iloc[1:]
    if len(rivals):
        rival = rivals.iloc[0]
        apart = rival["model"] != REFERENCE and len(set(trained["space"])) > 1
        name = f"`{rival['model']}`" + (f" of {rival['space']}" if apart else "")
        gap, error, noise = (rival[f"difference_to_best{end}"] for end in ("", "_standard_error", "_noise"))
        unlike_it = f"not compared with {name}, which was not trained and measured as it was"
        found += f", {unlike_it if pd.isna(gap) else lead(gap, error, name, noise=noise)}"
        found += f". The lowest of {len(finite)} losses on the same text is a little too low on average"
    key = best["bin"], best["space"], best["model"]
    record = next(arm for arm in findings.arms if (*arm.variant, arm.arm) == key)
    exports = findings.certificates
    export = exports[(exports["bin"] == key[0]) & (exports["space"] == key[1])]
    return [f"{found}.", *_in_vain(best["model"], rivals), *_loading(record, export)]


def _in_vain(best: str, rivals: pd.DataFrame) -> list[str]:
    """Return a sentence if random weights ended lower, beyond the noise, than every arm from the sub-network."""
    random = {BASELINE, REFERENCE}
    grown = rivals[~rivals["model"].isin(random)]
    behind = grown["difference_to_best"] > grown["difference_to_best_noise"]
    if best not in random or grown.empty or not behind.all():
        return []
    return ["The sub-network did not help: random weights ended lower. See [Search](#search) and [Teacher](#teacher)."]


def _loading(arm: Score, export: pd.DataFrame) -> list[str]:
    """Return where an arm is, and the code that loads it, given the row of its variant among the exports."""
    if not arm.folder:
        return []
    # A stock class of transformers opens every reference.
    native = arm.arm == REFERENCE or bool(export["native"].all())
    untried = [name for name in ENGINES if name in export and export[name].str.startswith(NOT_TRIED).any()]
    code = "" if native else ", trust_remote_code=True"
    lines = [
        "from transformers import AutoModelForCausalLM, AutoTokenizer",
        "",
        f"folder = {arm.folder!r}",
        f"model = AutoModelForCausalLM.from_pretrained(folder{code})",
        f"tokenizer = AutoTokenizer.from_pretrained(folder{code})",  # or it asks whether to run the model's code
    ]
    opens = ", ".join(arm.engines) or "transformers"
    opens += f"; not tried in {' and '.join(untried)}, see [Opens in](#opens-in)" if untried else ""
    facts = [f"- Folder, inside the project: `{arm.folder}`", f"- Opens in: {opens}"]
    if arm.arm not in (BASELINE, REFERENCE):  # those have no card
        facts.append("- Its `README.md` has the commands that serve it")
    return ["\n".join(facts), "\n".join(["```python", *lines, "```"])]


def samples(found: Sequence[Sample]) -> str:
    """Return every prompt with its continuations."""
    if not found:
        return "No text was generated."
    prompts = list(dict.fromkeys(sample.prompt for sample in found))
    shown = f"Greedy continuations of held-out text: {min(NUM_SHOWN_PROMPTS, len(prompts))} of {len(prompts)}."
    parts = [f"{shown} All are counted under [Generation](#generation)."]
    for prompt in prompts[:NUM_SHOWN_PROMPTS]:
        own = [sample for sample in found if sample.prompt == prompt]
        columns = {
            "model": [" · ".join(filter(None, (s.bin, s.space, s.model))) for s in own],
            "continuation": [markup.literal(sample.text) for sample in own],
        }
        parts += [f"> {markup.literal(prompt)}", markup.markdown_table(columns, 2)]
    return "\n\n".join(parts)


def searched(findings: Findings) -> str:
    """Return what the searches found."""
    found = findings.winners
    if not found:
        return markup.NO_SEARCH
    candidates = sum(winner.num_evaluations for winner in found)
    trained = [formats.count(winner.finalist_tokens) for winner in found]
    is_trained = any(winner.finalist_tokens for winner in found)
    whose = (
        "the winner after the brief training that finalists had before the choice (what is exported has had none)"
        if is_trained
        else "the exported winner before training"
    )
    note = (
        f"{markup.plural(candidates, 'sub-network')} of {findings.teacher_record.name} in "
        f"{markup.plural(len(found), 'variant')}. Losses are those of {whose}, on text that its search never read, "
        f"with {CONFIDENCE:.0%} intervals over sequences."
    )
    has_leads = any(winner.lead is not None for winner in found)
    if has_leads:
        note += (
            " The lead is over the next finalist; if its interval includes 0, the two cannot be distinguished on this "
            "text."
        )
    columns = {
        "variant": [str(Variant(winner.bin, winner.space)) for winner in found],
        "winner": [winner.description for winner in found],
        "parameters": [formats.count(winner.num_parameters) for winner in found],
        "candidates": [formats.count(winner.num_evaluations) for winner in found],
        **({"trained on, tokens": trained} if is_trained else {}),
        "loss (nats)": markup.intervals([winner.choice_loss for winner in found], [w.choice_interval for w in found]),
    }
    if has_leads:
        leads, intervals = [winner.lead for winner in found], [winner.lead_interval for winner in found]
        columns["lead (nats)"] = markup.intervals(leads, intervals)
    return f"{note}\n\n{markup.markdown_table(columns, 2)}"


def evidence(findings: Findings) -> str:
    """Return what the comparisons rest on, and how they come out over all variants."""
    trained = findings.results[findings.results["bin"] != ""]
    if trained.empty:
        return f"{markup.NO_TRAINING} There is nothing to compare."
    matched = "differ, see the top of this page" if mismatches(findings.arms) else "match"
    seeds = int(trained["num_seeds"].min())
    spread = (
        f"Losses are means over {seeds} seeds; the errors include their spread."
        if seeds > 1
        else "Every arm was trained with one seed, so the errors do not include the spread between seeds."
    )
    scored = markup.plural(int(trained["num_sequences"].iloc[0]), "validation sequence")
    measured = f"All models were scored on the same {scored}, which no other stage read."
    lines = [
        _outcome(findings, trained),
        f"Recorded tokens, schedules, text and validation windows of the compared arms {matched}.",
        f"{measured} Errors treat sequences as independent. {spread}",
    ]
    lines += _gates(findings)
    lines += [
        f"The export of {Variant(row['bin'], row['space'])} has {row['num_parameters']:,} parameters, the counted "
        f"number. Reloaded by transformers as `{row['class']}`, its logits are within "
        f"{row['largest_logit_difference']:.2g} of the model that was searched."
        for row in findings.certificates.to_dict("records")
    ]
    return "\n".join(f"- {line}" for line in lines)


def _gates(findings: Findings) -> list[str]:
    """Return how many sanity gates were passed."""
    gates = [*findings.order_gates, *(gate for arm in findings.arms for gate in arm.gates)]
    failed = [gate.describe() for gate in gates if not gate.passed]
    number = markup.plural(len(gates), "sanity gate")
    if failed:
        return [f"{len(failed)} of {number} failed: {'; '.join(failed)}."]
    return [f"{number} passed, see [Sanity gates](#sanity-gates)."] if gates else []


def _outcome(findings: Findings, trained: pd.DataFrame) -> str:
    """Return in how many variants each arm ends lower or higher than the baseline, beyond the noise."""
    others = trained[trained["model"] != BASELINE]
    if others.empty:
        return f"No arm other than `{BASELINE}` was trained, so there is nothing to compare."
    if BASELINE not in set(trained["model"]):
        return f"`{BASELINE}` was not trained, so there is no evidence on whether the sub-networks helped."
    words = []
    for arm, rows in others.groupby("model", sort=False):
        found = [word.removesuffix(", beyond the noise") for word in _comparable(findings, rows)]
        counts = {word: found.count(word) for word in ("lower", "higher", _UNLIKE)}
        counts["undecided"] = len(found) - sum(counts.values())
        counted = ", ".join(f"{word} in {number}" for word, number in counts.items() if number)
        words.append(f"`{arm}` is {counted} of {len(found)}")
    outcome = f"Validation loss against `{BASELINE}`: {'; '.join(words)}. Anything within the noise is undecided."
    if not any(_UNLIKE in word for word in words):
        return outcome
    return f"{outcome} What is {_UNLIKE} was not trained and measured as `{BASELINE}` was, see the top of this page."


def cost(findings: Findings) -> str:
    """Return the total cost, the shares of what it was for, and the costs by stage."""
    costs = ledger_frame(findings.ledger)
    total = costs["flops"].sum()
    if not total > 0:
        return "No costs were recorded."
    shares = {part: costs.loc[costs["stage"].isin(stages), "flops"].sum() / total for part, stages in _PARTS.items()}
    taken = ", ".join(f"{share:.0%} for {part}" for part, share in shares.items() if share)
    rows = total_by_stage(findings.ledger)
    sums = rows[["flops", "tokens", "seconds"]].sum().to_frame().T.assign(stage="all")
    rows = pd.concat([rows, sums], ignore_index=True)
    columns = {
        "stage": rows["stage"].tolist(),
        "FLOPs": rows["flops"].map(formats.flops).tolist(),
        "share": [f"{100 * share:.1f}%" for share in rows["flops"] / total],
        "tokens": rows["tokens"].map(formats.count).tolist(),
        "time": [formats.duration(seconds) if seconds else "" for seconds in rows["seconds"]],
    }
    sentence = (
        f"Total: {formats.flops(total)}, over all variants and arms: {taken}. A stage without a time was not timed by "
        "itself."
    )
    return f"{sentence}\n\n{markup.markdown_table(columns, 1)}"
