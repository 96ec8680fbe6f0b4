"""Bin-constrained evolution (paper, Algorithm 1)."""

from collections.abc import Sequence
from dataclasses import dataclass, field

from budwood.search.candidate import Candidate, Evaluation
from budwood.search.elite import Elite, ranked
from budwood.search.proposer import Proposer


@dataclass(slots=True)
class Evolution:
    """Mutants and crossovers of the elites, and random members; the best of all are the next elites."""

    proposer: Proposer
    elites: list[Elite] = field(default_factory=list)

    @property
    def front(self) -> tuple[()]:
        """Empty: only the loss counts."""
        return ()

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

    def tell(
        self, results: Sequence[tuple[Candidate, Evaluation]], dropped: Sequence[tuple[Candidate, float]] = ()
    ) -> None:
        """Take the losses of a generation and keep the best of it and of the elites."""
        self.elites = ranked(self.elites, results)[: self.proposer.settings.num_elites]
        self.proposer.learn(results, dropped)

    def metrics(self) -> dict[str, float]:
        """Return the best loss, and the share of tries that gave candidates of the last generation."""
        return {"best_loss": self.elites[0].loss, "acceptance": self.proposer.acceptance}

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
