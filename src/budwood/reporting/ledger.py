"""The ledger: what every stage cost, and what an arm saved against the random baseline."""

from collections.abc import Sequence

import numpy as np
import pandas as pd

from budwood.reporting.records import BASELINE, SHARED, LedgerEntry

STAGES = ("calibration", "search", "compensation", "selection", "teacher_cache", "training", "teacher", "evaluation")
LEDGERS: dict[str, tuple[str, ...]] = {
    "training": ("teacher_cache",),
    "with_search": ("teacher_cache", "calibration", "search", "compensation"),
    "with_selection": ("teacher_cache", "calibration", "search", "compensation", "selection"),
}
"""The stages that each ledger charges to an arm on top of its training. A teacher that was asked before it counts as
training, as one that runs beside the student does."""

AT_STEP_0, REACHED, NOT_REACHED, NO_BASELINE = "at step 0", "reached", "not reached", "no baseline"

_AMOUNTS = ["flops", "tokens", "seconds"]
_ENTRY_COLUMNS = ["stage", "bin", "space", "arm", *_AMOUNTS]
_SAVINGS_COLUMNS = [
    *("bin", "space", "arm", "target_loss", "status", "tokens_to_match", "flops_to_match"),
    *("baseline_tokens", "baseline_flops", "search_flops"),
    *(f"ratio_{ledger}" for ledger in LEDGERS),
]


def ledger_frame(ledger: Sequence[LedgerEntry]) -> pd.DataFrame:
    """Return the ledger as a frame whose `stage` is ordered as the stages run.

    Raises:
        ValueError: an entry has an unknown stage.
    """
    frame = pd.DataFrame(list(ledger), columns=_ENTRY_COLUMNS)
    unknown = sorted(set(frame["stage"]) - set(STAGES))
    if unknown:
        raise ValueError(f"ledger: stage {unknown[0]!r} is unknown; allowed are {', '.join(STAGES)}")
    return frame.assign(stage=pd.Categorical(frame["stage"], categories=STAGES, ordered=True))


def total_by_stage(ledger: Sequence[LedgerEntry]) -> pd.DataFrame:
    """Return one row per stage that occurs, in the order the stages run.

    Returns:
        Columns `stage`, `flops`, `tokens`, `seconds`: sums over all variants and arms.

    Raises:
        ValueError: an entry has an unknown stage.
    """
    return ledger_frame(ledger).groupby("stage", observed=True)[_AMOUNTS].sum().reset_index().astype({"stage": str})


def savings(curves: pd.DataFrame, ledger: Sequence[LedgerEntry]) -> pd.DataFrame:
    """Return what each arm needed to reach the loss at which its variant's `random_init` ended.

    The target is the held-out loss of `random_init` after its last step on the same variant (same architecture, same
    held-out tokens). An arm matches it at the first point where the straight line between two neighbouring held-out
    losses falls to the target; tokens and FLOPs are read off that line. `status` is

    * `reached`: the arm starts above the target and falls to it later;
    * `at step 0`: it starts at or below the target, before any training;
    * `not reached`: none of its held-out losses is at or below the target;
    * `no baseline`: the variant has no `random_init` arm with a finite loss after its last step.

    `tokens_to_match` and `flops_to_match` are the arm's own training until then (forward and backward passes of the
    student and, for `distilled`, the teacher's forward passes); both are 0 at step 0 and NaN where nothing is matched.

    Each ratio is `baseline_flops`, all that `random_init` spent on training, divided by the arm's cost, so above 1 the
    arm was cheaper. The baseline is charged with its training only. The arm's cost is

    * `ratio_training`: `flops_to_match`, and the stage `teacher_cache` where the teacher was asked before training. NaN
      unless the status is `reached`: at step 0 no training is needed and the ratio undefined;
    * `ratio_with_search`: that and `search_flops`, where `search_flops` is calibration, search and
      compensation of this variant. Defined at step 0 too, where it is the baseline's cost over that of these alone;
    * `ratio_with_selection`: the same and the stage `selection`.

    A stage's entries count for a variant and arm when their `bin`, `space` and `arm` equal the arm's or are empty. An
    entry with empty fields is charged in full to every variant it serves, never shared out. No ratio is given where the
    status is `not reached` or `no baseline`, or where the cost is zero.

    Args:
        curves: columns `bin`, `space`, `arm`, `step`, `tokens`, `flops` (cumulative), `heldout_loss` (nats per token,
            NaN where none was measured).
        ledger: all costs.

    Returns:
        One row per (bin, space, arm other than `random_init`), in the order of `curves`.

    Raises:
        ValueError: a curve has no finite held-out loss at step 0, or a ledger entry has an unknown stage.
    """
    costs = ledger_frame(ledger)
    rows: list[dict[str, object]] = []
    for (bin_name, space), variant in curves.groupby(["bin", "space"], sort=False):
        arms = {str(arm): curve.sort_values("step") for arm, curve in variant.groupby("arm", sort=False)}
        baseline = _end(arms.pop(BASELINE, variant.iloc[:0]))
        for arm, curve in arms.items():
            key = {"bin": str(bin_name), "space": str(space), "arm": arm}
            rows.append(key | _saving(held_out(curve), baseline, _charges(costs, key)))
    return pd.DataFrame(rows, columns=_SAVINGS_COLUMNS)


def held_out(curve: pd.DataFrame) -> pd.DataFrame:
    """Return the points of one arm's curve at which a finite held-out loss was measured, by step.

    Raises:
        ValueError: step 0 is not among them.
    """
    points: pd.DataFrame = curve[np.isfinite(curve["heldout_loss"])].sort_values("step")
    if points.empty or points["step"].iloc[0] != 0:
        name = "/".join(str(curve[column].iloc[0]) for column in ("bin", "space", "arm"))
        raise ValueError(f"curves: {name} has no finite held-out loss at step 0, which tells whether it starts matched")
    return points


def _end(curve: pd.DataFrame) -> dict[str, float]:
    """Return the baseline's last held-out loss and total cost; NaN where the last step has no finite loss."""
    last = curve[np.isfinite(curve["heldout_loss"]) & (curve["step"] == curve["step"].max())]
    columns = {"target_loss": "heldout_loss", "baseline_tokens": "tokens", "baseline_flops": "flops"}
    return {name: np.nan if last.empty else float(last[column].iloc[-1]) for name, column in columns.items()}


def _charges(costs: pd.DataFrame, key: dict[str, str]) -> dict[str, float]:
    """Return the FLOPs that each ledger adds to the training of one arm."""
    applies = np.logical_and.reduce([costs[column].isin([value, SHARED]) for column, value in key.items()])
    by_stage = costs[applies].groupby("stage", observed=False)["flops"].sum()
    return {name: float(by_stage[list(stages)].sum()) for name, stages in LEDGERS.items()}


def _saving(points: pd.DataFrame, baseline: dict[str, float], charges: dict[str, float]) -> dict[str, object]:
    """Return the computed columns of one row of the savings."""
    status, tokens, flops = _first_crossing(points, baseline["target_loss"])
    costs = {name: flops + charge for name, charge in charges.items()}
    ratios = {
        f"ratio_{name}": baseline["baseline_flops"] / cost if cost > 0 else np.nan for name, cost in costs.items()
    }
    if status == AT_STEP_0:
        ratios["ratio_training"] = np.nan
    matched = {"status": status, "tokens_to_match": tokens, "flops_to_match": flops}
    return {**baseline, **matched, "search_flops": charges["with_search"] - charges["training"], **ratios}


def _first_crossing(points: pd.DataFrame, target_loss: float) -> tuple[str, float, float]:
    """Return the status and the tokens and FLOPs at which a held-out curve first falls to the target."""
    if np.isnan(target_loss):
        return NO_BASELINE, np.nan, np.nan
    losses = points["heldout_loss"].to_numpy(dtype=float)
    matching = np.flatnonzero(losses <= target_loss)
    if not matching.size:
        return NOT_REACHED, np.nan, np.nan
    first = int(matching[0])
    if first == 0:
        return AT_STEP_0, 0.0, 0.0
    share = (losses[first - 1] - target_loss) / (losses[first - 1] - losses[first])
    before, after = points[["tokens", "flops"]].to_numpy(dtype=float)[first - 1 : first + 1]
    tokens, flops = before + share * (after - before)
    return REACHED, float(tokens), float(flops)
