"""What ablations compare: one table of them."""

from collections.abc import Mapping
from dataclasses import dataclass

from budwood.parameters import AblationSettings, AblationTeacher, ProjectParameters
from budwood.pipelines.wiring import Place
from budwood.records.names import Variant
from budwood.training.settings import Arms, ArmSettings

GRID_SETTINGS = ("alpha", "temperature", "top_k")


@dataclass(frozen=True, slots=True, kw_only=True)
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
    arms = {bin_name: parameters.conditions_by_bin[bin_name].arms for bin_name in chosen.students}
    kinds = (_spaces, _metric, _logits, _teacher, _grid)
    return [kind(chosen, bin_name, own) for kind in kinds for bin_name, own in arms.items()]


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


def _spaces(ablations: AblationSettings, bin_name: str, arms: Arms) -> Ablation:
    """Sub-networks of every space of one bin (paper, section 5 and figure 6)."""
    variants = {space: Variant(bin_name, space) for space in ablations.spaces}
    return Ablation(
        name="spaces",
        bin=bin_name,
        title=f"Search spaces of {bin_name}",
        about=f"The sub-network of every space in the bin `{bin_name}`, trained on the same tokens.",
        comparisons=tuple(
            Comparison(name=space, subnet=subnet_of(variant), settings={"space": space}, arm=arms.subnet_init)
            for space, variant in variants.items()
        ),
        searched=tuple(variants.values()),
    )


def _metric(ablations: AblationSettings, bin_name: str, arms: Arms) -> Ablation:
    """Searches of one space by several metrics (paper, section 5 and figure 8)."""
    found = {metric: metric_place(ablations, metric, bin_name) for metric in ablations.metrics}
    return Ablation(
        name="metric",
        bin=bin_name,
        title=f"Metrics that guide a search of {bin_name}",
        about=(
            f"The space `{ablations.metric_variant(bin_name).space}` of the bin `{bin_name}`, searched with the same "
            "budget by each metric; what it ranks first is trained on the same tokens."
        ),
        comparisons=tuple(
            Comparison(name=metric, subnet=place.own("subnet")[0], settings={"metric": metric}, arm=arms.subnet_init)
            for metric, place in found.items()
        ),
    )


def _logits(ablations: AblationSettings, bin_name: str, arms: Arms) -> Ablation:
    """One student distilled from all logits, the top of them, or draws (paper, section 5 and figure 7)."""
    student = ablations.student(bin_name)
    return Ablation(
        name="logits",
        bin=bin_name,
        title=f"Logits of the teacher of {bin_name}",
        about="One sub-network, distilled on the same tokens from the whole distribution of its teacher or from parts.",
        comparisons=tuple(
            Comparison(
                name=name,
                subnet=subnet_of(student),
                settings={"logits": name},
                arm=arms.distilled.with_distillation(changes),
            )
            for name, changes in ablations.logits.items()
        ),
        searched=(student,),
    )


def _teacher(ablations: AblationSettings, bin_name: str, arms: Arms) -> Ablation:
    """One student distilled by several teachers (paper, appendix D, figure 13 and table 7)."""
    student = ablations.student(bin_name)
    exported = [teacher.subnet.variant for teacher in ablations.teachers.values() if teacher.subnet is not None]
    return Ablation(
        name="teacher",
        bin=bin_name,
        title=f"Teachers of {bin_name}",
        about="One sub-network of the study's own teacher, distilled on the same tokens by each teacher.",
        comparisons=tuple(
            Comparison(
                name=name,
                subnet=subnet_of(student),
                settings={"teacher": name},
                arm=arms.distilled.with_distillation({}),
                teacher=teacher_dataset(name, teacher),
            )
            for name, teacher in ablations.teachers.items()
        ),
        searched=tuple(dict.fromkeys([student, *exported])),
    )


def _grid(ablations: AblationSettings, bin_name: str, arms: Arms) -> Ablation:
    """One student distilled with every combination of settings (paper, appendix G, figures 18 to 20 and table 15)."""
    student = ablations.student(bin_name)
    return Ablation(
        name="kd_grid",
        bin=bin_name,
        title=f"Settings of distillation of {bin_name}",
        about="One sub-network, distilled on the same tokens with every combination; beta is 1 - alpha.",
        comparisons=tuple(
            Comparison(
                name=name,
                subnet=subnet_of(student),
                settings={setting: changes.get(setting) for setting in GRID_SETTINGS},
                arm=arms.distilled.with_distillation(changes),
            )
            for name, changes in ablations.kd_grid.combinations().items()
        ),
        searched=(student,),
        settings=GRID_SETTINGS,
    )
