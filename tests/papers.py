"""The paper's study of one bin, as a plan counts it."""

from strategies import pythia

from budwood.evaluation.settings import EvaluationSettings
from budwood.records.names import Variant
from budwood.reporting.accelerator import ACCELERATORS
from budwood.search.settings import SearchSettings
from budwood.study.forecast import Forecast
from budwood.study.planned import PlannedStudy
from budwood.study.settings import Conditions, MeasurementSettings, ProtocolSettings
from budwood.training.settings import Arms, ArmSettings, DistillationSettings, Engine, Schedule

PYTHIA_69B, PYTHIA_410M = pythia(50432, 32, 4096, 32), pythia(50304, 24, 1024, 16)
H100 = ACCELERATORS["h100"]
PAPERS = Schedule(
    tokens=10_000_000_000, sequence_length=2048, global_batch=1056, micro_batch=6, peak_learning_rate=3e-4
)
MEASUREMENT = MeasurementSettings(
    length=512, batch_size=16, calibration=64, elimination=4, selection=1000, choice=64, validation=200, heldout=32
)
SEARCH = SearchSettings(num_finalists=1)
SMALL = Variant("small", "coarse")
WRITTEN = 16 * (32 + 48 - 1)
"""Tokens that a model reads to continue 16 prompts of 32 tokens by 48; arms read as many of the teacher's."""


def forecast(**changes) -> Forecast:
    """Return a bin of which nothing but Pythia-410M can come out."""
    facts = {"variant": SMALL, "members": (PYTHIA_410M,), "center": PYTHIA_410M}
    return Forecast(**facts | {"compensation": None, "genes_bytes": 1000.0, "moments": None} | changes)


def conditions(**changes) -> Conditions:
    """Return the paper's conditions, with some groups replaced."""
    arm = ArmSettings()
    taught = ArmSettings(distillation=changes.pop("distillation", DistillationSettings()))
    groups = {"measurement": MEASUREMENT, "protocol": ProtocolSettings(), "schedule": PAPERS, "engine": Engine()}
    arms = Arms(random_init=arm, reference_init=arm, subnet_init=arm, distilled=taught)
    return Conditions(**groups | {"arms": arms} | changes)


def study(**changes) -> PlannedStudy:
    """Return the paper's study of one bin and one space; groups of its conditions are replaced by their names."""
    own = {name: changes.pop(name) for name in [*Conditions.model_fields, "distillation"] if name in changes}
    facts = {
        "teacher": PYTHIA_69B,
        "teacher_bytes_per_parameter": 2,
        "forecasts": (forecast(),),
        "search": SEARCH,
        "conditions": conditions(**own),
        "evaluation": EvaluationSettings(tasks=(), efficiency=None),
        "num_sources": {"train": 1, "calibration": 0, "selection": 0, "choice": 0, "validation": 1},
        "precision": "bfloat16",
    }
    return PlannedStudy(**facts | changes)


def row(planned, stage: str, arm: str = "", bin_name: str = "small") -> dict:
    """Return the one row of a stage."""
    rows = planned[(planned["stage"] == stage) & (planned["arm"] == arm) & (planned["bin"] == bin_name)]
    (found,) = rows.to_dict("records")
    return found
