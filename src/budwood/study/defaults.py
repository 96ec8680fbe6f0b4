"""What a study in Python takes for itself where nothing is given; small enough for two processor cores."""

from budwood.search.settings import SearchSettings
from budwood.study.settings import MeasurementSettings
from budwood.subnet.settings import Compensation, SpaceSettings
from budwood.training.settings import Arms, ArmSettings, DistillationSettings, Schedule

SEARCH = SearchSettings(
    population=7,
    num_balanced=4,
    epochs=2,
    num_elites=4,
    num_mutants=3,
    num_crossovers=2,
    num_randoms=2,
    compare="corrected",
    num_finalists=2,
)
SPACE = SpaceSettings(layerwise=False, alignment=16, compensation=Compensation(refit=True))
SCHEDULE = Schedule.model_validate({"preset": "quickstart"})
LEARNING_RATE, RANDOM_LEARNING_RATE = 3e-4, 3e-3
"""Peaks for weights and for random ones, chosen for `SCHEDULE`; longer runs take higher ones."""
MFU = 0.2
"""Share of a peak that plans expect."""
SHARES = {"train": 0.8, "calibration": 0.05, "selection": 0.05, "choice": 0.05, "validation": 0.05}
"""Shares of a text whose division is not given."""
MEASUREMENT = MeasurementSettings(
    length=256, calibration=16, elimination=1, selection=6, choice=4, validation=6, heldout=4
)
ARM_SETTINGS = Arms(
    random_init=ArmSettings(learning_rate=RANDOM_LEARNING_RATE),
    reference_init=ArmSettings(learning_rate=RANDOM_LEARNING_RATE),
    subnet_init=ArmSettings(learning_rate=LEARNING_RATE),
    distilled=ArmSettings(learning_rate=LEARNING_RATE, distillation=DistillationSettings()),
)
