"""The ledger: what every stage cost, and what an arm saved against a reference."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from budwood.records.cost import SEARCH_STAGES, STAGES, Cost
from budwood.records.names import BASELINE, REFERENCE, SHARED, Variant
from budwood.search.choice import CONFIDENCE

PROBE = "probe"
"""The stage in which the sub-network of every space is trained on few tokens and measured, to choose the best."""
LEDGERS = ("training", "with_search", "with_selection", "with_teacher")
"""Each charges what the one before it does, and more; see `savings`."""

AT_STEP_0, REACHED, NOT_REACHED, NO_BASELINE = "at step 0", "reached", "not reached", "no baseline"

Floats = NDArray[np.float64]
NUM_RESAMPLES = 1000
"""Of the bootstrap behind intervals."""


_AMOUNTS = ["flops", "tokens", "seconds"]
_ENTRY_COLUMNS = ["stage", "bin", "space", "arm", "serves", *_AMOUNTS]
_SAVINGS_COLUMNS = [
    *("bin", "space", "arm", "baseline", "num_runs", "target_loss", "status"),
    *(f"tokens_to_match{end}" for end in ("", "_low", "_high")),
    *("flops_to_match", "baseline_tokens", "baseline_flops", "search_flops", "selection_flops", "teacher_flops"),
    *(f"ratio_{ledger}{end}" for ledger in LEDGERS for end in ("", "_low", "_high")),
]

# Shape legend: R resamples, S runs (seeds) of an arm, P points of a curve, N held-out sequences.


def ledger_frame(ledger: Sequence[Cost]) -> pd.DataFrame:
    """Return the ledger as a frame whose `stage` is ordered as the stages run."""
    frame = pd.DataFrame([cost.model_dump() for cost in ledger], columns=_ENTRY_COLUMNS)
    return frame.assign(stage=pd.Categorical(frame["stage"], categories=STAGES, ordered=True))


def total_by_stage(ledger: Sequence[Cost]) -> pd.DataFrame:
    """Return one row per stage that occurs, in the order the stages run.

    Returns:
        Columns `stage`, `flops`, `tokens`, `seconds`: sums over all variants and arms.
    """
    return ledger_frame(ledger).groupby("stage", observed=True)[_AMOUNTS].sum().reset_index().astype({"stage": str})


def savings(curves: pd.DataFrame, ledger: Sequence[Cost], reference: str = BASELINE) -> pd.DataFrame:
    """Return what each arm needed to reach the loss at which the reference of its variant ended.

    The target is the held-out loss of the reference after its last step, on the same variant and the same held-out
    tokens. An arm matches it at the first point where the straight line between two neighbouring held-out losses falls
    to the target. Where an arm ran with several seeds, its curve is the mean of theirs. `status` is

    * `reached`: the arm starts above the target and falls to it later;
    * `at step 0`: it starts at or below the target, before any training;
    * `not reached`: none of its held-out losses is at or below the target;
    * `no baseline`: the variant has no reference with a finite loss after its last step.

    `flops_to_match` is the student's training until then; both are 0 at step 0 and NaN where nothing is matched.
    `tokens_to_match_low` and `_high` enclose the match in 95% of a bootstrap over held-out sequences, drawn together
    for the arm and its reference, where the mean over the seeds of each spreads as Student's t. The upper end is
    infinite where too many of the resampled curves never match. Both are NaN where there is one run without losses by
    sequence, or one sequence. One run says nothing about the spread between seeds: see `num_runs`.

    Each ratio is `baseline_flops`, all that the reference spent on its training (one run, student only), divided by the
    arm's cost, so above 1 the arm was cheaper. The arm's cost is

    * `ratio_training`: `flops_to_match`; NaN at step 0, where the cost is zero and the ratio undefined;
    * `ratio_with_search`: and `search_flops`: calibration, elimination, search and compensation of this variant;
    * `ratio_with_selection`: and `selection_flops`: those of all other spaces of the bin, one run of the same arm in
      each, and all probes of the bin: what the choice of a space took. Steps of its own probe that an arm
      takes over are charged once, by whichever goes further, the match or the probe;
    * `ratio_with_teacher`: and the teacher's forward passes until the match, and those in the probes; those for a cache
      in full. `teacher_flops` is their sum at the match.

    Sweeps of learning rates are in none of them: the reference needs one as well as the arm.

    `reference_init` is not found by a search: it is charged with its training alone. An entry of the ledger with empty
    fields serves several variants; it is charged in full to each that needs it, see `Cost.serves`, and never twice. No
    ratio is given where the status is `not reached` or `no baseline`, or where the cost is zero.

    Args:
        curves: columns `bin`, `space`, `arm`, `step`, `tokens`, `heldout_loss` (nats per token, NaN where none was
            measured); `heldout_losses`, the same by sequence, and `seed` where there are any.
        ledger: all costs.
        reference: the arm whose last loss is to be reached.

    Returns:
        One row per (bin, space, arm other than the reference), in the order of `curves`; `baseline` is the reference.

    Raises:
        ValueError: a curve has no finite held-out loss at step 0, or its training is not in the ledger.
    """
    costs = ledger_frame(ledger)
    rows: list[dict[str, float | str]] = []
    for (bin_name, space), variant in curves.groupby(["bin", "space"], sort=False):
        arms = dict(iter(variant.groupby("arm", sort=False)))
        target = _end(arms.pop(reference, variant.iloc[:0]))
        for arm, curve in arms.items():
            key = {"bin": str(bin_name), "space": str(space), "arm": str(arm)}
            spent = np.nan if target is None else _per_token(costs, key | {"arm": reference}) * target.tokens[-1]
            saved = _saving(_measured(curve), target, spent, _charges(costs, key))
            rows.append({**key, "baseline": reference, **saved})
    return pd.DataFrame(rows, columns=_SAVINGS_COLUMNS)


def search_flops(ledger: Sequence[Cost], variant: Variant, arm: str) -> float:
    """Return what it took to find and cut out what an arm starts from: `search_flops` of `savings`."""
    costs = ledger_frame(ledger)
    return float(costs.loc[_searched(costs, {**variant._asdict(), "arm": arm}), "flops"].sum())


def held_out(curve: pd.DataFrame) -> pd.DataFrame:
    """Return the points of one arm's curve at which a finite held-out loss was measured, by step.

    Raises:
        ValueError: step 0 is not among them.
    """
    points: pd.DataFrame = curve[np.isfinite(curve["heldout_loss"])].sort_values("step", kind="stable")
    if points.empty or points["step"].iloc[0] != 0:
        name = "/".join(str(curve[column].iloc[0]) for column in ("bin", "space", "arm"))
        raise ValueError(f"curves: {name} has no finite held-out loss at step 0, so its start cannot be compared")
    return points


def tokens_to_match(tokens: Floats, losses: Floats, targets: Floats) -> Floats:
    """Return [R] the tokens at which curves first fall to their targets; infinity where they never do.

    Args:
        tokens: [P] where losses were measured; 0 first.
        losses: [R, P].
        targets: [R].
    """
    matching = losses <= targets[:, None]
    after = matching.argmax(1)
    before = np.maximum(after - 1, 0)
    rows = np.arange(len(losses))
    above, fall = losses[rows, before] - targets, losses[rows, before] - losses[rows, after]
    share = np.divide(above, fall, out=np.zeros_like(above), where=after > 0)
    matched: Floats = tokens[before] + share * (tokens[after] - tokens[before])
    return np.where(matching.any(1), matched, np.inf)


@dataclass(frozen=True, slots=True)
class _Runs:
    """Held-out losses of all runs of an arm at the points that they share."""

    tokens: Floats
    """[P]"""
    losses: Floats
    """[S, P, N]; N is 1 where losses by sequence are not known."""

    @property
    def mean(self) -> Floats:
        """[1, P] the mean over runs and sequences."""
        mean: Floats = self.losses.mean((0, 2))[None]
        return mean

    def resampled(self, sequences: Floats, rng: np.random.Generator) -> Floats:
        """Return [R, P] mean losses as they may truly be, with given weights [R, N] of the sequences.

        Few runs resampled as they are would spread too little: their weights [R, S] are drawn so that any mean over
        them spreads around its own value as Student's t of S - 1 degrees of freedom by its standard error.
        """
        num_runs = len(self.losses)
        runs = np.full((len(sequences), num_runs), 1 / num_runs)
        if num_runs > 1:
            normal = rng.standard_normal(runs.shape)
            away = normal - normal.mean(1, keepdims=True)
            spread = np.sqrt(rng.chisquare(num_runs - 1, len(sequences)) * num_runs)
            runs += away / spread[:, None]
        means: Floats = np.einsum("rs,spn,rn->rp", runs, self.losses, sequences, optimize=True)
        return means


def _measured(curve: pd.DataFrame) -> _Runs:
    """Gather an arm's runs, at the steps that all of them have measured."""
    if "seed" not in curve:
        curve = curve.assign(seed=0)
    points = [held_out(run).set_index("step") for _, run in curve.groupby("seed", sort=True)]
    steps = sorted(set.intersection(*(set(run.index) for run in points)))
    known = all("heldout_losses" in run and run["heldout_losses"].notna().all() for run in points)
    column = "heldout_losses" if known else "heldout_loss"
    losses = [np.stack([np.atleast_1d(np.asarray(run.loc[step, column], float)) for step in steps]) for run in points]
    return _Runs(points[0].loc[steps, "tokens"].to_numpy(dtype=float), np.stack(losses))


def _end(curve: pd.DataFrame) -> _Runs | None:
    """Return the last held-out losses of a reference; None where its last step has no finite loss."""
    last = curve[curve["step"] == curve["step"].max()]
    if not np.isfinite(last["heldout_loss"]).any():
        return None
    runs = _measured(curve)
    return _Runs(runs.tokens[-1:], runs.losses[:, -1:])


@dataclass(frozen=True, slots=True, kw_only=True)
class _Charges:
    """FLOPs that an arm is charged with."""

    training_per_token: float
    teacher_per_token: float
    search: float
    selection: float
    fixed_teacher: float
    """Forward passes of the teacher for a cache, in probes, and in one run of the same arm in every other space of the
    bin."""
    probed_tokens: float
    """That the arm has taken over from its own probe: they are in its training."""

    def costs(self, tokens: float) -> dict[str, float]:
        """Return what each ledger charges for a match after so many tokens."""
        parts = (self.training_per_token * tokens, self.search, self.selected(tokens), self.teacher(tokens))
        return dict(zip(LEDGERS, accumulate(parts), strict=True))

    def selected(self, tokens: float) -> float:
        """Return what the choice of the space costs an arm that matches after so many tokens, beside its training."""
        return self.selection + self.training_per_token * max(0.0, self.probed_tokens - tokens)

    def teacher(self, tokens: float) -> float:
        """Return the teacher's forward passes for a match after so many tokens."""
        beside = self.teacher_per_token * tokens if self.teacher_per_token else 0.0  # 0 * inf is no number
        return beside + self.fixed_teacher


def _in_bin(costs: pd.DataFrame, key: dict[str, str]) -> pd.Series:
    """Return which costs an arm may be charged with; the reference with its own alone."""
    in_bin: pd.Series = costs["bin"].isin([key["bin"], SHARED]) & (key["arm"] != REFERENCE or costs["arm"] == REFERENCE)
    needed = [served is None or key["bin"] in {variant[0] for variant in served} for served in costs["serves"]]
    return in_bin & np.array(needed, bool)


def _own(costs: pd.DataFrame, key: dict[str, str]) -> pd.Series:
    """Return which of these costs a variant needs itself."""
    own: pd.Series = costs["space"].isin([key["space"], SHARED])
    needed = [served is None or (key["bin"], key["space"]) in served for served in costs["serves"]]
    return _in_bin(costs, key) & own & np.array(needed, bool)


def _searched(costs: pd.DataFrame, key: dict[str, str]) -> pd.Series:
    """Return which costs are those of the search of a variant."""
    return _own(costs, key) & costs["stage"].isin(SEARCH_STAGES) & costs["arm"].isin([key["arm"], SHARED])


def _charges(costs: pd.DataFrame, key: dict[str, str]) -> _Charges:
    in_bin = _in_bin(costs, key)
    own = _own(costs, key)
    same_arm = costs["arm"] == key["arm"]
    search = costs["stage"].isin(SEARCH_STAGES)
    siblings = in_bin & ~own & same_arm
    taken_over = own & same_arm & (costs["stage"] == PROBE)
    probes = in_bin & (costs["stage"] == PROBE) & ~taken_over
    of_probes = in_bin & (costs["stage"] == "teacher") & (costs["arm"] == SHARED)

    def total(rows: pd.Series) -> float:
        return float(costs.loc[rows, "flops"].sum())

    def of_one_run(rows: pd.Series) -> float:
        # All runs of an arm in a space cost the same; one that took steps over from its probe is charged there, too.
        return float(costs[rows].groupby("space")["flops"].min().sum())

    teacher = own & same_arm & (costs["stage"] == "teacher")
    return _Charges(
        training_per_token=_per_token(costs, key),
        teacher_per_token=total(teacher) / float(costs.loc[teacher, "tokens"].sum()) if teacher.any() else 0.0,
        search=total(_searched(costs, key)),
        selection=total(in_bin & ~own & search) + of_one_run(siblings & (costs["stage"] == "training")) + total(probes),
        fixed_teacher=total(own & same_arm & (costs["stage"] == "teacher_cache"))
        + of_one_run(siblings & (costs["stage"] == "teacher"))
        + total(of_probes),
        probed_tokens=float(costs.loc[taken_over, "tokens"].sum()),
    )


def _per_token(costs: pd.DataFrame, key: dict[str, str]) -> float:
    """Return the FLOPs of a token of a student's training, which may serve all spaces of the bin."""
    found = [costs[column].isin([value] if column != "space" else [value, SHARED]) for column, value in key.items()]
    rows = costs[np.logical_and.reduce(found)]
    rows = rows[rows["stage"] == "training"]
    if rows.empty:
        raise ValueError(f"ledger: the training of {'/'.join(key.values())} is missing")
    return float(rows["flops"].sum() / rows["tokens"].sum())


def _saving(runs: _Runs, target: _Runs | None, baseline_flops: float, charges: _Charges) -> dict[str, float | str]:
    """Return the computed columns of one row of the savings."""
    tokens = float(tokens_to_match(runs.tokens, runs.mean, target.mean[:, 0])[0]) if target else np.nan
    low, high = _interval(runs, target) if target else (np.nan, np.nan)
    matched = np.isfinite(tokens)
    columns: dict[str, float | str] = {
        "num_runs": len(runs.losses),
        "target_loss": float(target.mean[0, 0]) if target else np.nan,
        "status": _status(tokens),
        "tokens_to_match": tokens if matched else np.nan,
        "tokens_to_match_low": low,
        "tokens_to_match_high": high,
        "flops_to_match": charges.training_per_token * tokens if matched else np.nan,
        "baseline_tokens": float(target.tokens[-1]) if target else np.nan,
        "baseline_flops": baseline_flops,
        "search_flops": charges.search,
        "selection_flops": charges.selected(tokens) if matched else charges.selection,
        "teacher_flops": charges.teacher(tokens) if matched else np.nan,
    }
    # Fewer tokens are the higher ratio.
    for end, at in (("", tokens if matched else np.nan), ("_low", high), ("_high", low)):
        for ledger, cost in charges.costs(at).items():
            defined = matched and (cost > 0 or (end == "_high" and tokens > 0))
            ratio = baseline_flops / cost if cost else np.inf
            columns[f"ratio_{ledger}{end}"] = ratio if defined else np.nan
    return columns


def _status(tokens: float) -> str:
    if np.isnan(tokens):
        return NO_BASELINE
    if np.isinf(tokens):
        return NOT_REACHED
    return REACHED if tokens else AT_STEP_0


def _interval(runs: _Runs, target: _Runs) -> tuple[float, float]:
    """Return between which tokens a match lies in 95% of resampled sequences and means over seeds."""
    num_sequences = runs.losses.shape[2]
    if target.losses.shape[2] != num_sequences:
        raise ValueError("curves: an arm and its reference were measured on different numbers of held-out sequences")
    if num_sequences == len(runs.losses) == len(target.losses) == 1:
        return np.nan, np.nan
    rng = np.random.default_rng(0)
    draws = rng.multinomial(num_sequences, np.full(num_sequences, 1 / num_sequences), size=NUM_RESAMPLES)
    sequences = draws / num_sequences
    targets = target.resampled(sequences, rng)[:, 0]
    tokens = tokens_to_match(runs.tokens, runs.resampled(sequences, rng), targets)
    tail = (1 - CONFIDENCE) / 2
    # Quantiles between a number and infinity are no numbers: take the resample at that place.
    low, high = np.quantile(tokens, [tail, 1 - tail], method="inverted_cdf")
    return float(low), float(high)
