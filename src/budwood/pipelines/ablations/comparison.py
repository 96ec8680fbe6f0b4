"""What ablations compare: one table of them."""

from collections.abc import Mapping
from dataclasses import dataclass

from budwood.parameters import AblationSettings, AblationTeacher, ProjectParameters
from budwood.pipelines.wiring import Place
from budwood.records.names import Variant
from budwood.training.settings import Arms, ArmSettings

GRID_SETTINGS = ("alpha", "temperature", "top_k")


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


@dataclass(frozen=True, slots=True)
class Comparison:
    """One thing that is compared."""

    name: str
    subnet: str
    """Dataset of the sub-network that training begins with."""
    settings: Mapping[str, str | float | None]
    """What it changes, for the table."""
    arm: ArmSettings
    """How it is trained."""
    teacher: str = "teacher"
    """Dataset of its teacher."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Ablation:
    """One ablation in one bin."""

    name: str
    bin: str
    title: str
    about: str
    """What is varied, in a sentence."""
    comparisons: tuple[Comparison, ...]
    searched: tuple[Variant, ...] = ()
    """Variants whose searches it needs."""
    settings: tuple[str, ...] = ()
    """Columns whose importance is computed."""

    @property
    def models(self) -> tuple[str, ...]:
        """Datasets of all models beside the study's teacher."""
        names = (name for each in self.comparisons for name in (each.subnet, each.teacher) if name != "teacher")
        return tuple(dict.fromkeys(names))


def ablations_of(parameters: ProjectParameters) -> list[Ablation]:
    """Return the ablations of an environment, each in every bin; none where its parameters name none."""
    chosen = parameters.ablations
    if chosen is None:
        return []
    bins = {name: _compared(chosen, name, parameters.conditions_by_bin[name].arms) for name in chosen.students}
    return [_ablation(chosen, name, bin_name, compared[name]) for name in NAMES for bin_name, compared in bins.items()]


def metric_place(ablations: AblationSettings, metric: str, bin_name: str) -> Place:
    """Return where the search of a bin that a metric guides keeps what it finds."""
    return Place(ablations.searched_by(metric, bin_name), ("ablations",))


def teacher_dataset(name: str, teacher: AblationTeacher) -> str:
    """Return the dataset of one of several teachers."""
    if teacher.subnet is not None:
        return subnet_of(teacher.subnet.variant)
    return "teacher" if teacher.source is None else f"subnets.ablations.teacher.model_{name}"


def subnet_of(variant: Variant) -> str:
    """Return the dataset of a variant's sub-network."""
    return Place(variant).own("subnet")[0]


def _ablation(ablations: AblationSettings, name: str, bin_name: str, compared: list[Comparison]) -> Ablation:
    student, sources = ablations.student(bin_name), ablations.teachers.values()
    of_spaces = [Variant(bin_name, space) for space in ablations.spaces]
    exported = [teacher.subnet.variant for teacher in sources if teacher.subnet is not None]
    searched = {"spaces": of_spaces, "metric": [], "teacher": [student, *exported]}.get(name, [student])
    words = {"bin": bin_name, "space": ablations.metric_variant(bin_name).space}
    title, about = (text.format(**words) for text in _ABOUT[name])
    return Ablation(
        name=name,
        bin=bin_name,
        title=title,
        about=about,
        comparisons=tuple(compared),
        searched=tuple(dict.fromkeys(searched)),
        settings=GRID_SETTINGS if name == "kd_grid" else (),
    )


def _compared(ablations: AblationSettings, bin_name: str, arms: Arms) -> dict[str, list[Comparison]]:
    """Return what every ablation compares in a bin, by its name."""
    student, plain, taught = subnet_of(ablations.student(bin_name)), arms.subnet_init, arms.distilled.with_distillation
    return {
        "spaces": [
            Comparison(space, subnet_of(Variant(bin_name, space)), {"space": space}, plain)
            for space in ablations.spaces
        ],
        "metric": [
            Comparison(metric, subnet_of(ablations.searched_by(metric, bin_name)), {"metric": metric}, plain)
            for metric in ablations.metrics
        ],
        "logits": [
            Comparison(name, student, {"logits": name}, taught(changes)) for name, changes in ablations.logits.items()
        ],
        "teacher": [
            Comparison(name, student, {"teacher": name}, taught({}), teacher_dataset(name, teacher))
            for name, teacher in ablations.teachers.items()
        ],
        "kd_grid": [
            Comparison(name, student, {setting: changes.get(setting) for setting in GRID_SETTINGS}, taught(changes))
            for name, changes in ablations.kd_grid.combinations().items()
        ],
    }
