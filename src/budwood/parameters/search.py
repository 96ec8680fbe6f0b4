"""The evolution."""

from dataclasses import fields
from typing import Any, Self

from pydantic import Field, model_validator

from budwood.arch.sampling import Sampling
from budwood.records.strict import Strict
from budwood.search.operators import Constraint
from budwood.search.race import RaceSettings
from budwood.search.strategy import EvolutionSettings, Objective, ProbabilityReading, StrategyName
from budwood.search.workers import require_ray
from budwood.subnet.fitness import FROM_SCORES, check_fitness
from budwood.subnet.scoring import Normalisation


class SearchParameters(Strict):
    """The evolution (paper, Algorithm 1); see `budwood.search.strategy.EvolutionSettings`."""

    strategy: StrategyName = "evolution"
    objectives: tuple[Objective, ...] = ()
    fitness: str = "perplexity"
    """What is minimised: `perplexity`; `kl`, the divergence from the teacher; `importance` or `magnitude`, the scores
    of what is kept, without any text (paper, appendix E); or the dotted path of a function that takes a model and
    [N, T + 1] token ids and returns N numbers."""
    normalisation: Normalisation = "softmax"
    """Of scores, for `importance` and `magnitude`."""
    population: int = Field(default=50, ge=1)
    epochs: int = Field(default=100, ge=0)
    num_elites: int = Field(default=10, ge=1)
    num_mutants: int = Field(default=20, ge=0)
    num_crossovers: int = Field(default=20, ge=0)
    num_randoms: int = Field(default=10, ge=0)
    probability: float = Field(default=0.2, gt=0, le=1)
    probability_reading: ProbabilityReading = "gate"
    level_switch: float = Field(default=0.0, ge=0, le=1)
    screening: int = Field(default=1, ge=1)
    sampling: Sampling = "constructive"
    constraint: Constraint = "repair"
    seed: int = 42
    stages: tuple[int, ...] = ()
    """Sequences after which candidates that are clearly behind are dropped; all of `measurement.selection` is read
    after the last. Empty: every candidate reads all, as in the paper."""
    deviations: float = Field(default=2.0, gt=0)
    """Standard errors behind the last elite at which a candidate is dropped."""
    num_finalists: int = Field(default=3, ge=1)
    """Elites among which the winner is chosen, cut and corrected as exports are, on text that the search has not
    seen."""
    finalist_tokens: int = Field(default=0, ge=0)
    """Tokens that finalists are trained on before that: what starts best need not end best."""
    reuse: bool = True
    """Whether candidates of a generation that share their first layers run them once."""
    workers: int = Field(default=1, ge=1)
    """Processes that evaluate candidates; more than one need `budwood[ray]`."""
    gpus_per_worker: float = Field(default=0, ge=0)

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        self.settings()
        check_fitness(self.fitness)
        if self.workers > 1:
            require_ray()
        if self.stages and self.strategy == "pareto":
            raise ValueError(
                "strategy pareto takes no stages: a race drops what is behind in loss, however small it is"
            )
        if self.stages and self.fitness in FROM_SCORES:
            raise ValueError(f"fitness {self.fitness} takes no stages: it reads no text")
        if self.num_finalists > self.num_elites:
            raise ValueError(f"num_finalists={self.num_finalists} must not exceed num_elites={self.num_elites}")
        return self

    def settings(self) -> EvolutionSettings:
        """Return the settings of the strategy."""
        names = {field.name for field in fields(EvolutionSettings)}
        return EvolutionSettings(**self.model_dump(include=names))

    def guided_by(self, fitness: str) -> Self:
        """Return a search by another fitness, whose best candidate wins without a second look."""
        # Scores are known before any text is read.
        stages = () if fitness in FROM_SCORES else self.stages
        changes: dict[str, Any] = {"fitness": fitness, "num_finalists": 1, "stages": stages}
        return self.model_copy(update=changes)

    def race(self, num_sequences: int) -> RaceSettings:
        """Return how candidates race over some sequences; scores have one stage.

        Raises:
            ValueError: the stages do not grow towards that number.
        """
        last = 1 if self.fitness in FROM_SCORES else num_sequences
        return RaceSettings(stages=(*self.stages, last), deviations=self.deviations)
