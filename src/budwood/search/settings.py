"""What a search does, and how it runs."""

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from budwood.arch.sampling import Sampling
from budwood.records.strict import HOW, Strict
from budwood.search.fitness import (
    FROM_SCORES,
    SCORE_METHODS,
    Normalisation,
    ScoreMethod,
    ScoreMethods,
    ScoreReading,
    check_fitness,
)
from budwood.search.operators import Constraint
from budwood.search.race import RaceSettings
from budwood.search.workers import require_ray

StrategyName = Literal["evolution", "random", "local", "pareto"]
ObjectiveName = Literal["parameters", "flops", "latency"]
ProbabilityReading = Literal["gate", "share"]
CrossoverParents = Literal["matching", "any"]
Compared = Literal["corrected", "plain"]

EVOLVING: tuple[StrategyName, ...] = ("evolution", "pareto")


class SearchSettings(Strict):
    """The evolution (paper, Algorithm 1) and its alternatives; the defaults are the paper's where it prints them."""

    strategy: StrategyName = "evolution"
    """`random`: every generation is drawn again; `local`: every generation are mutants of the best candidate so far. Of
    the sizes, both use the population, the epochs and the number of elites only. `pareto`: evolution whose elites
    spread over the front of the loss and `objectives`."""
    objectives: tuple[ObjectiveName, ...] = ()
    """What `pareto` weighs the loss against: parameters, FLOPs of a forward pass, its latency on this machine."""
    fitness: str = "perplexity"
    """What is minimised: `perplexity`; `kl`, the divergence from the teacher; `importance` or `magnitude`, the scores
    of what is kept, without any text (paper, appendix E); or the dotted path of a function that takes a model and
    [N, T + 1] token ids and returns N numbers."""
    normalisation: Normalisation = "softmax"
    """Of scores, for `importance` and `magnitude`."""
    scores: ScoreReading = "budwood"
    """What `importance` and `magnitude` add up; see `budwood.search.fitness.ScoreReading`."""
    layer_scores: ScoreMethod | None = None
    """Null, here and in the next two: the method that `fitness` names (paper, listing 6)."""
    head_scores: ScoreMethod | None = None
    """The same for heads."""
    neuron_scores: ScoreMethod | None = None
    """The same for neurons."""
    population: int = Field(default=50, ge=1)
    """Candidates of a generation."""
    num_balanced: int = Field(default=0, ge=0)
    """Candidates of the first generation that are not drawn but follow a rule of thumb, as far as the bin has such; not
    in the paper. See `budwood.arch.balanced`."""
    epochs: int = Field(default=100, ge=0)
    """Generations after the first."""
    num_elites: int = Field(default=10, ge=1)
    """Best candidates so far, from which the next generation is made."""
    num_mutants: int = Field(default=20, ge=0)
    """Candidates of a generation that change one dimension of an elite."""
    num_crossovers: int = Field(default=20, ge=0)
    """Candidates of a generation that combine two elites."""
    num_randoms: int = Field(default=10, ge=0)
    """Candidates of a generation that are drawn from scratch."""
    probability: float = Field(default=0.2, gt=0, le=1)
    """Of mutation and crossover."""
    probability_reading: ProbabilityReading = "gate"
    """`gate`: an offspring passes through its operator with this probability at each try, and is tried until it is
    new; `share`: this share of the population are mutants and as many crossovers, the rest random."""
    crossover_parents: CrossoverParents = "matching"
    """`matching`: both parents are drawn among the elites that share their depth with another, and where these have no
    new child an elite mutates; `any`: the first parent is any elite, and mutates where no other has its depth."""
    exchange: bool = True
    """Whether a mutation in a fine space keeps the size of its dimension as often as not, and exchanges entries."""
    level_switch: float = Field(default=0.0, ge=0, le=1)
    """Share of mutants in which another layer's neurons pay for the dimension that changes, so that their number of
    parameters stays; not in the paper."""
    screening: int = Field(default=1, ge=1)
    """Proposals for every step in which a model of the losses so far leads a mutant or a crossover on before it is
    read; 1: none, as in the paper. See `budwood.search.surrogate`."""
    sampling: Sampling = "constructive"
    """`constructive` solves the last size of a random draw so that it lies in the bin; `rejection` draws until one
    does."""
    constraint: Constraint = "repair"
    """The same for mutants and crossovers: `repair` changes a size, `rejection` tries again."""
    seed: int = 42
    """Of all draws of the search."""
    stages: tuple[int, ...] = ()
    """Sequences after which candidates that are clearly behind are dropped; all sequences are read after the last.
    Empty: every candidate reads all, as in the paper."""
    deviations: float = Field(default=2.0, gt=0)
    """Standard errors behind the last elite at which a candidate is dropped."""
    compare: Compared = "plain"
    """How candidates are cut: `plain`, without corrections, or `corrected` in closed form, as their space says, which
    takes up to two thirds longer on a CPU. Finalists are corrected either way."""
    num_finalists: int = Field(default=3, ge=1)
    """Elites among which the winner is chosen, cut and corrected as exports are, on text that the search has not
    seen."""
    finalist_tokens: int = Field(default=0, ge=0)
    """Tokens that finalists are trained on before that: what starts best need not end best."""
    reuse: bool = True
    """Whether candidates of a generation that share their first layers run them once. It changes no loss, but the
    FLOPs that are recorded, and keeps hidden states of all text."""
    workers: Annotated[int, HOW] = Field(default=1, ge=1)
    """Processes that evaluate candidates; more than one need `budwood[ray]`."""
    gpus_per_worker: Annotated[float, HOW] = Field(default=0, ge=0)
    """Share of a GPU that Ray reserves for a worker."""

    @model_validator(mode="after")
    def _sizes_fit(self) -> Self:
        bounds = {"num_elites": "population", "num_balanced": "population", "num_finalists": "num_elites"}
        for name, most in bounds.items():
            if getattr(self, name) > getattr(self, most):
                raise ValueError(f"{name}={getattr(self, name)} must not exceed {most}={getattr(self, most)}")
        if self.strategy in EVOLVING and (sum(self.offspring) != self.population or min(self.offspring) < 0):
            parts = " + ".join(map(str, self.offspring))
            raise ValueError(
                f"num_mutants + num_crossovers + num_randoms must make a population: {parts} is not {self.population}"
                if self.probability_reading == "gate"
                else f"probability={self.probability} as a share of mutants and of crossovers must not exceed a half"
            )
        return self

    @model_validator(mode="after")
    def _parts_fit(self) -> Self:
        if bool(self.objectives) != (self.strategy == "pareto"):
            raise ValueError("strategy pareto needs objectives (parameters, flops, latency), and no other takes any")
        check_fitness(self.fitness)
        if self.workers > 1:
            require_ray()
        if self.stages:
            RaceSettings(stages=self.stages)
        if self.stages and self.strategy == "pareto":
            raise ValueError(
                "strategy pareto takes no stages: a race drops what is behind in loss, however small it is"
            )
        if self.stages and self.fitness in FROM_SCORES:
            raise ValueError(f"fitness {self.fitness} takes no stages: it reads no text")
        return self

    @property
    def offspring(self) -> tuple[int, int, int]:
        """Mutants, crossovers and random members of a generation that evolves."""
        if self.probability_reading == "gate":
            return self.num_mutants, self.num_crossovers, self.num_randoms
        share = round(self.probability * self.population)
        return share, share, self.population - 2 * share

    @property
    def score_methods(self) -> ScoreMethods:
        """The method of every axis whose scores are added up; only of searches by scores.

        Raises:
            ValueError: the fitness reads text.
        """
        method = SCORE_METHODS.get(self.fitness)
        if method is None:
            raise ValueError(f"fitness={self.fitness!r} adds up no scores; importance and magnitude do")
        return ScoreMethods(
            channels=method,
            layers=self.layer_scores or method,
            heads=self.head_scores or method,
            neurons=self.neuron_scores or method,
        )

    @property
    def needs_statistics(self) -> bool:
        """Whether candidates are scored by activations on calibration text."""
        return self.fitness in FROM_SCORES and "importance" in self.score_methods

    @property
    def compares_corrected(self) -> bool:
        """Whether candidates are corrected before they are compared, where their space corrects them."""
        return self.compare == "corrected" and self.fitness not in FROM_SCORES

    @property
    def num_evaluations(self) -> int:
        """Candidates evaluated in a whole search: 5,050 with the paper's sizes."""
        return self.population * (1 + self.epochs)

    def alone(self) -> Self:
        """Return the search without what follows it, which does not decide what it finds."""
        return self.model_copy(update={"num_finalists": 1, "finalist_tokens": 0})

    def guided_by(self, fitness: str) -> Self:
        """Return a search by another fitness, whose best candidate wins without a second look."""
        # Scores are known before any text is read.
        stages = () if fitness in FROM_SCORES else self.stages
        return self.model_copy(update={"fitness": fitness, "num_finalists": 1, "stages": stages})

    def race(self, num_sequences: int) -> RaceSettings:
        """Return how candidates race over some sequences; scores have one stage.

        Raises:
            ValueError: the stages do not grow towards that number.
        """
        if self.fitness in FROM_SCORES:
            return RaceSettings(stages=(1,), deviations=self.deviations)
        if self.stages and self.stages[-1] >= num_sequences:
            raise ValueError(
                f"search.stages ends at {self.stages[-1]} but {num_sequences} sequences are given; it must end before "
                "them, all are read after the last stage"
            )
        return RaceSettings(stages=(*self.stages, num_sequences), deviations=self.deviations)
