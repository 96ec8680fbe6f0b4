"""The report's first words: what was found, computed from the numbers and saying no more than they do."""

from collections.abc import Hashable, Mapping
from typing import Any

import pandas as pd

from budwood.reporting import formats
from budwood.reporting.ledger import AT_STEP_0, NOT_REACHED, REACHED, SEARCH_STAGES, ledger_frame
from budwood.reporting.markup import markdown_table, means_and_errors, once, plural
from budwood.reporting.records import BASELINE, REFERENCE, Findings, Winner, variant_name
from budwood.reporting.tables import NOISE_STANDARD_ERRORS, verdict

_WORDS = {
    "lower, beyond the noise": "lower",
    "higher, beyond the noise": "higher",
    "within the noise": "undecided",
    "not decidable": "undecided",
}


def start_here(findings: Findings) -> str:
    """Return what was searched, what won, whether it helped and what it cost, in a paragraph and a table."""
    trained = findings.results[findings.results["bin"] != ""]
    if trained.empty:
        return " ".join(["No arm was trained, so there is nothing to compare.", _cost(findings)])
    opening = [_searched(findings, trained), _helped(trained), _best(findings.results), _cost(findings)]
    return "\n\n".join([" ".join(filter(None, opening)), _table(findings, trained), _noise(trained)])


def _searched(findings: Findings, trained: pd.DataFrame) -> str:
    """Tell how many variants there are, and how many candidates their searches evaluated."""
    number = len(trained[["bin", "space"]].drop_duplicates())
    candidates = sum(winner["num_evaluations"] for winner in findings.winners)
    among = f" among {plural(candidates, 'candidate')}" if candidates else ""
    return (
        f"Sub-networks of {findings.teacher['name']} were searched{among}, cut out and trained in "
        f"{plural(number, 'variant')}."
    )


def _helped(trained: pd.DataFrame) -> str:
    """Count, for each arm, the variants in which it ends lower or higher than the baseline beyond the noise."""
    words = []
    for arm, rows in trained[trained["model"] != BASELINE].groupby("model", sort=False):
        verdicts = _verdicts(rows)
        counts = {word: verdicts.count(word) for word in ("lower", "higher", "undecided")}
        counted = ", ".join(f"{word} in {number}" for word, number in counts.items() if number)
        words.append(f"`{arm}` is {counted} of {len(verdicts)}")
    if not words:
        return f"No arm other than `{BASELINE}` was trained, so there is nothing to compare."
    if BASELINE not in set(trained["model"]):
        return f"`{BASELINE}` was not trained, so nothing tells whether that helped."
    against = f"Validation loss against `{BASELINE}` (the same architecture from random weights), beyond the noise"
    return f"{against}: {'; '.join(words)}."


def _verdicts(rows: pd.DataFrame) -> list[str]:
    pairs = zip(rows["difference"], rows["difference_standard_error"], strict=True)
    return [_WORDS[verdict(difference, error)] for difference, error in pairs]


def _best(results: pd.DataFrame) -> str:
    """Name the lowest loss of all, and whether its lead over the next arm of its variant is beyond the noise."""
    trained = results[results["bin"] != ""].dropna(subset=["loss"])
    if trained.empty:
        return "No arm has a finite loss."
    best = trained.sort_values("loss", kind="stable").iloc[0]
    loss = formats.plus_minus(best["loss"], best["standard_error"])
    teacher = results.loc[results["bin"] == "", "perplexity"].iloc[0]
    level = f"{loss} nats per token (perplexity {formats.significant(best['perplexity'])}, the teacher's "
    level += f"{formats.significant(teacher)})"
    where = f"`{best['model']}` in {variant_name(best['bin'], best['space'])}"
    siblings = trained[(trained["bin"] == best["bin"]) & (trained["space"] == best["space"])].sort_values("loss")
    if len(siblings) == 1:
        return f"The lowest loss has {where}: {level}."
    rival = siblings.iloc[1]
    lead, error = rival["difference_to_best"], rival["difference_to_best_standard_error"]
    beyond = {"higher": "beyond the noise"}.get(_WORDS[verdict(lead, error)], "undecided")
    gap = f"{formats.plus_minus(lead, error)} nats below `{rival['model']}` there ({beyond})"
    return f"The lowest loss has {where}: {level}, {gap}."


def _cost(findings: Findings) -> str:
    """Tell what everything cost together, and the shares of search and training."""
    costs = ledger_frame(findings.ledger)
    total = costs["flops"].sum()
    if not total > 0:
        return ""
    searching = costs.loc[costs["stage"].isin(SEARCH_STAGES), "flops"].sum() / total
    training = costs.loc[costs["stage"].isin(["training", "teacher", "teacher_cache"]), "flops"].sum() / total
    return (
        f"Everything together cost {formats.flops(total)}: {searching:.0%} for calibration, elimination, search and "
        f"compensation, {training:.0%} for training with its teacher, the rest for measuring."
    )


def _table(findings: Findings, trained: pd.DataFrame) -> str:
    """Return what every arm reached, against the baseline of its variant, and at what cost."""
    found = {(winner["bin"], winner["space"]): winner for winner in findings.winners}
    rows = trained.to_dict("records")
    shapes = [_shape(row, found.get((row["bin"], row["space"]))) for row in rows]
    spent = [_search_cost(row, found.get((row["bin"], row["space"]))) for row in rows]
    searched = [cost if shape else "" for shape, cost in zip(once(shapes), spent, strict=True)]
    others = trained["model"] != BASELINE
    words = [word if other else "" for word, other in zip(_verdicts(trained), others, strict=True)]
    reached = [_reached(findings.savings, row) for row in rows]
    columns = {
        "variant and what was found": once(shapes),
        "arm": trained["model"].tolist(),
        "loss (nats)": means_and_errors(trained, "loss", "standard_error"),
        f"minus {BASELINE}": [
            text if other else ""
            for text, other in zip(
                means_and_errors(trained, "difference", "difference_standard_error", signed=True), others, strict=True
            )
        ],
        "so it is": words,
        f"tokens to {BASELINE}'s end": reached,
        "training": (trained["student_flops"] + trained["teacher_flops"].fillna(0.0)).map(formats.flops).tolist(),
        "its search": searched,
    }
    return markdown_table(columns, 2)


def _shape(row: Mapping[Hashable, Any], winner: Winner | None) -> str:
    """Return what an arm trained: what was found, or the reference of its bin, which was not searched."""
    size = f"{formats.count(row['num_parameters'])} parameters"
    if row["model"] == REFERENCE:
        return f"{row['bin']}: the reference, {size}"
    found = winner["description"] if winner else "not searched"
    return f"{variant_name(row['bin'], row['space'])}: {found}, {size}"


def _search_cost(row: Mapping[Hashable, Any], winner: Winner | None) -> str:
    if row["model"] == REFERENCE:
        return ""
    return formats.flops(winner["search_flops"]) if winner else formats.MISSING


def _reached(savings: pd.DataFrame, row: Mapping[Hashable, Any]) -> str:
    """Tell after how many training tokens an arm had the baseline's final held-out loss."""
    if row["model"] == BASELINE:
        return formats.count(row["tokens"])
    same = savings[
        (savings["bin"] == row["bin"]) & (savings["space"] == row["space"]) & (savings["arm"] == row["model"])
    ]
    if "baseline" in same:
        same = same[same["baseline"] == BASELINE]
    if same.empty:
        return formats.MISSING
    saved = same.iloc[0]
    ends = {
        AT_STEP_0: "0",
        NOT_REACHED: "not reached",
        REACHED: formats.count(saved["tokens_to_match"], 3),
    }
    return ends.get(saved["status"], formats.MISSING)


def _noise(trained: pd.DataFrame) -> str:
    sequences = plural(int(trained["num_sequences"].iloc[0]), "validation sequence")
    return (
        f"Lower and higher mean by more than {NOISE_STANDARD_ERRORS:g} paired standard errors over {sequences}, taken "
        f"as independent; anything less is undecided. {_seeds(int(trained['num_seeds'].min()))} The tokens are those "
        f"after which an arm first had the held-out loss `{BASELINE}` ended with. The cost of training holds the "
        "teacher's forward passes, that of a search the choice of its winner."
    )


def _seeds(number: int) -> str:
    if number > 1:
        return f"Losses are means over {number} seeds, whose spread is in these errors."
    return "Every arm was trained once, so the spread between seeds is not in these errors."
