"""Candidates that may become parents."""

from collections.abc import Sequence
from dataclasses import dataclass

from budwood.arch.selection import Selection
from budwood.search.candidate import Candidate, Evaluation


@dataclass(frozen=True, slots=True)
class Elite:
    """A candidate with its losses, which is not evaluated again."""

    candidate: Candidate
    evaluation: Evaluation

    @property
    def loss(self) -> float:
        """Mean loss of its evaluation."""
        return self.evaluation.loss

    @property
    def key(self) -> str:
        """Canonical key of its genes."""
        return self.candidate.key

    @property
    def selection(self) -> Selection:
        """What it keeps of the teacher."""
        return self.candidate.selection


def ranked(elites: Sequence[Elite], results: Sequence[tuple[Candidate, Evaluation]]) -> list[Elite]:
    """Return elites and evaluated candidates together, the lowest loss first; equal ones by key.

    Raises:
        ValueError: there is nothing to go on with.
    """
    pool = [*elites, *(Elite(candidate, evaluation) for candidate, evaluation in results)]
    if not pool:
        raise ValueError(
            "no candidate of the first generation has a finite loss: check the weights and the precision of the "
            "teacher, the text of the split `selection`, and search.fitness"
        )
    return sorted(pool, key=lambda elite: (elite.loss, elite.key))
