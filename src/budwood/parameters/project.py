"""All parameters of an environment, read and validated at once."""

from collections.abc import Mapping
from typing import Any, Self

from pydantic import ValidationError, model_validator

from budwood.corpus.settings import CorpusSettings
from budwood.parameters.ablations import AblationParameters, changed_arm
from budwood.parameters.arms import Arms
from budwood.parameters.grid import Bins, Grid, Spaces
from budwood.parameters.measurement import EvaluationParameters, MeasurementParameters
from budwood.parameters.plan import PlanParameters
from budwood.parameters.protocol import ProtocolParameters, with_tokens
from budwood.parameters.teacher import TeacherParameters
from budwood.records.strict import Strict
from budwood.search.fitness import FROM_SCORES
from budwood.search.settings import SearchSettings
from budwood.subnet.ordering import OrderingKind
from budwood.training.settings import Engine, Schedule

_LONGEST_VALUE = 60
_ORDERING_OF: dict[str, OrderingKind] = {"importance": "activation", "magnitude": "magnitude"}

SELECTED = "selected"
"""Stands for the space of a bin that probes will choose, wherever a pipeline names a space."""
PAPER = "paper"
"""Value of `search` that stands for the paper's own search."""
_PAPER_SEARCH: dict[str, Any] = {"sampling": "rejection", "constraint": "rejection", "num_finalists": 1, "reuse": False}
_PAPER_CUT: dict[str, Any] = {"ordering": "native", "rope": "rebuild", "compensation": None}


class ProjectParameters(Strict):
    """All parameters of an environment."""

    corpus: CorpusSettings
    teacher: TeacherParameters
    measurement: MeasurementParameters
    bins: Bins
    spaces: Spaces
    grid: Grid
    search: SearchSettings
    protocol: ProtocolParameters
    schedule: Schedule
    arms: Arms
    plan: PlanParameters
    engine: Engine
    evaluation: EvaluationParameters
    ablations: AblationParameters | None = None
    """Null: there are none."""

    @model_validator(mode="after")
    def _parts_fit(self) -> Self:
        if not self.grid.root or not all(self.grid.root.values()):
            raise ValueError("grid: name at least one bin, each with at least one space")
        for bin_name, space in self.grid.variants():
            if bin_name not in self.bins.root:
                raise ValueError(f"grid: no bin {bin_name!r}; bins has {', '.join(self.bins.root)}")
            if space not in self.spaces.root:
                raise ValueError(f"grid.{bin_name}: no space {space!r}; spaces has {', '.join(self.spaces.root)}")
            self._require_order("search.fitness", self.search.fitness, space)
        if SELECTED in self.spaces.root:
            raise ValueError(f"spaces.{SELECTED}: give it another name, this one stands for what probes choose")
        self.protocol.probe_schedule(self.schedule)
        distillation = self.arms.distilled.distillation
        if self.protocol.num_seeds > 1 and distillation is not None and distillation.teacher == "cached":
            raise ValueError(
                f"protocol.num_seeds={self.protocol.num_seeds} needs arms.distilled.distillation.teacher: live; a "
                "cache holds the sequences of one seed"
            )
        self.search.race(self.measurement.selection)
        if self.engine.sharding and (not self.engine.launcher or self.schedule.optimizer == "muon"):
            raise ValueError("engine.sharding: true needs a launcher, and schedule.optimizer: adamw")
        for name in Arms.model_fields:
            if getattr(self.arms, name).learning_rate is None and self.schedule.peak_learning_rate is None:
                raise ValueError(f"arms.{name}: give it a learning_rate, or all arms schedule.peak_learning_rate")
        return self

    def _require_order(self, name: str, fitness: str, space: str) -> None:
        ordering = self.spaces.root[space].ordering
        if fitness in FROM_SCORES and ordering not in {"native", _ORDERING_OF[fitness]}:
            raise ValueError(
                f"{name} {fitness} scores a teacher in its own order or in that of the same scores: spaces.{space} has "
                f"ordering {ordering}, and must have native or {_ORDERING_OF[fitness]}"
            )

    @model_validator(mode="after")
    def _ablations_fit(self) -> Self:
        ablations = self.ablations
        if ablations is None:
            return self
        for place in ablations.places():
            if place.bin not in self.bins.root or place.space not in self.spaces.root:
                raise ValueError(
                    f"ablations: no bin {place.bin!r} or no space {place.space!r}; bins has "
                    f"{', '.join(self.bins.root)}, spaces has {', '.join(self.spaces.root)}"
                )
        for metric in ablations.metrics:
            self._require_order("ablations.metrics", metric, ablations.metric_space)
        with_tokens(self.schedule, ablations.tokens)
        for changes in (*ablations.logits.values(), *ablations.kd_grid.combinations().values()):
            changed_arm(self.arms.distilled, changes)
        return self


def expand_presets(raw: Mapping[str, Any]) -> dict[str, Any]:
    """Spell out `search: paper`: Algorithm 1 with the paper's sizes, and spaces that cut as the paper does.

    That is the teacher's own order, rebuilt rotary embeddings and no correction.
    """
    if raw.get("search") != PAPER:
        return dict(raw)
    spaces = {name: {**space, **_PAPER_CUT} for name, space in raw.get("spaces", {}).items()}
    return {**raw, "search": _PAPER_SEARCH, "spaces": spaces}


def read_parameters(raw: Mapping[str, Any]) -> ProjectParameters:
    """Validate all parameters of an environment at once.

    Raises:
        ValueError: one line for everything that is wrong, with its path.
    """
    try:
        return ProjectParameters.model_validate(expand_presets(raw))
    except ValidationError as error:
        lines = [
            f"  {'.'.join(map(str, problem['loc'])) or 'parameters'}: "
            f"{problem['msg'].removeprefix('Value error, ')} (got {_short(problem['input'])})"
            for problem in error.errors()
        ]
        raise ValueError("the parameters are not valid:\n" + "\n".join(lines)) from None


def _short(value: object) -> str:
    text = repr(value)
    return text if len(text) <= _LONGEST_VALUE else f"{text[:_LONGEST_VALUE]}..."
