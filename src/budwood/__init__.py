"""Cut a good sub-network out of a large pretrained language model and grow it into a small one.

The names below are imported when they are first used; see `budwood.study.door`.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from budwood.arch.selection import LayerSelection, Selection
    from budwood.corpus.settings import CorpusSettings, SourceSettings
    from budwood.evaluation.settings import EfficiencySettings
    from budwood.models.checkpoint import Checkpoint
    from budwood.models.settings import TeacherSettings
    from budwood.search.settings import SearchSettings
    from budwood.study.door import open_study
    from budwood.study.serving_speed import FittedSpeed, Timing, fit_serving_speed, measure_serving_speed
    from budwood.study.settings import BinSettings, LimitSettings, MeasurementSettings, ServingSpeed
    from budwood.study.study import Study, Subnet
    from budwood.subnet.settings import Compensation, Ordering, SpaceSettings
    from budwood.training.settings import DistillationSettings, Engine, RateSweep, Schedule

__version__ = "0.2.0"

_MODULES = {
    "budwood.arch.selection": ("LayerSelection", "Selection"),
    "budwood.corpus.settings": ("CorpusSettings", "SourceSettings"),
    "budwood.evaluation.settings": ("EfficiencySettings",),
    "budwood.models.checkpoint": ("Checkpoint",),
    "budwood.models.settings": ("TeacherSettings",),
    "budwood.search.settings": ("SearchSettings",),
    "budwood.study.door": ("open_study",),
    "budwood.study.serving_speed": ("FittedSpeed", "Timing", "fit_serving_speed", "measure_serving_speed"),
    "budwood.study.settings": ("BinSettings", "LimitSettings", "MeasurementSettings", "ServingSpeed"),
    "budwood.study.study": ("Study", "Subnet"),
    "budwood.subnet.settings": ("Compensation", "Ordering", "SpaceSettings"),
    "budwood.training.settings": ("DistillationSettings", "Engine", "RateSweep", "Schedule"),
}

__all__ = [
    "BinSettings",
    "Checkpoint",
    "Compensation",
    "CorpusSettings",
    "DistillationSettings",
    "EfficiencySettings",
    "Engine",
    "FittedSpeed",
    "LayerSelection",
    "LimitSettings",
    "MeasurementSettings",
    "Ordering",
    "RateSweep",
    "Schedule",
    "SearchSettings",
    "Selection",
    "ServingSpeed",
    "SourceSettings",
    "SpaceSettings",
    "Study",
    "Subnet",
    "TeacherSettings",
    "Timing",
    "fit_serving_speed",
    "measure_serving_speed",
    "open_study",
]


def __getattr__(name: str) -> Any:
    for module, names in _MODULES.items():
        if name in names:
            return getattr(import_module(module), name)
    raise AttributeError(f"module 'budwood' has no attribute {name!r}")


def __dir__() -> list[str]:
    return [*__all__, "__version__"]
