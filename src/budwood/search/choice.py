"""The choice of the winner among finalists, on text that no stage of the search has read."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy import stats

CONFIDENCE = 0.95

Interval = tuple[float, float]


@dataclass(frozen=True, slots=True, kw_only=True)
class Choice:
    """Who won, and how sure that is; intervals are of 95% confidence, sequences taken as drawn."""

    winner: int
    interval: Interval
    """Of the winner's mean loss. It is the lowest of a few, so the truth lies rather above its middle than below."""
    runner_up: int | None
    lead: float
    """Mean loss of the runner-up minus that of the winner; NaN without one."""
    lead_interval: Interval
    """Of that difference, from losses paired by sequence. If it contains 0, the text does not distinguish the two."""


def choose(losses: Sequence[Sequence[float]]) -> Choice:
    """Choose the finalist with the lowest mean loss; the first of equals wins, and NaN is worse than any number.

    A search picks the candidate that its own text flatters most; a second look takes that away.

    Args:
        losses: of every finalist on the same sequences.

    Raises:
        ValueError: no finalist has a finite loss.
    """
    table = np.array(losses, dtype=float)
    means = table.mean(1)
    ranked = sorted(np.flatnonzero(np.isfinite(means)).tolist(), key=lambda place: (means[place], place))
    if not ranked:
        raise ValueError(f"none of {len(table)} finalists has a finite loss on the text of the choice")
    winner, runner_up = ranked[0], ranked[1] if len(ranked) > 1 else None
    gaps = table[runner_up] - table[winner] if runner_up is not None else np.full(table.shape[1], math.nan)
    return Choice(
        winner=winner,
        interval=_interval(table[winner]),
        runner_up=runner_up,
        lead=float(gaps.mean()),
        lead_interval=_interval(gaps),
    )


def _interval(values: np.ndarray) -> Interval:
    """Return Student's interval of the mean; NaN for a single value."""
    if len(values) == 1:
        return math.nan, math.nan
    half = stats.t.ppf((1 + CONFIDENCE) / 2, len(values) - 1) * values.std(ddof=1) / math.sqrt(len(values))
    return float(values.mean() - half), float(values.mean() + half)
