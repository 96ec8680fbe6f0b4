"""What is varied while everything else stays."""

from typing import Annotated, Any, Self

from pydantic import BeforeValidator, Field, model_validator

from budwood.models.settings import TeacherSettings
from budwood.records.names import Variant, require_names
from budwood.records.strict import Strict, without_nulls
from budwood.search.fitness import check_fitness


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
