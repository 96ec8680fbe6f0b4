"""What the paper's ablations compare: their settings, and all that is trained for them. Imports no torch."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Self

from pydantic import BeforeValidator, Field, model_validator

from budwood.models.settings import TeacherSettings
from budwood.records.names import Variant, require_names
from budwood.records.strict import Strict, without_nulls
from budwood.search.fitness import check_fitness
from budwood.training.settings import Arms, ArmSettings

GRID_SETTINGS = ("alpha", "temperature", "top_k")
"""That the grid of distillation varies."""
_ABOUT = {
    # Paper, section 5 and figure 6.
    "spaces": (
        "Search spaces of {bin}",
        "The sub-network of every space in the bin `{bin}`, trained on the same tokens.",
    ),
    # Section 5 and figure 8.
    "metric": (
        "Metrics that guide a search of {bin}",
        (
            "The space `{space}` of the bin `{bin}`, searched with the same budget by each metric; what it ranks first "
            "is trained on the same tokens."
        ),
    ),
    # Section 5 and figure 7.
    "logits": (
        "Logits of the teacher of {bin}",
        "One sub-network, distilled on the same tokens from the whole distribution of its teacher or from parts.",
    ),
    # Appendix D, figure 13 and table 7.
    "teacher": (
        "Teachers of {bin}",
        "One sub-network of the study's own teacher, distilled on the same tokens by each teacher.",
    ),
    # Appendix G, figures 18 to 20 and table 15.
    "kd_grid": (
        "Settings of distillation of {bin}",
        "One sub-network, distilled on the same tokens with every combination; beta is 1 - alpha.",
    ),
}
"""Title and what is varied, of every ablation by its name."""
NAMES = tuple(_ABOUT)


class VariantName(Strict):
    """A bin and a space of the study, whether or not its grid combines them."""

    bin: str
    """Name of a bin."""
    space: str
    """Name of a space."""

    @property
    def variant(self) -> Variant:
        """The bin and the space."""
        return Variant(self.bin, self.space)


class AblationTeacher(Strict):
    """One of several teachers: the study's own where nothing is given, a sub-network of it, or another model."""

    subnet: VariantName | None = None
    """The sub-network that a search found in this bin and space."""
    source: TeacherSettings | None = None
    """Of the same vocabulary as the study's teacher."""

    @model_validator(mode="after")
    def _one(self) -> Self:
        if self.subnet is not None and self.source is not None:
            raise ValueError("give `subnet` or `source`, or nothing for the study's own teacher")
        return self


class DistillationGrid(Strict):
    """All combinations of some settings of distillation (paper, appendix G); beta is 1 - alpha."""

    alpha: tuple[float, ...] = (0.2, 0.8, 0.0)
    """Weights of the text."""
    temperature: tuple[float, ...] = (0.8, 0.9, 1.0)
    """Temperatures."""
    top_k: tuple[int | None, ...] = (1024, 2048, None)
    """Of `topk_renorm`, as in the paper; null is the whole distribution."""

    @model_validator(mode="after")
    def _sensible(self) -> Self:
        for name in type(self).model_fields:
            values = getattr(self, name)
            if not values or len(set(values)) != len(values):
                raise ValueError(f"{name}: name at least one value, each once, got {list(values)}")
        if not all(0 <= alpha <= 1 for alpha in self.alpha):
            raise ValueError(f"alpha: shares between 0 and 1, got {list(self.alpha)}")
        return self

    def combinations(self) -> dict[str, dict[str, Any]]:
        """Return the changed settings of every combination, by name."""
        found = {}
        for alpha in self.alpha:
            for temperature in self.temperature:
                for top_k in self.top_k:
                    entries = {"loss": "full"} if top_k is None else {"loss": "topk_renorm", "top_k": top_k}
                    name = f"alpha {alpha:g}, T {temperature:g}, k {'all' if top_k is None else top_k}"
                    found[name] = {"alpha": alpha, "beta": 1 - alpha, "temperature": temperature, **entries}
        return found


class AblationSettings(Strict):
    """The paper's ablations (section 5, appendix G), each a pipeline of its own."""

    tokens: int = Field(gt=0)
    """On which everything that is compared is trained."""
    students: Annotated[dict[str, str], BeforeValidator(without_nulls)] = Field(min_length=1)
    """For every bin in which something is compared, the space whose sub-network the ablations of distillation train."""
    spaces: tuple[str, ...] = Field(min_length=1)
    """Compared in these bins."""
    metrics: tuple[str, ...] = ("perplexity", "importance", "magnitude")
    """By which searches of one space are guided; see `search.fitness`."""
    metric_space: str | None = None
    """Space in which the metrics are compared; null: the student's."""
    logits: Annotated[dict[str, dict[str, Any]], BeforeValidator(without_nulls)] = Field(min_length=1)
    """Settings of distillation by name; each changes some of `arms.distilled.distillation`."""
    teachers: Annotated[dict[str, AblationTeacher], BeforeValidator(without_nulls)] = Field(min_length=1)
    """By name."""
    kd_grid: DistillationGrid = DistillationGrid()

    @model_validator(mode="after")
    def _known(self) -> Self:
        taken: dict[Variant, str] = {}
        for metric in self.metrics:
            check_fitness(metric)
            name = self.searched_by(metric, "")
            if name in taken:
                raise ValueError(
                    f"metrics: {taken[name]} and {metric} would both call what they find {name.space}; name every "
                    "metric once, and rename a function"
                )
            taken[name] = metric
        require_names("ablations.teachers", self.teachers)
        require_names("ablations.logits", self.logits)
        return self

    def student(self, bin_name: str) -> Variant:
        """Return whose sub-network is trained in a bin."""
        return Variant(bin_name, self.students[bin_name])

    def metric_variant(self, bin_name: str) -> Variant:
        """Return what the metrics search in a bin."""
        return Variant(bin_name, self.metric_space or self.students[bin_name])

    def searched_by(self, metric: str, bin_name: str) -> Variant:
        """Return the name of what a search finds in a bin that a metric guides."""
        return Variant(bin_name, f"by_{metric.replace('.', '_')}")

    def places(self) -> list[Variant]:
        """Return every bin and space that is named."""
        of_teachers = [teacher.subnet.variant for teacher in self.teachers.values() if teacher.subnet is not None]
        compared = [Variant(bin_name, space) for bin_name in self.students for space in self.spaces]
        own = [variant for name in self.students for variant in (self.student(name), self.metric_variant(name))]
        return [*own, *compared, *of_teachers]


_OWN_TEACHER = AblationTeacher()


@dataclass(frozen=True, slots=True)
class SubnetSearch:
    """A search, by what it finds."""

    found: Variant
    """The sub-network's name."""
    searched: Variant
    """The bin and the space."""
    metric: str | None = None
    """What guides it in place of the study's own fitness."""


@dataclass(frozen=True, slots=True)
class Comparison:
    """One thing that is compared."""

    name: str
    start: SubnetSearch
    """Finds the sub-network that training begins with."""
    settings: Mapping[str, str | float | None]
    """What it changes, for the table."""
    arm: ArmSettings
    """How it is trained."""
    teacher: AblationTeacher = _OWN_TEACHER
    """Called as the comparison is, where it is not the study's own."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Ablation:
    """One ablation in one bin."""

    name: str
    bin: str
    title: str
    about: str
    """What is varied, in a sentence."""
    comparisons: tuple[Comparison, ...]

    @property
    def searches(self) -> tuple[SubnetSearch, ...]:
        """What finds the sub-networks that are trained or teach, each once."""
        taught = [_plainly(each.teacher.subnet.variant) for each in self.comparisons if each.teacher.subnet is not None]
        return tuple(dict.fromkeys([*(each.start for each in self.comparisons), *taught]))

    @property
    def grid_settings(self) -> tuple[str, ...]:
        """Columns whose importance is computed."""
        return GRID_SETTINGS if self.name == "kd_grid" else ()


def ablations_of(settings: AblationSettings, arms: Mapping[str, Arms]) -> list[Ablation]:
    """Return all ablations, each in every bin.

    Args:
        settings: what is varied.
        arms: how models are trained, by bin.
    """
    found = []
    compared = {bin_name: _compared(settings, bin_name, arms[bin_name]) for bin_name in settings.students}
    for name, texts in _ABOUT.items():
        for bin_name, comparisons in compared.items():
            words = {"bin": bin_name, "space": settings.metric_variant(bin_name).space}
            title, about = (text.format(**words) for text in texts)
            of_name = tuple(comparisons[name])
            found.append(Ablation(name=name, bin=bin_name, title=title, about=about, comparisons=of_name))
    return found


def _compared(ablations: AblationSettings, bin_name: str, arms: Arms) -> dict[str, list[Comparison]]:
    """Return what every ablation compares in a bin, by its name."""
    student, plain, taught = _plainly(ablations.student(bin_name)), arms.subnet_init, arms.distilled.with_distillation
    spaces = {space: _plainly(Variant(bin_name, space)) for space in ablations.spaces}
    searched = ablations.metric_variant(bin_name)
    guided = {each: SubnetSearch(ablations.searched_by(each, bin_name), searched, each) for each in ablations.metrics}
    return {
        "spaces": [Comparison(space, search, {"space": space}, plain) for space, search in spaces.items()],
        "metric": [Comparison(metric, search, {"metric": metric}, plain) for metric, search in guided.items()],
        "logits": [
            Comparison(name, student, {"logits": name}, taught(changes)) for name, changes in ablations.logits.items()
        ],
        "teacher": [
            Comparison(name, student, {"teacher": name}, taught({}), teacher)
            for name, teacher in ablations.teachers.items()
        ],
        "kd_grid": [
            Comparison(name, student, {setting: changes.get(setting) for setting in GRID_SETTINGS}, taught(changes))
            for name, changes in ablations.kd_grid.combinations().items()
        ],
    }


def _plainly(variant: Variant) -> SubnetSearch:
    """Return the study's own search of a variant."""
    return SubnetSearch(variant, variant)
