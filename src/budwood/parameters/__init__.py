"""Typed parameters: what `conf/*/parameters.yml` may hold. Kedro validates them before any node runs."""

from budwood.corpus.settings import CorpusSettings as CorpusParameters
from budwood.corpus.settings import SourceSettings as SourceParameters
from budwood.parameters.ablations import AblationParameters, AblationTeacher, Place, changed_arm
from budwood.parameters.arms import ArmParameters, Arms
from budwood.parameters.grid import BinParameters, Bins, Grid, SpaceParameters, Spaces
from budwood.parameters.measurement import EvaluationParameters, MeasurementParameters
from budwood.parameters.plan import PlanParameters
from budwood.parameters.project import PAPER, SELECTED, ProjectParameters, expand_presets, read_parameters
from budwood.parameters.protocol import ProtocolParameters, with_tokens
from budwood.parameters.teacher import ModelSizes, TeacherParameters

__all__ = [
    "PAPER",
    "SELECTED",
    "AblationParameters",
    "AblationTeacher",
    "ArmParameters",
    "Arms",
    "BinParameters",
    "Bins",
    "CorpusParameters",
    "EvaluationParameters",
    "Grid",
    "MeasurementParameters",
    "ModelSizes",
    "Place",
    "PlanParameters",
    "ProjectParameters",
    "ProtocolParameters",
    "SourceParameters",
    "SpaceParameters",
    "Spaces",
    "TeacherParameters",
    "changed_arm",
    "expand_presets",
    "read_parameters",
    "with_tokens",
]
