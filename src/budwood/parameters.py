"""Typed parameters: what `conf/*/parameters.yml` may hold. Kedro validates them before any node runs."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Self

from pydantic import ConfigDict, Field, RootModel, ValidationError, model_validator
from torch import Tensor

from budwood.arch.bins import ParameterBin
from budwood.arch.sampling import Sampling
from budwood.arch.space import Granularity, SearchSpace
from budwood.arch.spec import Architecture
from budwood.corpus.documents import TextSource
from budwood.evaluation.efficiency import EfficiencySettings
from budwood.evaluation.harness import Benchmark, choose_benchmarks
from budwood.evaluation.heldout import HeldOutSettings
from budwood.search.operators import Constraint
from budwood.search.race import RaceSettings
from budwood.search.strategy import EvolutionSettings, ProbabilityReading, StrategyName
from budwood.subnet.compensate import Compensation
from budwood.subnet.device import Compute, DeviceName, Precision, choose_compute
from budwood.subnet.importance import Importance
from budwood.subnet.ordering import LayerScore, OrderedTeacher, Ordering, OrderingKind, open_ordered
from budwood.subnet.rotary import Rope
from budwood.subnet.teacher import TeacherSource
from budwood.training.job import DistillationSettings, Schedule, Strict

_LONGEST_VALUE = 60


class SourceParameters(Strict):
    """One source of text; see `budwood.corpus.documents.TextSource`."""

    path: str | None = None
    dataset: str | None = None
    dataset_config: str | None = None
    dataset_split: str = "train"
    revision: str | None = None
    format: str = "text"
    text_field: str = "text"
    splits: dict[str, float]
    license: str = "unknown"
    attribution: str = ""
    max_documents: int | None = Field(default=None, gt=0)


class CorpusParameters(Strict):
    """All text."""

    sources: dict[str, SourceParameters | None] = Field(min_length=1)
    """Sources by name; an environment takes one of the base away by giving it null."""
    seed: int = 42

    @model_validator(mode="after")
    def _readable(self) -> Self:
        self.text_sources()
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


class TeacherParameters(Strict):
    """The pretrained model; see `budwood.subnet.teacher.TeacherSource`."""

    model: str | None = None
    revision: str | None = None
    random: dict[str, int] | None = None
    trust_remote_code: bool = False
    license: str = "unknown"
    attribution: str = ""

    @model_validator(mode="after")
    def _one_source(self) -> Self:
        self.source()
        return self

    def source(self) -> TeacherSource:
        """Return the teacher's source."""
        return TeacherSource(**self.model_dump())


class BinParameters(Strict):
    """A parameter bin, in one of three ways: a fraction of the teacher, a centre, or its bounds."""

    fraction: float | None = Field(default=None, gt=0, le=1)
    """Centre as a share of the teacher's parameters."""
    center: int | None = Field(default=None, gt=0)
    tolerance: float = Field(default=0.05, gt=0, lt=1)
    """Relative half-width around the centre."""
    low: int | None = Field(default=None, gt=0)
    high: int | None = Field(default=None, gt=0)

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
    """Whether cut norms get the gain that the missing channels took; needs `ordering: activation`."""
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
    population: int = Field(default=50, ge=1)
    epochs: int = Field(default=100, ge=0)
    num_elites: int = Field(default=10, ge=1)
    num_mutants: int = Field(default=20, ge=0)
    num_crossovers: int = Field(default=20, ge=0)
    num_randoms: int = Field(default=10, ge=0)
    probability: float = Field(default=0.2, gt=0, le=1)
    probability_reading: ProbabilityReading = "gate"
    sampling: Sampling = "constructive"
    constraint: Constraint = "repair"
    seed: int = 42
    stages: tuple[int, ...] = ()
    """Sequences after which candidates that are clearly behind are dropped; all of `measurement.selection` is read
    after the last. Empty: every candidate reads all, as in the paper."""
    deviations: float = Field(default=2.0, gt=0)
    """Standard errors behind the last elite at which a candidate is dropped."""
    num_finalists: int = Field(default=3, ge=1)
    """Elites among which the winner is chosen on text that the search has not seen."""

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        self.settings()
        if self.num_finalists > self.num_elites:
            raise ValueError(f"num_finalists={self.num_finalists} must not exceed num_elites={self.num_elites}")
        return self

    def settings(self) -> EvolutionSettings:
        """Return the settings of the strategy."""
        return EvolutionSettings(**self.model_dump(exclude={"stages", "deviations", "num_finalists"}))

    def race(self, num_sequences: int) -> RaceSettings:
        """Return how candidates race over some sequences.

        Raises:
            ValueError: the stages do not grow towards that number.
        """
        return RaceSettings(stages=(*self.stages, num_sequences), deviations=self.deviations)


class ArmParameters(Strict):
    """One training arm."""

    learning_rate: float = Field(gt=0)
    """Peak, chosen for the arm's initialisation."""
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
    """For every bin, the spaces to search in it."""

    model_config = ConfigDict(frozen=True)

    def variants(self) -> list[tuple[str, str]]:
        """Return all (bin, space) pairs."""
        return [(bin_name, space) for bin_name, spaces in self.root.items() for space in spaces]


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
        self.search.race(self.measurement.selection)
        return self


def read_parameters(raw: Mapping[str, Any]) -> ProjectParameters:
    """Validate all parameters of an environment at once.

    Raises:
        ValueError: one line for everything that is wrong, with its path.
    """
    try:
        return ProjectParameters.model_validate(dict(raw))
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
