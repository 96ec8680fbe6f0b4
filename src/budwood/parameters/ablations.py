"""What is varied while everything else stays."""

from typing import Any, Self

from pydantic import Field, model_validator

from budwood.models.settings import TeacherSettings
from budwood.records.names import Variant, require_names
from budwood.records.strict import Strict
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
    student: VariantName
    """What is trained in the ablations of distillation."""
    spaces: tuple[str, ...] = Field(min_length=1)
    """Compared in the student's bin."""
    metrics: tuple[str, ...] = ("perplexity", "importance", "magnitude")
    """By which searches of one space are guided; see `search.fitness`."""
    metric_space: str
    """Space in which the metrics are compared."""
    logits: dict[str, dict[str, Any]] = Field(min_length=1)
    """Settings of distillation by name; each changes some of `arms.distilled.distillation`."""
    teachers: dict[str, AblationTeacher] = Field(min_length=1)
    """By name."""
    kd_grid: DistillationGrid = DistillationGrid()

    @model_validator(mode="after")
    def _known(self) -> Self:
        for metric in self.metrics:
            check_fitness(metric)
        require_names("ablations.teachers", self.teachers)
        return self

    def searched_by(self, metric: str) -> Variant:
        """Return the name of what a search finds that a metric guides."""
        return Variant(self.student.bin, f"by_{metric.replace('.', '_')}")

    def places(self) -> list[VariantName]:
        """Return every bin and space that is named."""
        of_teachers = [teacher.subnet for teacher in self.teachers.values() if teacher.subnet is not None]
        spaces = (*self.spaces, self.metric_space)
        return [self.student, *of_teachers, *(VariantName(bin=self.student.bin, space=space) for space in spaces)]
