"""All parameters of an environment: what `conf/*/parameters.yml` may contain, checked together before anything runs."""

from budwood.parameters.ablations import AblationSettings, AblationTeacher, DistillationGrid, VariantName
from budwood.parameters.plan import PlanSettings
from budwood.parameters.project import PAPER, ProjectParameters, expand_presets, read_parameters

__all__ = [
    "PAPER",
    "AblationSettings",
    "AblationTeacher",
    "DistillationGrid",
    "PlanSettings",
    "ProjectParameters",
    "VariantName",
    "expand_presets",
    "read_parameters",
]
