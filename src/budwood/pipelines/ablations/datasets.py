"""Which datasets have the models that an ablation compares."""

from budwood.pipelines.wiring import Place
from budwood.records.names import Variant
from budwood.study.comparison import Ablation, Comparison

OWN_TEACHER = "teacher"
"""The study's."""


def model_datasets(ablation: Ablation) -> list[str]:
    """Return the study's teacher, then all other models, each once."""
    further = [name for each in ablation.comparisons for name in start_and_teacher(each)]
    return list(dict.fromkeys([OWN_TEACHER, *further]))


def start_and_teacher(comparison: Comparison) -> tuple[str, str]:
    """Return the sub-network that training begins with, and its teacher."""
    return _subnet(comparison.start.found), teacher_dataset(comparison)


def teacher_dataset(comparison: Comparison) -> str:
    """Return the teacher."""
    if comparison.teacher.subnet is not None:
        return _subnet(comparison.teacher.subnet.variant)
    return OWN_TEACHER if comparison.teacher.source is None else f"subnets.ablations.teacher.model_{comparison.name}"


def _subnet(variant: Variant) -> str:
    return Place(variant).own("subnet")[0]
