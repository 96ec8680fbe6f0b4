"""What evolution is compared with: draws alone, and steps from the best candidate."""

from collections.abc import Sequence
from dataclasses import dataclass

from budwood.search.candidate import Candidate, Evaluation
from budwood.search.elite import ranked
from budwood.search.evolution import Evolution


@dataclass(slots=True)
class RandomSearch(Evolution):
    """Every generation is drawn again."""

    def ask(self) -> list[Candidate]:
        """Return the next generation's new candidates."""
        draw = self.proposer.random if self.elites else self.proposer.initial
        return self.proposer.generation([], (self.proposer.settings.population, draw))

    def tell(
        self, results: Sequence[tuple[Candidate, Evaluation]], dropped: Sequence[tuple[Candidate, float]] = ()
    ) -> None:
        """Take the losses of a generation and keep the best so far; nothing is learnt from them."""
        del dropped
        self.elites = ranked(self.elites, results)[: self.proposer.settings.num_elites]


@dataclass(slots=True)
class LocalSearch(Evolution):
    """Every generation are mutants of the best candidate so far."""

    def ask(self) -> list[Candidate]:
        """Return the next generation's new candidates."""
        proposer, population = self.proposer, self.proposer.settings.population
        if not self.elites:
            return proposer.generation([], (population, proposer.initial))
        return proposer.generation([(population, [self._mutant])], (0, proposer.random))

    def _mutant(self) -> Candidate | None:
        return self.proposer.mutant(self.elites[0].selection)
