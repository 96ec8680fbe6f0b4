"""Which candidates to evaluate next: strategies behind one ask and tell protocol."""

from collections.abc import Callable, Mapping, Sequence
from typing import Protocol

from budwood.arch.bins import ParameterBin
from budwood.arch.selection import Selection
from budwood.arch.space import SearchSpace
from budwood.search.baselines import LocalSearch, RandomSearch
from budwood.search.candidate import Candidate, Evaluation
from budwood.search.elite import Elite
from budwood.search.evolution import Evolution
from budwood.search.pareto import ParetoEvolution
from budwood.search.proposer import Proposer
from budwood.search.settings import SearchSettings, StrategyName


class Strategy(Protocol):
    """Returns generation after generation of candidates that it never returned before, and takes their losses."""

    @property
    def proposer(self) -> Proposer:
        """What makes candidates: it has the space, the bin and the settings."""
        ...

    @property
    def elites(self) -> Sequence[Elite]:
        """The best candidates so far, lowest loss first; parents of the next generation."""
        ...

    @property
    def front(self) -> Sequence[tuple[dict[str, float], Selection]]:
        """Candidates that no other beats in all objectives, with these by name, lowest loss first; else empty."""
        ...

    def ask(self) -> list[Candidate]:
        """Return the next generation's new candidates.

        Raises:
            ValueError: the bin has too few members.
        """
        ...

    def tell(
        self, results: Sequence[tuple[Candidate, Evaluation]], dropped: Sequence[tuple[Candidate, float]] = ()
    ) -> None:
        """Take the losses of a generation.

        Args:
            results: candidates with finite losses on equal text; those that a race dropped are not among them.
            dropped: these, with what their losses would be on all text as far as that is known.

        Raises:
            ValueError: no candidate of the first generation has a finite loss.
        """
        ...

    def metrics(self) -> Mapping[str, float]:
        """Return what is worth tracking of the last generation, by name: `best_loss`, `acceptance` and others."""
        ...


STRATEGIES: Mapping[StrategyName, Callable[[Proposer], Strategy]] = {
    "evolution": Evolution,
    "random": RandomSearch,
    "local": LocalSearch,
    "pareto": ParetoEvolution,
}


def open_strategy(space: SearchSpace, parameter_bin: ParameterBin, settings: SearchSettings) -> Strategy:
    """Return the strategy that settings name.

    Raises:
        ValueError: no member of the space lies in the bin.
    """
    return STRATEGIES[settings.strategy](Proposer(space, parameter_bin, settings))
