"""What evolution is compared with: draws alone, and steps from the best candidate."""

from collections.abc import Sequence
from dataclasses import dataclass, field

from budwood.search.candidate import Candidate, Evaluation
from budwood.search.elite import Elite, ranked
from budwood.search.proposer import Proposer


@dataclass(slots=True)
class RandomSearch:
    """Every generation is drawn again."""

    proposer: Proposer
    elites: list[Elite] = field(default_factory=list)

    @property
    def front(self) -> tuple[()]:
        """Empty: only the loss counts."""
        return ()

    def ask(self) -> list[Candidate]:
        """Return the next generation's new candidates."""
        draw = self.proposer.random if self.elites else self.proposer.initial
        return self.proposer.generation([], (self.proposer.settings.population, draw))

    def tell(
        self, results: Sequence[tuple[Candidate, Evaluation]], dropped: Sequence[tuple[Candidate, float]] = ()
    ) -> None:
        """Take the losses of a generation and keep the best so far; nothing is learnt from those that were dropped."""
        del dropped
        self.elites = ranked(self.elites, results)[: self.proposer.settings.num_elites]

    def metrics(self) -> dict[str, float]:
        """Return the best loss, and the share of tries that gave candidates of the last generation."""
        return {"best_loss": self.elites[0].loss, "acceptance": self.proposer.acceptance}


@dataclass(slots=True)
class LocalSearch:
    """Every generation are mutants of the best candidate so far."""

    proposer: Proposer
    elites: list[Elite] = field(default_factory=list)

    @property
    def front(self) -> tuple[()]:
        """Empty: only the loss counts."""
        return ()

    def ask(self) -> list[Candidate]:
        """Return the next generation's new candidates."""
        proposer, population = self.proposer, self.proposer.settings.population
        if not self.elites:
            return proposer.generation([], (population, proposer.initial))
        return proposer.generation([(population, [self._mutant])], (0, proposer.random))

    def tell(
        self, results: Sequence[tuple[Candidate, Evaluation]], dropped: Sequence[tuple[Candidate, float]] = ()
    ) -> None:
        """Take the losses of a generation and keep the best so far."""
        self.elites = ranked(self.elites, results)[: self.proposer.settings.num_elites]
        self.proposer.learn(results, dropped)

    def metrics(self) -> dict[str, float]:
        """Return the best loss, and the share of tries that gave candidates of the last generation."""
        return {"best_loss": self.elites[0].loss, "acceptance": self.proposer.acceptance}

    def _mutant(self) -> Candidate | None:
        return self.proposer.mutant(self.elites[0].selection)
