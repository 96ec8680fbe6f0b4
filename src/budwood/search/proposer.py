"""New members of a space inside a bin: drawn, changed, crossed, and led on by a model of the losses so far."""

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial

import numpy as np

from budwood.arch.balanced import balanced_members
from budwood.arch.bins import ParameterBin
from budwood.arch.sampling import sample
from budwood.arch.selection import Selection
from budwood.arch.space import SearchSpace
from budwood.search.candidate import Candidate, Evaluation, Origin
from budwood.search.operators import constrain, crossover, mutate, switch_levels
from budwood.search.settings import SearchSettings
from budwood.search.surrogate import Surrogate

Make = Callable[[], Candidate | None]
"""Makes a member inside the bin, or none where it has to be tried again."""

MAX_REDRAWS = 500
"""Offspring redrawn until one is new and in the bin; past this the operator falls back to a random member."""
MAX_STEPS = 20
"""That a screened candidate takes from its parent."""
_DRAWS_PER_NEIGHBOR = 4
"""Of a screened candidate, for each that is wanted: where most were read before, few are new."""


@dataclass(slots=True)
class Proposer:
    """Proposes candidates that were never proposed before; what all strategies share.

    Its state depends only on the settings and on what it was asked for and learnt, so replaying a history restores it.
    """

    space: SearchSpace
    parameter_bin: ParameterBin
    settings: SearchSettings
    num_tried: int = 0
    """Members made for the current generation."""
    num_accepted: int = 0
    """Of these, those that could have been read: they were new and inside the bin."""
    _rng: np.random.Generator = field(init=False)
    _balanced: Iterator[Selection] = field(init=False)
    _seen: set[str] = field(init=False, default_factory=set)
    _surrogate: Surrogate = field(init=False, default_factory=Surrogate)

    def __post_init__(self) -> None:
        """Check the bin and seed the generator.

        Raises:
            ValueError: no member of the space lies in the bin.
        """
        self.space.require_reachable(self.parameter_bin)
        self._rng = np.random.default_rng(self.settings.seed)
        self._balanced = iter(balanced_members(self.space, self.parameter_bin, self.settings.num_balanced, self._rng))

    @property
    def acceptance(self) -> float:
        """Share of the members made for the current generation that could have been read; NaN before the first."""
        return self.num_accepted / self.num_tried if self.num_tried else math.nan

    def generation(self, changed: Sequence[tuple[int, Sequence[Make]]], drawn: tuple[int, Make]) -> list[Candidate]:
        """Return the candidates of a generation: so many new ones of each kind, or fewer where the bin has no more.

        Args:
            changed: numbers of candidates that come from others, and what makes them, each where those before it find
                nothing new; with `screening` a model of the losses leads them on.
            drawn: number of candidates that are drawn, and what draws them.

        Raises:
            ValueError: the bin has too few members for the first generation.
        """
        self.num_tried = self.num_accepted = 0
        count, draw = drawn
        wanted = [(makes, self.settings.screening) for times, makes in changed for _ in range(times)]
        wanted += [([draw], 1)] * count
        generation = list[Candidate]()
        for makes, num_proposals in wanted:
            candidate = self._new(makes, num_proposals)
            if candidate is None:
                break
            generation.append(candidate)
        if len(generation) < len(wanted) and len(generation) == len(self._seen):
            raise ValueError(
                f"the bin {self.parameter_bin} has too few sub-networks for {self.settings.num_evaluations:,} "
                f"evaluations: {len(self._seen):,} found; lower the population, the epochs or the space's alignment, "
                "or widen the bin"
            )
        return generation

    def initial(self) -> Candidate:
        """Return a balanced member while there are any left, then draw one."""
        balanced = next(self._balanced, None)
        if balanced is None:
            return self._draw("initial")
        self.num_tried += 1
        return Candidate(balanced, "initial")

    def random(self) -> Candidate:
        """Draw a member."""
        return self._draw("random")

    def mutant(self, parent: Selection, *, may_switch: bool = True) -> Candidate | None:
        """Change a parent in one dimension, or where levels may switch in two."""
        return self._constrain(self._changed(parent, may_switch=may_switch), "mutation")

    def crossed(self, first: Selection, second: Selection) -> Candidate | None:
        """Cross two parents of equal depth."""
        return self._constrain(crossover(first, second, self.space, self._rng), "crossover")

    def pick(self, count: int) -> int:
        """Draw a place among so many."""
        return int(self._rng.integers(count))

    def passes(self) -> bool:
        """Draw whether an offspring passes through its operator."""
        gated = self.settings.probability_reading == "gate"
        return not gated or bool(self._rng.random() < self.settings.probability)

    def learn(
        self, results: Sequence[tuple[Candidate, Evaluation]], dropped: Sequence[tuple[Candidate, float]]
    ) -> None:
        """Take losses into the model of them, where there is one."""
        if self.settings.screening > 1:
            losses = [(candidate, evaluation.loss) for candidate, evaluation in results] + list(dropped)
            sizes = [candidate.selection.architecture(self.space.teacher) for candidate, _ in losses]
            self._surrogate.learn(sizes, [loss for _, loss in losses])

    def _draw(self, origin: Origin) -> Candidate:
        self.num_tried += 1
        return Candidate(sample(self.space, self.parameter_bin, self._rng, self.settings.sampling), origin)

    def _changed(self, parent: Selection, *, may_switch: bool = True) -> Selection | None:
        exchange = self.settings.exchange
        if may_switch and self.settings.level_switch and self._rng.random() < self.settings.level_switch:
            return switch_levels(parent, self.space, self.parameter_bin, self._rng, exchange=exchange)
        return mutate(parent, self.space, self._rng, exchange=exchange)

    def _constrain(self, child: Selection | None, origin: Origin) -> Candidate | None:
        self.num_tried += 1
        if child is None:
            return None
        kept = constrain(child, self.space, self.parameter_bin, self._rng, self.settings.constraint)
        return None if kept is None else Candidate(kept, origin)

    def _new(self, makes: Sequence[Make], count: int) -> Candidate | None:
        """Return a new candidate of the first that finds any, or one that is drawn; None where drawing finds none."""
        found = (self._propose(make, count) for make in makes)
        proposals = next(filter(None, found), None) or self._propose(self.random, 1)
        if not proposals:
            return None
        candidate = self._screen(proposals) if count > 1 else proposals[0]
        self._seen.add(candidate.key)
        return candidate

    def _screen(self, proposals: Sequence[Candidate]) -> Candidate:
        """Return the most promising proposal, or what it becomes in steps that each promise more.

        How much is hoped of what is uncertain differs from one candidate to the next, so that a generation spreads.
        """
        width, count = abs(self._rng.normal()), self.settings.screening
        best, bound = self._most_promising(proposals, width)
        for _ in range(MAX_STEPS):
            nearby = self._propose(partial(self._neighbor, best), count, _DRAWS_PER_NEIGHBOR * count)
            if not nearby:
                break
            better, lower = self._most_promising(nearby, width)
            if lower >= bound:
                break
            best, bound = better, lower
        self._surrogate.believe(best.selection.architecture(self.space.teacher))
        return best

    def _neighbor(self, candidate: Candidate) -> Candidate | None:
        """Change a candidate, which keeps its origin."""
        return self._constrain(self._changed(candidate.selection), candidate.origin)

    def _most_promising(self, proposals: Sequence[Candidate], width: float) -> tuple[Candidate, float]:
        sizes = [proposal.selection.architecture(self.space.teacher) for proposal in proposals]
        place, bound = self._surrogate.most_promising(sizes, width)
        return proposals[place], bound

    def _propose(self, make: Make, count: int, draws: int = MAX_REDRAWS) -> list[Candidate]:
        """Return new members inside the bin; fewer, or none, where drawing finds no more."""
        proposals: dict[str, Candidate] = {}
        for _ in range(draws):
            candidate = make()
            if candidate and candidate.key not in self._seen:
                proposals.setdefault(candidate.key, candidate)
            if len(proposals) == count:
                break
        self.num_accepted += len(proposals)
        return list(proposals.values())
