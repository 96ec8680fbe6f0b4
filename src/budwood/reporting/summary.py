"""The report's first words: what was found, computed from the numbers and saying no more than they do."""

import pandas as pd

from budwood.reporting import formats
from budwood.reporting.ledger import AT_STEP_0, NOT_REACHED, REACHED
from budwood.reporting.records import BASELINE, Findings, variant_name
from budwood.reporting.tables import NOISE_STANDARD_ERRORS, verdict


def start_here(findings: Findings) -> str:
    """Return the opening paragraph, a list with one point per variant, and what "noise" means."""
    trained = findings.results[findings.results["bin"] != ""]
    if trained.empty:
        return "No arm was trained, so there is nothing to compare."
    points: list[str] = []
    for (bin_name, space), arms in trained.groupby(["bin", "space"], sort=False):
        place = (findings.savings["bin"] == bin_name) & (findings.savings["space"] == space)
        saved = findings.savings[place & (findings.savings["baseline"] == BASELINE)]
        size = formats.count(arms["num_parameters"].iloc[0])
        points.append(f"- **{variant_name(str(bin_name), str(space))}** ({size} parameters). {_winner(arms)}")
        points += [f"  - {sentence}" for sentence in (*_differences(arms), *_matches(saved), _cost(arms, saved))]
    return "\n\n".join([_headline(trained, findings.teacher["name"]), "\n".join(points), _noise(trained)])


def _headline(trained: pd.DataFrame, teacher: str) -> str:
    """Count, for each arm, the variants in which it ends lower or higher than the baseline beyond the noise."""
    num_variants = len(trained[["bin", "space"]].drop_duplicates())
    opening = f"Sub-networks of {teacher} were searched, cut out and trained in {_plural(num_variants, 'variant')}."
    words = []
    for arm, rows in trained[trained["model"] != BASELINE].groupby("model", sort=False):
        verdicts = _verdicts(rows)
        lower, higher = (sum(v.startswith(side) for v in verdicts) for side in ("lower", "higher"))
        sides = {"lower": lower, "higher": higher, "undecided": len(verdicts) - lower - higher}
        counted = ", ".join(f"{side} in {number}" for side, number in sides.items() if number)
        words.append(f"`{arm}` is {counted} of {len(verdicts)}")
    if not words:
        return f"{opening} No arm other than `{BASELINE}` was trained, so there is nothing to compare."
    against = f"Validation loss against `{BASELINE}` (the same architecture from random weights), beyond the noise"
    return f"{opening} {against}: {'; '.join(words)}."


def _verdicts(rows: pd.DataFrame) -> list[str]:
    pairs = zip(rows["difference"], rows["difference_standard_error"], strict=True)
    return [verdict(difference, error) for difference, error in pairs]


def _winner(arms: pd.DataFrame) -> str:
    """Name the arm of lowest loss and whether its lead over the next is beyond the noise."""
    ranked = arms.dropna(subset=["loss"]).sort_values("loss")
    if ranked.empty:
        return "No arm has a finite loss."
    best = ranked.iloc[0]
    loss = formats.plus_minus(best["loss"], best["standard_error"])
    level = f"{loss} nats per token (perplexity {formats.significant(best['perplexity'])})"
    if len(ranked) == 1:
        return f"`{best['model']}` has a validation loss of {level}."
    rival = ranked.iloc[1]
    lead, error = rival["difference_to_best"], rival["difference_to_best_standard_error"]
    beyond = {"higher, beyond the noise": "beyond the noise"}.get(verdict(lead, error), verdict(lead, error))
    gap = f"{formats.plus_minus(lead, error)} nats below `{rival['model']}` ({beyond})"
    return f"Lowest validation loss of {_plural(len(arms), 'arm')}: `{best['model']}`, {level}, {gap}."


def _differences(arms: pd.DataFrame) -> list[str]:
    """Tell each arm's paired difference to the baseline."""
    others = arms[(arms["model"] != BASELINE) & arms["difference"].notna()]
    words = [
        f"`{model}` {formats.plus_minus(difference, error, signed=True)} nats ({verdict(difference, error)})"
        for model, difference, error in zip(
            others["model"], others["difference"], others["difference_standard_error"], strict=True
        )
    ]
    return [f"Difference to `{BASELINE}`: {', '.join(words)}."] if words else []


def _matches(saved: pd.DataFrame) -> list[str]:
    """Tell when each arm had the baseline's final loss."""
    words = []
    for row in saved.to_dict("records"):
        ends = {
            AT_STEP_0: "has it before any training",
            NOT_REACHED: "does not reach it",
            REACHED: f"reaches it after about {formats.count(row['tokens_to_match'], 3)} training tokens",
        }
        if row["status"] in ends:
            words.append(f"`{row['arm']}` {ends[row['status']]}")
    if not words:
        return []
    tokens = formats.count(saved["baseline_tokens"].iloc[0])
    return [f"The held-out loss at which `{BASELINE}` ends after {tokens} tokens: {', '.join(words)}."]


def _cost(arms: pd.DataFrame, saved: pd.DataFrame) -> str:
    """Tell what the training of each arm cost, on how many tokens, and what the search cost."""
    alike = len(set(arms["tokens"])) == 1
    words = []
    for row in arms.to_dict("records"):
        teacher = f" + {formats.flops(row['teacher_flops'])} of the teacher" if row["teacher_flops"] > 0 else ""
        tokens = "" if alike else f" on {formats.count(row['tokens'])} tokens"
        words.append(f"`{row['model']}` {formats.flops(row['student_flops'])}{teacher}{tokens}")
    each = f" on {formats.count(arms['tokens'].iloc[0])} tokens each" if alike else ""
    search = (
        "" if saved.empty else f"; calibration, search and compensation {formats.flops(saved['search_flops'].iloc[0])}"
    )
    return f"Cost of training{each}: {', '.join(words)}{search}."


def _noise(trained: pd.DataFrame) -> str:
    sequences = _plural(int(trained["num_sequences"].iloc[0]), "validation sequence")
    noise = f"Beyond the noise means larger than {NOISE_STANDARD_ERRORS:g} paired standard errors over {sequences}"
    num_seeds = trained["num_seeds"].min()
    if num_seeds > 1:
        return f"{noise} and {_plural(int(num_seeds), 'seed')}, taken as independent; losses are means over the seeds."
    return (
        f"{noise}, taken as independent. Every arm was trained once, so the spread between seeds is not in these "
        "errors."
    )


def _plural(number: int, noun: str) -> str:
    return f"{number} {noun}{'' if number == 1 else 's'}"
