"""Which candidates to evaluate next: bin-constrained evolution (paper, Algorithm 1), and what it is compared with."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, field

from budwood.arch.selection import Selection
from budwood.search.candidate import Candidate, Evaluation
from budwood.search.proposer import Proposer


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


@dataclass(slots=True)
class Strategy(ABC):
    """Returns generation after generation of candidates that it never returned before, and takes their losses."""

    proposer: Proposer
    """What makes candidates: it has the space, the bin and the settings."""
    elites: list[Elite] = field(default_factory=list)
    """The best candidates so far, lowest loss first; parents of the next generation."""

    @abstractmethod
    def ask(self) -> list[Candidate]:
        """Return the next generation's new candidates.

        Raises:
            ValueError: the bin has too few members.
        """

    def tell(
        self, results: Sequence[tuple[Candidate, Evaluation]], dropped: Sequence[tuple[Candidate, float]] = ()
    ) -> None:
        """Take the losses of a generation, and keep the best of it and of the elites.

        Args:
            results: candidates with finite losses on equal text; those that a race dropped are not among them.
            dropped: these, with what their losses would be on all text as far as that is known.

        Raises:
            ValueError: no candidate of the first generation has a finite loss.
        """
        self.elites = self.survivors(self._ranked(results))
        self.proposer.learn(results, dropped)

    def survivors(self, pool: list[Elite]) -> list[Elite]:
        """Return those of some candidates, ranked by loss, that become elites."""
        return pool[: self.proposer.settings.num_elites]

    def metrics(self) -> dict[str, float]:
        """Return the best loss, and the share of tries that gave candidates of the last generation."""
        return {"best_loss": self.elites[0].loss, "acceptance": self.proposer.acceptance}

    @property
    def front(self) -> list[tuple[dict[str, float], Selection]]:
        """Candidates that no other beats in all objectives, with these by name, lowest loss first; else empty."""
        return []

    def _ranked(self, results: Sequence[tuple[Candidate, Evaluation]]) -> list[Elite]:
        """Return elites and evaluated candidates together, the lowest loss first; equal ones by key."""
        pool = [*self.elites, *(Elite(candidate, evaluation) for candidate, evaluation in results)]
        if not pool:
            raise ValueError(
                "no candidate of the first generation has a finite loss: check the weights and the precision of the "
                "teacher, the text of the split `selection`, and search.fitness"
            )
        return sorted(pool, key=lambda elite: (elite.loss, elite.key))


class Evolution(Strategy):
    """Mutants and crossovers of the elites, and random members; the best of all are the next elites."""

    def ask(self) -> list[Candidate]:
        """Return the next generation's new candidates."""
        settings, proposer = self.proposer.settings, self.proposer
        if not self.elites:
            return proposer.generation([], (settings.population, proposer.initial))
        num_mutants, num_crossovers, num_randoms = settings.offspring
        crossing = [self._crossed] if settings.crossover_parents == "any" else [self._crossed, self._mutant]
        return proposer.generation(
            [(num_mutants, [self._mutant]), (num_crossovers, crossing)], (num_randoms, proposer.random)
        )

    def _mutant(self) -> Candidate | None:
        parent = self.elites[self.proposer.pick(len(self.elites))]
        return self.proposer.mutant(parent.selection) if self.proposer.passes() else None

    def _crossed(self) -> Candidate | None:
        """Cross two elites of equal depth; where there are none, mutate."""
        parents = [elite for elite in self.elites if self._partners(elite)] or self.elites
        if self.proposer.settings.crossover_parents == "any":
            parents = self.elites
        parent = parents[self.proposer.pick(len(parents))]
        if not self.proposer.passes():
            return None
        partners = self._partners(parent)
        if not partners:
            return self.proposer.mutant(parent.selection, may_switch=False)
        return self.proposer.crossed(parent.selection, partners[self.proposer.pick(len(partners))].selection)

    def _partners(self, parent: Elite) -> list[Elite]:
        depth = len(parent.selection.layers)
        return [other for other in self.elites if len(other.selection.layers) == depth and other is not parent]


class RandomSearch(Strategy):
    """Every generation is drawn again."""

    def ask(self) -> list[Candidate]:
        """Return the next generation's new candidates."""
        draw = self.proposer.random if self.elites else self.proposer.initial
        return self.proposer.generation([], (self.proposer.settings.population, draw))


class LocalSearch(Strategy):
    """Every generation are mutants of the best candidate so far."""

    def ask(self) -> list[Candidate]:
        """Return the next generation's new candidates."""
        proposer, population = self.proposer, self.proposer.settings.population
        if not self.elites:
            return proposer.generation([], (population, proposer.initial))
        return proposer.generation([(population, [self._mutant])], (0, proposer.random))

    def _mutant(self) -> Candidate | None:
        return self.proposer.mutant(self.elites[0].selection)
