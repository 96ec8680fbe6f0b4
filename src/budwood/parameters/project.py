"""All parameters of an environment, read and validated at once."""

import logging
from collections.abc import Mapping
from typing import Annotated, Any, Self

from pydantic import BeforeValidator, ValidationError, model_validator

from budwood.corpus.settings import CorpusSettings
from budwood.evaluation.settings import EvaluationSettings
from budwood.models.settings import PushSettings, ServingSettings, TeacherSettings
from budwood.records.names import SELECTED, Variant, require_names
from budwood.records.strict import HOW, Strict, mistakes, naming, without_nulls
from budwood.reporting.settings import PlanSettings
from budwood.search.settings import SearchSettings
from budwood.study.comparison import Ablation, AblationSettings, ablations_of
from budwood.study.settings import BinSettings, Conditions, MeasurementSettings, ProtocolSettings
from budwood.subnet.settings import Ordering, SpaceSettings
from budwood.training.settings import Arms, Engine, Schedule

_INVALID = "the parameters are not valid:\n"

PAPER = "paper"
"""Preset of `search` that means the paper's own."""
_PAPER_SEARCH: dict[str, Any] = {
    "sampling": "rejection",
    "constraint": "rejection",
    "exchange": False,
    "num_finalists": 1,
    "reuse": False,
    "scores": "paper",
}
_PAPER_CUT: dict[str, Any] = {
    "alignment": 1,
    "native_only": False,
    "servable": (),
    "ordering": "native",
    "rope": "rebuild",
    "compensation": None,
}
_BESIDE_PRESET = {"seed", *(name for name, field in SearchSettings.model_fields.items() if HOW in field.metadata)}
"""What a preset of the search leaves open."""

_logger = logging.getLogger(__name__)


class ProjectParameters(Strict):
    """All parameters of an environment."""

    corpus: CorpusSettings
    teacher: TeacherSettings
    measurement: MeasurementSettings
    bins: Annotated[dict[str, BinSettings], BeforeValidator(without_nulls)]
    spaces: Annotated[dict[str, SpaceSettings], BeforeValidator(without_nulls)]
    grid: Annotated[dict[str, tuple[str, ...]], BeforeValidator(without_nulls)]
    """For every bin, the spaces to search in it."""
    search: SearchSettings
    protocol: ProtocolSettings
    schedule: Schedule
    arms: Arms
    plan: PlanSettings
    engine: Engine
    evaluation: EvaluationSettings
    serving: ServingSettings = ServingSettings()
    push: PushSettings | None = None
    """Null: exports are published nowhere."""
    ablations: AblationSettings | None = None
    """Null: there are none."""

    @property
    def searched(self) -> list[Variant]:
        """Every (bin, space) of the grid."""
        return [Variant(bin_name, space) for bin_name, spaces in self.grid.items() for space in spaces]

    @property
    def trained(self) -> list[Variant]:
        """What gets all arms: every (bin, space), or (bin, `selected`) where probes choose the space."""
        return [Variant(bin_name, SELECTED) for bin_name in self.grid] if self.has_probes else self.searched

    @property
    def published(self) -> list[Variant]:
        """What is published, one model of each: sub-networks as they were cut, or what is trained."""
        if self.push is None:
            return []
        return self.searched if self.push.model == "subnet" else self.trained

    @property
    def seeds(self) -> list[int]:
        """Of every arm."""
        return self.protocol.seeds(self.schedule)

    @property
    def conditions(self) -> Conditions:
        """How everything is measured and trained."""
        return Conditions(**{name: getattr(self, name) for name in Conditions.model_fields})

    @property
    def conditions_by_bin(self) -> dict[str, Conditions]:
        """How everything of a bin is measured and trained, by its name; of bins that are searched.

        Raises:
            ValueError: what a bin changes does not fit.
        """
        compared = self.ablations.places() if self.ablations else []
        found, used = {}, {place.bin for place in (*self.searched, *compared)}
        for name, bin_ in self.bins.items():
            if name not in used:
                continue
            try:
                found[name] = self.conditions.within(bin_)
            except ValueError as error:
                raise ValueError(f"bins.{name}.{error}") from None
        return found

    @property
    def compared(self) -> list[Ablation]:
        """The ablations, each in every bin."""
        arms = {name: conditions.arms for name, conditions in self.conditions_by_bin.items()}
        return ablations_of(self.ablations, arms) if self.ablations else []

    @property
    def searches(self) -> dict[str, SearchSettings]:
        """The searches of an ablation, by the metric that guides them."""
        metrics = self.ablations.metrics if self.ablations else ()
        return {metric: self.search.guided_by(metric) for metric in metrics}

    @property
    def has_probes(self) -> bool:
        """Whether spaces are probed, and only the best of each bin is trained in full."""
        return self.protocol.probe_tokens is not None

    @property
    def caches_teacher(self) -> bool:
        """Whether the arm under the teacher reads what the teacher has said once."""
        return self.arms.caches_teacher

    @property
    def needs_statistics(self) -> bool:
        """Whether any search orders or scores components by activations on calibration text."""
        searching = any(search.needs_statistics for search in [self.search, *self.searches.values()])
        return searching or any(space.needs_statistics for space in self._used_spaces())

    @property
    def needs_elimination(self) -> bool:
        """Whether any space ranks layers by leaving them out one by one."""
        return any(space.needs_elimination for space in self._used_spaces())

    @property
    def orderings(self) -> tuple[Ordering, ...]:
        """The orders of the teacher that spaces use, but its own."""
        names, used = set(Ordering.model_fields), self._used_spaces()
        orders = [Ordering(**space.model_dump(include=names)) for space in used if space.ordering != "native"]
        return tuple(order for place, order in enumerate(orders) if order not in orders[:place])

    def has_reference(self, bin_name: str) -> bool:
        """Return whether a bin names the architecture at its centre, which is then trained beside the sub-networks."""
        return self.bins[bin_name].reference is not None

    def _used_spaces(self) -> list[SpaceSettings]:
        """Return the spaces of the grid, and those that an ablation compares."""
        names = {variant.space for variant in self.searched}
        if self.ablations is not None:
            names |= {place.space for place in self.ablations.places()}
        return [self.spaces[name] for name in sorted(names)]

    @model_validator(mode="after")
    def _names_are_allowed(self) -> Self:
        for group in ("bins", "spaces"):
            require_names(group, getattr(self, group))
        require_names("corpus.sources", self.corpus.sources)
        for metric in self.searches:
            assert self.ablations is not None
            taken = self.ablations.searched_by(metric, "").space
            if taken in self.spaces:
                raise ValueError(
                    f"spaces.{taken}: ablations.metrics gives what {metric} finds this name; choose another"
                )
        return self

    @model_validator(mode="after")
    def _parts_fit(self) -> Self:
        if not self.grid or not all(self.grid.values()):
            raise ValueError("grid: name at least one bin, each with at least one space")
        for bin_name, space in self.searched:
            if bin_name not in self.bins:
                raise ValueError(f"grid: no bin {bin_name!r}; bins has {', '.join(self.bins)}")
            if space not in self.spaces:
                raise ValueError(f"grid.{bin_name}: no space {space!r}; spaces has {', '.join(self.spaces)}")
            self._require_order("search.fitness", self.search.fitness, space)
        repositories = [self.push.of(variant).repository for variant in self.published] if self.push else []
        if len(set(repositories)) < len(repositories):
            raise ValueError(
                "push.repository: several exports cannot go to one repository; put {bin} and {space} into its name"
            )
        self.protocol.probe_schedule(self.schedule)
        if self.protocol.num_seeds > 1 and self.caches_teacher:
            raise ValueError(
                f"protocol.num_seeds={self.protocol.num_seeds} needs arms.distilled.distillation.teacher: live; a "
                "cache has the sequences of one seed"
            )
        self.search.race(self.measurement.selection)
        if self.engine.sharding and (not self.engine.launcher or self.schedule.optimizer == "muon"):
            raise ValueError("engine.sharding: true needs a launcher, and schedule.optimizer: adamw")
        return self

    @model_validator(mode="after")
    def _bins_fit(self) -> Self:
        for conditions in (self.conditions, *self.conditions_by_bin.values()):
            for name in Arms.model_fields:
                with naming(f"arms.{name}"):
                    getattr(conditions.arms, name).rate(conditions.schedule)
            probe = conditions.protocol.probe_schedule(conditions.schedule)
            if probe is not None:
                with naming("protocol.probe_tokens does not go with arms.subnet_init"):
                    conditions.arms.subnet_init.rate(probe)
            if self.search.finalist_tokens:
                conditions.arms.finalist_rate(conditions.schedule)
            cached = self.caches_teacher or conditions.arms.caches_teacher
            if cached and conditions.arms.distilled.distillation != self.arms.distilled.distillation:
                raise ValueError("bins: arms.distilled.distillation is that of all bins where its teacher is cached")
        return self

    def _require_order(self, name: str, fitness: str, space: str) -> None:
        with naming(f"{name} in spaces.{space}"):
            self.spaces[space].require_scored_by(fitness)

    @model_validator(mode="after")
    def _ablations_fit(self) -> Self:
        ablations = self.ablations
        if ablations is None:
            return self
        for place in ablations.places():
            if place.bin not in self.bins or place.space not in self.spaces:
                raise ValueError(
                    f"ablations: no bin {place.bin!r} or no space {place.space!r}; bins has {', '.join(self.bins)}, "
                    f"spaces has {', '.join(self.spaces)}"
                )
        if self.teacher.vocabulary is not None and any(each.source for each in ablations.teachers.values()):
            raise ValueError("ablations.teachers: with teacher.vocabulary, no other model has the study's tokens")
        for bin_name in ablations.students:
            for metric in ablations.metrics:
                self._require_order("ablations.metrics", metric, ablations.metric_variant(bin_name).space)
            conditions = self.conditions_by_bin[bin_name]
            with naming(f"ablations.tokens in bins.{bin_name}"):
                brief = conditions.schedule.of_length(ablations.tokens)
                for arm in (conditions.arms.subnet_init, conditions.arms.distilled):
                    arm.rate(brief)
            for changes in (*ablations.logits.values(), *ablations.kd_grid.combinations().values()):
                conditions.arms.distilled.with_distillation(changes)
        return self


def expand_presets(raw: Mapping[str, Any]) -> dict[str, Any]:
    """Spell out `search: paper`, or `search: {preset: paper, workers: 4}`.

    That is Algorithm 1 with the paper's sizes, and spaces that cut as the paper does: every size, the teacher's own
    order, rebuilt rotary embeddings and no correction. Beside the preset count only the seed and how the search runs;
    other settings, such as those of the base, are superseded, and the log names them.

    Raises:
        ValueError: there is no such preset.
    """
    search = {"preset": raw["search"]} if isinstance(raw.get("search"), str) else raw.get("search")
    if not isinstance(search, Mapping) or "preset" not in search:
        return dict(raw)
    if search["preset"] != PAPER:
        raise ValueError(f"{_INVALID}  search.preset: Input should be {PAPER!r} (got {search['preset']!r})")
    superseded = [name for name in search if name not in _BESIDE_PRESET | {"preset"}]
    if superseded:
        _logger.warning("search.preset: paper supersedes %s of `search`", ", ".join(superseded))
    beside = {name: value for name, value in search.items() if name in _BESIDE_PRESET}
    spaces = {name: {**space, **_PAPER_CUT} for name, space in raw.get("spaces", {}).items()}
    return {**raw, "search": _PAPER_SEARCH | beside, "spaces": spaces}


def read_parameters(raw: Mapping[str, Any]) -> ProjectParameters:
    """Validate all parameters of an environment at once.

    Raises:
        ValueError: one line for everything that is wrong, with its path.
    """
    try:
        return ProjectParameters.model_validate(expand_presets(raw))
    except ValidationError as error:
        lines = [f"  {line}" for line in mistakes(ProjectParameters, error)]
        raise ValueError(_INVALID + "\n".join(lines)) from None
