"""Which candidates to evaluate next: the paper's Algorithm 1 behind an ask / tell door."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Literal

import numpy as np

from budwood.arch.bins import ParameterBin
from budwood.arch.sampling import Sampling, sample
from budwood.arch.selection import Selection
from budwood.arch.space import SearchSpace
from budwood.search.candidate import Candidate, Evaluation, Origin
from budwood.search.operators import Constraint, constrain, crossover, mutate, switch_levels
from budwood.search.surrogate import Surrogate

StrategyName = Literal["evolution", "random", "local", "pareto"]
Objective = Literal["parameters", "flops", "latency"]
ProbabilityReading = Literal["gate", "share"]

MAX_REDRAWS = 500
"""Offspring redrawn until one is new and in the bin; past this the operator falls back to a random member."""
MAX_STEPS = 20
"""That a screened candidate takes from its parent."""
_DRAWS_PER_NEIGHBOR = 4
"""Of a screened candidate, for each that is wanted: where most were read before, few are new."""


@dataclass(frozen=True, slots=True, kw_only=True)
class EvolutionSettings:
    """Sizes and probabilities of Algorithm 1; the defaults are the paper's where it prints them."""

    strategy: StrategyName = "evolution"
    """`random`: every generation is drawn anew; `local`: every generation are mutants of the best candidate so far: of
    the sizes, both use the population, the epochs and the number of elites only. `pareto`: evolution in which elites
    are the candidates that `objectives` speak for as well; see `budwood.search.pareto`."""
    objectives: tuple[Objective, ...] = ()
    """What `pareto` weighs the loss against: parameters, FLOPs of a forward pass, its latency on this machine."""
    population: int = 50
    epochs: int = 100
    num_elites: int = 10
    num_mutants: int = 20
    num_crossovers: int = 20
    num_randoms: int = 10
    probability: float = 0.2
    """Mutation and crossover probability."""
    level_switch: float = 0.0
    """Share of mutants in which another layer's neurons pay for the dimension that changes, so that their number of
    parameters stays; not in the paper."""
    screening: int = 1
    """Proposals for every step in which a model of the losses so far leads a mutant or a crossover on before it is
    read; 1: none, as in the paper. See `budwood.search.surrogate`."""
    probability_reading: ProbabilityReading = "gate"
    """`gate`: an offspring passes through its operator with this probability at each try, and is tried until it is
    new; `share`: this share of the population are mutants and as many crossovers, the rest random."""
    sampling: Sampling = "constructive"
    constraint: Constraint = "repair"
    seed: int = 42

    def __post_init__(self) -> None:
        """Refuse sizes that the algorithm cannot run with.

        Raises:
            ValueError: a size or a probability is out of range, there are more elites than candidates, a generation's
                parts do not make a population, or objectives are given to a strategy that has none, or the reverse.
        """
        if min(self.population, self.num_elites) < 1 or min(self.epochs, *self._parts()) < 0:
            raise ValueError("population and num_elites must be at least 1, epochs and offspring counts at least 0")
        if self.num_elites > self.population:
            raise ValueError(f"num_elites={self.num_elites} must not exceed population={self.population}")
        if not 0 < self.probability <= 1:
            raise ValueError(f"probability must lie in (0, 1], got {self.probability}")
        if self.screening < 1:
            raise ValueError(f"screening must be at least 1, got {self.screening}")
        if not 0 <= self.level_switch <= 1:
            raise ValueError(f"level_switch must lie in [0, 1], got {self.level_switch}")
        if bool(self.objectives) != (self.strategy == "pareto"):
            raise ValueError("strategy pareto needs objectives (parameters, flops, latency), and no other takes any")
        if (
            self.strategy in {"evolution", "pareto"}
            and self.probability_reading == "gate"
            and sum(self._parts()) != self.population
        ):
            parts = " + ".join(map(str, self._parts()))
            raise ValueError(
                f"num_mutants + num_crossovers + num_randoms must make a population: {parts} is not {self.population}"
            )

    def _parts(self) -> tuple[int, int, int]:
        return self.num_mutants, self.num_crossovers, self.num_randoms

    @property
    def offspring(self) -> dict[Origin, int]:
        """Number of new candidates of each kind in a generation."""
        if self.strategy == "random":
            return {"random": self.population}
        if self.strategy == "local":
            return {"mutation": self.population}
        if self.probability_reading == "gate":
            mutants, crossovers, randoms = self._parts()
        else:
            mutants = crossovers = round(self.probability * self.population)
            randoms = max(0, self.population - mutants - crossovers)
        return {"mutation": mutants, "crossover": crossovers, "random": randoms}

    @property
    def num_evaluations(self) -> int:
        """Candidates evaluated in a whole search: 5,050 with the paper's sizes."""
        return self.population + self.epochs * sum(self.offspring.values())


@dataclass(frozen=True, slots=True)
class Elite:
    """A candidate that may become a parent."""

    candidate: Candidate
    evaluation: Evaluation

    @property
    def loss(self) -> float:
        """Of its evaluation."""
        return self.evaluation.loss


@dataclass(slots=True)
class Evolution:
    """Bin-constrained evolution (paper, Algorithm 1), and its two baselines.

    `ask` returns candidates that were never asked before, `tell` takes their losses. Elites keep the loss they were
    given and are not evaluated again. The state depends only on the settings and on what was told, so replaying a
    history restores it.
    """

    space: SearchSpace
    parameter_bin: ParameterBin
    settings: EvolutionSettings
    epoch: int = -1
    """Generation last asked for; 0 is the initial population."""
    acceptance: float = math.nan
    """Share of the proposals made for it that could have been read: no others were new members inside the bin."""
    _rng: np.random.Generator = field(init=False)
    _seen: set[str] = field(init=False, default_factory=set)
    _elites: list[Elite] = field(init=False, default_factory=list)
    _proposals: int = field(init=False, default=0)
    _accepted: int = field(init=False, default=0)
    _surrogate: Surrogate = field(init=False, default_factory=Surrogate)

    def __post_init__(self) -> None:
        """Check the bin and seed the generator.

        Raises:
            ValueError: no member of the space lies in the bin.
        """
        self.space.require_reachable(self.parameter_bin)
        self._rng = np.random.default_rng(self.settings.seed)

    @property
    def done(self) -> bool:
        """Whether all generations were asked for."""
        return self.epoch >= self.settings.epochs

    @property
    def elites(self) -> list[tuple[float, Selection]]:
        """The best candidates so far with their losses, best first."""
        return [(elite.loss, elite.candidate.selection) for elite in self._elites]

    @property
    def elite_keys(self) -> list[str]:
        """Canonical keys of the elites, best first."""
        return [elite.candidate.key for elite in self._elites]

    def ask(self) -> list[Candidate]:
        """Return the next generation's new candidates."""
        self.epoch += 1
        self._proposals = self._accepted = 0
        candidates = self._generation()
        self.acceptance = self._accepted / self._proposals
        return candidates

    def _generation(self) -> list[Candidate]:
        if self.epoch == 0:
            return [self._new(self._random, "initial") for _ in range(self.settings.population)]
        makers: dict[Origin, Callable[[], Selection | None]] = {
            "mutation": self._mutant,
            "crossover": self._crossed,
            "random": self._random,
        }
        return [
            self._new(makers[origin], origin) for origin, count in self.settings.offspring.items() for _ in range(count)
        ]

    def tell(
        self, results: Sequence[tuple[Candidate, Evaluation]], dropped: Sequence[tuple[Candidate, float]] = ()
    ) -> None:
        """Take the losses of a generation and keep the best of it and of the elites.

        Args:
            results: candidates with finite losses on equal text; those that a race dropped are not among them.
            dropped: these, with what their losses would be on all text as far as that is known.

        Raises:
            ValueError: there is nothing to go on with.
        """
        pool = self._elites + [Elite(candidate, evaluation) for candidate, evaluation in results]
        if not pool:
            raise ValueError("no candidate of the first generation has a finite loss: check the teacher and the text")
        self._elites = self._survivors(sorted(pool, key=lambda elite: (elite.loss, elite.candidate.key)))
        if self.settings.screening > 1:
            told = [(candidate, evaluation.loss) for candidate, evaluation in results] + list(dropped)
            sizes = [candidate.selection.architecture(self.space.teacher) for candidate, _ in told]
            self._surrogate.learn(sizes, [loss for _, loss in told])

    def _survivors(self, pool: list[Elite]) -> list[Elite]:
        """Return those that go on, best first, of a pool in that order."""
        return pool[: self.settings.num_elites]

    def _new(self, make: Callable[[], Selection | None], origin: Origin) -> Candidate:
        screened = self.settings.screening > 1 and origin in {"mutation", "crossover"}
        wanted = self.settings.screening if screened else 1
        proposals = self._propose(make, origin, wanted) or self._propose(self._random, "random", 1)
        if proposals:
            chosen = self._screen(proposals) if screened else proposals[0]
            self._seen.add(chosen.key)
            return chosen
        raise ValueError(
            f"the bin {self.parameter_bin} holds too few sub-networks for {self.settings.num_evaluations:,} "
            f"evaluations: {len(self._seen):,} found; lower the population or the epochs, or widen the bin"
        )

    def _screen(self, proposals: Sequence[Candidate]) -> Candidate:
        """Return the most promising proposal, or what it becomes in steps that each promise more.

        How much is hoped of what is uncertain differs from one candidate to the next, so that a generation spreads.
        """
        width = abs(self._rng.normal())
        best, bound = self._most_promising(proposals, width)
        for _ in range(MAX_STEPS):
            neighbor, count = partial(self._neighbor, best.selection), self.settings.screening
            nearby = self._propose(neighbor, best.origin, count, _DRAWS_PER_NEIGHBOR * count)
            if not nearby:
                break
            better, lower = self._most_promising(nearby, width)
            if lower >= bound:
                break
            best, bound = better, lower
        self._surrogate.believe(best.selection.architecture(self.space.teacher))
        return best

    def _most_promising(self, proposals: Sequence[Candidate], width: float) -> tuple[Candidate, float]:
        sizes = [proposal.selection.architecture(self.space.teacher) for proposal in proposals]
        place, bound = self._surrogate.most_promising(sizes, width)
        return proposals[place], bound

    def _propose(
        self, make: Callable[[], Selection | None], origin: Origin, count: int, draws: int = MAX_REDRAWS
    ) -> list[Candidate]:
        """Return new members inside the bin; fewer, or none, where drawing finds no more."""
        proposals: dict[str, Candidate] = {}
        for _ in range(draws):
            child = make()
            candidate = None if child is None else Candidate(child, origin)
            if candidate and candidate.key not in self._seen:
                proposals.setdefault(candidate.key, candidate)
            if len(proposals) == count:
                break
        self._accepted += len(proposals)
        return list(proposals.values())

    def _random(self) -> Selection:
        self._proposals += 1
        return sample(self.space, self.parameter_bin, self._rng, self.settings.sampling)

    def _elite(self) -> Selection:
        choices = 1 if self.settings.strategy == "local" else len(self._elites)
        return self._elites[self._rng.integers(choices)].candidate.selection

    def _gate_closed(self) -> bool:
        gated = self.settings.strategy != "local" and self.settings.probability_reading == "gate"
        return gated and self._rng.random() >= self.settings.probability

    def _mutant(self) -> Selection | None:
        parent = self._elite()
        return None if self._gate_closed() else self._neighbor(parent)

    def _neighbor(self, parent: Selection) -> Selection | None:
        if self.settings.level_switch and self._rng.random() < self.settings.level_switch:
            return self._constrain(switch_levels(parent, self.space, self.parameter_bin, self._rng))
        return self._constrain(mutate(parent, self.space, self._rng))

    def _crossed(self) -> Selection | None:
        parent = self._elite()
        if self._gate_closed():
            return None
        partners = [
            other for _, other in self.elites if len(other.layers) == len(parent.layers) and other is not parent
        ]
        if not partners:
            return self._constrain(mutate(parent, self.space, self._rng))
        partner = partners[self._rng.integers(len(partners))]
        return self._constrain(crossover(parent, partner, self.space, self._rng))

    def _constrain(self, child: Selection | None) -> Selection | None:
        self._proposals += 1
        if child is None:
            return None
        return constrain(child, self.space, self.parameter_bin, self._rng, self.settings.constraint)
