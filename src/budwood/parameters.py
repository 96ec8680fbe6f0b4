"""Typed parameters: what `conf/*/parameters.yml` may hold. Kedro validates them before any node runs."""

from collections.abc import Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any, Self

from pydantic import ConfigDict, Field, RootModel, ValidationError, model_validator
from torch import Tensor

from budwood.arch.bins import ParameterBin
from budwood.arch.family import architecture_from_config
from budwood.arch.sampling import Sampling
from budwood.arch.space import Granularity, SearchSpace
from budwood.arch.spec import Architecture
from budwood.corpus.documents import TextSource, require_consistent
from budwood.evaluation.efficiency import EfficiencySettings
from budwood.evaluation.harness import Benchmark, choose_benchmarks
from budwood.evaluation.heldout import HeldOutSettings
from budwood.reporting.accelerator import AcceleratorName
from budwood.search.operators import Constraint
from budwood.search.race import RaceSettings
from budwood.search.strategy import EvolutionSettings, Objective, ProbabilityReading, StrategyName
from budwood.search.workers import require_ray
from budwood.subnet.compensate import Compensation
from budwood.subnet.device import Compute, DeviceName, Precision, choose_compute
from budwood.subnet.fitness import FROM_SCORES, check_fitness
from budwood.subnet.importance import Importance
from budwood.subnet.ordering import LayerScore, OrderedTeacher, Ordering, OrderingKind, open_ordered
from budwood.subnet.rotary import Rope
from budwood.subnet.scoring import Normalisation
from budwood.subnet.teacher import TeacherSource, describe_teacher
from budwood.training.job import DistillationSettings, Engine, Schedule, Strict

_LONGEST_VALUE = 60
_ORDERING_OF: dict[str, OrderingKind] = {"importance": "activation", "magnitude": "magnitude"}

PAPER = "paper"
"""Value of `search` that stands for the paper's own search."""
_PAPER_SEARCH: dict[str, Any] = {"sampling": "rejection", "constraint": "rejection", "num_finalists": 1, "reuse": False}
_PAPER_CUT: dict[str, Any] = {"ordering": "native", "rope": "rebuild", "compensation": None}


class SourceParameters(Strict):
    """One source of text; see `budwood.corpus.documents.TextSource`."""

    path: str | None = None
    dataset: str | None = None
    dataset_config: str | None = None
    dataset_split: str = "train"
    revision: str | None = None
    format: str = "text"
    text_field: str = "text"
    document_start: str | None = None
    splits: dict[str, float]
    license: str = "unknown"
    attribution: str = ""
    max_documents: int | None = Field(default=None, gt=0)
    max_tokens: dict[str, int] = Field(default_factory=dict)
    weight: float | None = Field(default=None, gt=0)


class CorpusParameters(Strict):
    """All text."""

    sources: dict[str, SourceParameters | None] = Field(min_length=1)
    """Sources by name; an environment takes one of the base away by giving it null."""
    seed: int = 42
    num_processes: int = Field(default=1, gt=0)
    """Processes that tokenise; their number changes no result."""

    @model_validator(mode="after")
    def _readable(self) -> Self:
        require_consistent(self.text_sources())
        return self

    def text_sources(self) -> list[TextSource]:
        """Return the sources as the corpus reads them.

        Raises:
            ValueError: a source is not fully described.
        """
        return [TextSource(name=name, **source.model_dump()) for name, source in self.sources.items() if source]


class MeasurementParameters(Strict):
    """On which sequences of text models are measured, and where they run; every split serves one purpose."""

    length: int = Field(gt=0)
    """Tokens predicted per sequence."""
    calibration: int = Field(gt=0)
    """Sequences behind the importance scores."""
    selection: int = Field(gt=0)
    """Sequences on which all candidates of a search are compared."""
    choice: int = Field(gt=0)
    """Sequences on which the winner is chosen among the finalists."""
    validation: int = Field(gt=0)
    """Sequences of each source for the reported losses."""
    heldout: int = Field(gt=0)
    """Validation sequences behind the curves; also of every other split for the teacher's loss there."""
    batch_size: int = Field(default=4, gt=0)
    """Sequences of one forward pass."""
    device: DeviceName = "auto"
    precision: Precision = "auto"

    @property
    def searched(self) -> dict[str, int]:
        """Sequences of each split that a search works with, of all sources together."""
        return {"calibration": self.calibration, "selection": self.selection, "choice": self.choice}

    @property
    def reported(self) -> dict[str, int]:
        """Sequences of every source of each split that losses are reported for."""
        return dict.fromkeys(("train", *self.searched), self.heldout) | {"validation": self.validation}

    def compute(self) -> Compute:
        """Return the device and precision of this machine."""
        return choose_compute(self.device, self.precision)


class ModelSizes(Strict):
    """A model of equal layers by its sizes, in the words of its config.json."""

    model_type: str
    vocab_size: int = Field(gt=0)
    hidden_size: int = Field(gt=0)
    intermediate_size: int = Field(gt=0)
    num_hidden_layers: int = Field(gt=0)
    num_attention_heads: int = Field(gt=0)
    num_key_value_heads: int | None = Field(default=None, gt=0)
    """As many as heads where it is empty."""
    head_dim: int | None = Field(default=None, gt=0)
    """What fills the hidden size where it is empty."""
    tie_word_embeddings: bool = False

    @model_validator(mode="after")
    def _possible(self) -> Self:
        self.architecture()
        return self

    def architecture(self) -> Architecture:
        """Return the architecture.

        Raises:
            ValueError: the family is not supported, or a size is impossible.
        """
        return architecture_from_config(self.model_dump(exclude_none=True))


class TeacherParameters(Strict):
    """The pretrained model; see `budwood.subnet.teacher.TeacherSource`."""

    model: str | None = None
    revision: str | None = None
    random: dict[str, bool | int | float | str] | None = None
    architecture: ModelSizes | None = None
    """What `model` is known to be, so that a study can be planned without its configuration. A run checks it."""
    trust_remote_code: bool = False
    license: str = "unknown"
    attribution: str = ""

    @model_validator(mode="after")
    def _one_source(self) -> Self:
        self.source()
        return self

    def source(self) -> TeacherSource:
        """Return the teacher's source."""
        return TeacherSource(**self.model_dump(exclude={"architecture"}))

    def describe(self) -> Architecture:
        """Return the teacher's architecture without reading weights: as stated, or by its configuration.

        Raises:
            ValueError: the source does not exist, or is of an unsupported family.
        """
        return self.architecture.architecture() if self.architecture else describe_teacher(self.source())

    @property
    def bytes_per_parameter(self) -> int:
        """What a parameter takes in the teacher's files: models are published in 16 bits, conversions are in 32."""
        return 4 if self.random or str(self.model).endswith(".gguf") else 2


class BinParameters(Strict):
    """A parameter bin, in one of three ways: a fraction of the teacher, a centre, or its bounds."""

    fraction: float | None = Field(default=None, gt=0, le=1)
    """Centre as a share of the teacher's parameters."""
    center: int | None = Field(default=None, gt=0)
    tolerance: float = Field(default=0.05, gt=0, lt=1)
    """Relative half-width around the centre."""
    low: int | None = Field(default=None, gt=0)
    high: int | None = Field(default=None, gt=0)
    reference: ModelSizes | None = None
    """The model at the centre, by which the paper charges a search and counts a saving; only planned with."""

    @model_validator(mode="after")
    def _one_way(self) -> Self:
        bounds = self.low is not None or self.high is not None
        if sum([self.fraction is not None, self.center is not None, bounds]) != 1:
            raise ValueError("give exactly one of `fraction`, `center`, or both `low` and `high`")
        if bounds:
            if self.low is None or self.high is None:
                raise ValueError("give both `low` and `high`")
            ParameterBin(self.low, self.high)
        return self

    def parameter_bin(self, teacher_parameters: int) -> ParameterBin:
        """Return the bin for a teacher of a size."""
        if self.low is not None and self.high is not None:
            return ParameterBin(self.low, self.high)
        center = self.center if self.center is not None else (self.fraction or 0) * teacher_parameters
        return ParameterBin.around(center, self.tolerance)


class SpaceParameters(Strict):
    """A search space and the way its members are cut."""

    granularity: Granularity = "coarse"
    """`coarse` takes the first entries of every axis, `fine` any of them."""
    layerwise: bool
    """Whether every layer has sizes of its own."""
    alignment: int = Field(default=1, ge=1)
    """Hidden and MLP widths are multiples of this."""
    native_only: bool = False
    """Only sub-networks that stock Hugging Face classes express."""
    ordering: OrderingKind = "activation"
    """`activation`: first means most important on calibration text; `magnitude`: by the weights alone; `native`: the
    teacher's own order, as in the paper."""
    layer_score: LayerScore = "change"
    """What layers are ranked by: `influence`, 1 - cosine of input and output; `change`, the normalised square error of
    leaving the layer out."""
    rope: Rope = "preserve"
    """`preserve`: kept rotary pairs keep their frequencies; `rebuild`: as in the paper's reference code."""
    score_gain: bool = True
    """Whether attention scores get the gain that the missing rotary pairs took; needs `rope: preserve`."""
    singular_values: bool = True
    """Whether values are turned into their singular basis, except under `ordering: native`."""
    compensation: Compensation | None = None
    """Closed-form corrections of the exported sub-network; see `budwood.subnet.compensate.Compensation`. `{}` makes
    all of them."""

    @model_validator(mode="after")
    def _native_layers_are_alike(self) -> Self:
        if self.native_only and self.layerwise:
            raise ValueError("native_only needs layerwise: false, stock classes give all layers the same sizes")
        return self

    def search_space(self, teacher: Architecture) -> SearchSpace:
        """Return the space of a teacher.

        Args:
            teacher: its layers by rank.
        """
        return SearchSpace(
            teacher=teacher,
            granularity=self.granularity,
            layerwise=self.layerwise,
            alignment=self.alignment,
            native_only=self.native_only,
        )

    def ordered_teacher(self, folder: Path, importance: dict[str, Tensor]) -> OrderedTeacher:
        """Return the teacher in the order in which this space takes its components."""
        ordering = Ordering(
            by=self.ordering,
            layer_score=self.layer_score,
            rope=self.rope,
            score_gain=self.score_gain,
            singular_values=self.singular_values,
        )
        return open_ordered(folder, ordering, Importance.from_tensors(importance))


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

    def race(self, num_sequences: int) -> RaceSettings:
        """Return how candidates race over some sequences; scores have one stage.

        Raises:
            ValueError: the stages do not grow towards that number.
        """
        last = 1 if self.fitness in FROM_SCORES else num_sequences
        return RaceSettings(stages=(*self.stages, last), deviations=self.deviations)


class ArmParameters(Strict):
    """One training arm."""

    learning_rate: float | None = Field(default=None, gt=0)
    """Peak, chosen for the arm's initialisation; without one it is `schedule.peak_learning_rate`."""
    distillation: DistillationSettings | None = None


class Arms(Strict):
    """The three arms of every variant."""

    random_init: ArmParameters
    """The sub-network's architecture from its family's own initialisation: the baseline."""
    subnet_init: ArmParameters
    """The sub-network with the weights it was cut with."""
    distilled: ArmParameters
    """The sub-network with its weights, under the teacher."""

    @model_validator(mode="after")
    def _distilled_has_a_teacher(self) -> Self:
        if self.distilled.distillation is None:
            raise ValueError("arms.distilled: give `distillation` its weights")
        for name in ("random_init", "subnet_init"):
            distillation = getattr(self, name).distillation
            if distillation is not None and distillation.teacher == "cached":
                raise ValueError(f"arms.{name}: teacher must be live, only `distilled` reads a cache")
        return self


class EvaluationParameters(Strict):
    """What trained models are asked, and how fast sub-networks run, beside the losses of `measurement`."""

    tasks: tuple[str, ...] = ("heldout",)
    """Presets (`heldout`, `paper`, `extended`; see `budwood.evaluation.harness.PRESETS`) and tasks of lm_eval by name;
    none: nothing is asked."""
    limit: int | None = Field(default=None, gt=0)
    """Questions of every task, the first ones; null: all."""
    batch_size: int = Field(default=4, gt=0)
    """Questions of one forward pass."""
    heldout: HeldOutSettings = HeldOutSettings()
    """How questions are made from held-out text; see `budwood.evaluation.heldout.HeldOutSettings`."""
    efficiency: EfficiencySettings | None = EfficiencySettings()
    """What is timed; see `budwood.evaluation.efficiency.EfficiencySettings`. Null: nothing."""

    def benchmarks(self) -> tuple[Benchmark, ...]:
        """Return what is asked."""
        return choose_benchmarks(self.tasks)


class Bins(RootModel[dict[str, BinParameters]]):
    """Bins by name."""

    model_config = ConfigDict(frozen=True)


class Spaces(RootModel[dict[str, SpaceParameters]]):
    """Search spaces by name."""

    model_config = ConfigDict(frozen=True)


class Grid(RootModel[dict[str, list[str]]]):
    """For every bin, the spaces to search in it; an environment takes a bin of the base away by giving it null."""

    model_config = ConfigDict(frozen=True)

    @model_validator(mode="before")
    @classmethod
    def _without_what_was_taken_away(cls, data: Any) -> Any:
        return {name: spaces for name, spaces in data.items() if spaces is not None} if isinstance(data, dict) else data

    def variants(self) -> list[tuple[str, str]]:
        """Return all (bin, space) pairs."""
        return [(bin_name, space) for bin_name, spaces in self.root.items() for space in spaces]


class PlanParameters(Strict):
    """On what a study would run, to tell beforehand what it costs; see `budwood.reporting.plan`."""

    accelerator: AcceleratorName = "h100"
    num_devices: int = Field(default=1, gt=0)
    """Devices that train in parallel; they divide the time, not the memory."""
    mfu: float = Field(default=0.4, gt=0, le=1)
    """Share of the peak that forward and backward passes reach."""
    disk_gb: float | None = Field(default=None, gt=0)
    """Room for everything that is written; what is free here where it is empty."""


class ProjectParameters(Strict):
    """All parameters of an environment."""

    corpus: CorpusParameters
    teacher: TeacherParameters
    measurement: MeasurementParameters
    bins: Bins
    spaces: Spaces
    grid: Grid
    search: SearchParameters
    schedule: Schedule
    arms: Arms
    plan: PlanParameters
    engine: Engine
    evaluation: EvaluationParameters

    @model_validator(mode="after")
    def _parts_fit(self) -> Self:
        if not self.grid.root or not all(self.grid.root.values()):
            raise ValueError("grid: name at least one bin, each with at least one space")
        for bin_name, space in self.grid.variants():
            if bin_name not in self.bins.root:
                raise ValueError(f"grid: no bin {bin_name!r}; bins has {', '.join(self.bins.root)}")
            if space not in self.spaces.root:
                raise ValueError(f"grid.{bin_name}: no space {space!r}; spaces has {', '.join(self.spaces.root)}")
            ordering = self.spaces.root[space].ordering
            if self.search.fitness in FROM_SCORES and ordering not in {"native", _ORDERING_OF[self.search.fitness]}:
                raise ValueError(
                    f"search.fitness {self.search.fitness} scores a teacher in its own order or in that of the same "
                    f"scores: spaces.{space} has ordering {ordering}, and must have native or "
                    f"{_ORDERING_OF[self.search.fitness]}"
                )
        self.search.race(self.measurement.selection)
        if self.engine.sharding and (not self.engine.launcher or self.schedule.optimizer == "muon"):
            raise ValueError("engine.sharding: true needs a launcher, and schedule.optimizer: adamw")
        for name in Arms.model_fields:
            if getattr(self.arms, name).learning_rate is None and self.schedule.peak_learning_rate is None:
                raise ValueError(f"arms.{name}: give it a learning_rate, or all arms schedule.peak_learning_rate")
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
