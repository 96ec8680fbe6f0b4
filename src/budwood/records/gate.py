"""Checks that everything after them rests on."""

from budwood.records.cost import Cost
from budwood.records.strict import Strict

OVERFIT_STEPS = 20
"""Optimiser steps on one batch by which a student shows that it learns."""
LONG_STEPS = 50 * OVERFIT_STEPS
"""A run of so many steps is long enough to spend a fiftieth of it on that."""


class Gate(Strict):
    """One check: a number that must be below a limit."""

    name: str
    """What was checked."""
    value: float
    limit: float
    unit: str
    cost: Cost
    once: bool = False
    """Whether it is checked once for all runs of a variant, which begin alike."""

    @property
    def passed(self) -> bool:
        """Whether the value is below its limit, which what is no number is not."""
        return self.value < self.limit

    def describe(self) -> str:
        """Return what was found."""
        return f"{self.name}: {self.value:.4g} {self.unit}, which must be below {self.limit:g}"
