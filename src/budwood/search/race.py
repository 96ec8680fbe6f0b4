"""Races: all candidates read a little text, the promising ones more, the best all of it.

Every candidate reads the same sequences in the same order, so losses are compared in pairs: what makes a sequence hard
is hard for all, and the difference of two candidates is known long before the loss of either is.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

# Shape legend: M candidates, N sequences.

ReadLosses = Callable[[Sequence[int], slice], Sequence[Sequence[float]]]
"""Takes the numbers of candidates and sequences, and returns the losses of each candidate on them."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RaceSettings:
    """How much is read in every stage, and when a candidate is out."""

    stages: tuple[int, ...]
    """Sequences that a candidate has read at the end of every stage."""
    deviations: float = 2.0
    """A candidate is out when it trails the last one that would be kept by more standard errors of their difference."""

    def __post_init__(self) -> None:
        """Refuse stages in which nothing is read or nothing can be compared.

        Raises:
            ValueError: stages do not grow, the first of several has one sequence, or `deviations` is not positive.
        """
        if not self.stages or any(after <= before for before, after in pairwise((0, *self.stages))):
            raise ValueError(f"stages must grow from 1 sequence on, got {list(self.stages)}")
        if len(self.stages) > 1 and self.stages[0] < 2:  # noqa: PLR2004
            raise ValueError("the first stage of a race needs 2 sequences: one says nothing of its own uncertainty")
        if not self.deviations > 0:
            raise ValueError(f"deviations must be positive, got {self.deviations}")


def race(
    read: ReadLosses, num_candidates: int, settings: RaceSettings, num_kept: int, rivals: Sequence[Sequence[float]] = ()
) -> list[list[float]]:
    """Let candidates read stage by stage, and drop those that are behind.

    Args:
        read: called stage after stage, with the candidates that are left.
        num_candidates: M.
        settings: the stages.
        num_kept: how many of candidates and rivals together are looked for.
        rivals: losses of candidates of earlier races that have read everything.

    Returns:
        for every candidate its losses on the sequences that it read; those that read less than all were dropped.
    """
    losses: list[list[float]] = [[] for _ in range(num_candidates)]
    racing = list(range(num_candidates))
    for start, stop in pairwise((0, *settings.stages)):
        if not racing:
            break
        for candidate, more in zip(racing, read(racing, slice(start, stop)), strict=True):
            losses[candidate] += more
        compared = [losses[candidate] for candidate in racing] + [list(rival[:stop]) for rival in rivals]
        staying = still_in(np.array(compared), num_kept, settings.deviations)
        racing = [candidate for candidate, stays in zip(racing, staying, strict=False) if stays]
    return losses


def still_in(losses: NDArray[np.float64], num_kept: int, deviations: float) -> NDArray[np.bool_]:
    """Return [M] which candidates may yet be among the best.

    The standard error of a difference is pooled over candidates, because single ones are uncertain on few sequences.

    Args:
        losses: [M, N]; a row with a NaN or an infinity is out.
        num_kept: how many are looked for.
        deviations: standard errors behind the last of them at which a candidate is out.
    """
    means = losses.mean(1)
    finite: NDArray[np.bool_] = np.isfinite(means)
    num_finite, num_sequences = int(finite.sum()), losses.shape[1]
    if num_finite <= num_kept or num_sequences == 1:
        return finite
    line = np.argsort(np.where(finite, means, np.inf), kind="stable")[num_kept - 1]
    differences = losses[finite] - losses[line]
    variance = differences.var(axis=1, ddof=1).sum() / (num_finite - 1)
    behind = np.where(finite, means - means[line], np.inf)
    staying: NDArray[np.bool_] = behind <= deviations * np.sqrt(variance / num_sequences)
    return staying
