"""Parameter bins: how large a sub-network may be, and what it may take."""

from bisect import bisect_left, bisect_right
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Self

import numpy as np
from numpy.typing import NDArray

from budwood.arch.count import num_parameters
from budwood.arch.limits import Amounts, Limit
from budwood.arch.population import Population
from budwood.arch.spec import Architecture


@dataclass(frozen=True, slots=True)
class ParameterBin:
    """A closed range of parameter counts (paper, section 2.2), and limits of what else members take."""

    low: int
    high: int
    limits: tuple[Limit, ...] = ()
    least_load: float = 0.0
    """The smallest share that a member uses of that limit of which it uses most. 0: parameters alone say how small it
    may be; above: nothing else does, and draws take as many neurons as the limits allow."""

    def __post_init__(self) -> None:
        """Refuse an empty range.

        Raises:
            ValueError: the bounds are not positive or not in order.
        """
        if not 0 < self.low < self.high:
            raise ValueError(f"a parameter bin needs 0 < low < high, got low={self.low:,} and high={self.high:,}")

    @classmethod
    def around(cls, center: float, tolerance: float = 0.05) -> Self:
        """Return the bin of `center` plus or minus a relative tolerance (paper, section 4.2: 5%)."""
        return cls(round(center * (1 - tolerance)), round(center * (1 + tolerance)))

    def __contains__(self, count: int) -> bool:
        """Whether a parameter count lies in the bin."""
        return self.low <= count <= self.high

    def loads(self, population: Population) -> Amounts:
        """Return [N] the largest share that every architecture uses of a limit; 0 where there are none."""
        shares = [limit.amounts(population) / limit.most for limit in self.limits]
        return np.asarray(np.max([np.zeros(len(population)), *shares], axis=0))

    def load(self, architecture: Architecture) -> float:
        """Return the same for one architecture."""
        return float(self.loads(Population.of([architecture]))[0]) if self.limits else 0.0

    def admits(self, architecture: Architecture) -> bool:
        """Whether an architecture has as many parameters as the bin asks for, and keeps its limits."""
        return num_parameters(architecture) in self and self.least_load <= self.load(architecture) <= 1

    def may_admit(self, narrowest: Population, widest: Population) -> NDArray[np.bool_]:
        """Return [N] whether limits can be kept by widths between some."""
        return np.asarray((self.loads(narrowest) <= 1) & (self.loads(widest) >= self.least_load))

    def fitting(self, widths: Sequence[int], sized: Callable[[int], Architecture]) -> Sequence[int]:
        """Return those of some ascending widths with which an architecture keeps the limits."""
        if not self.limits:
            return widths

        def load(width: int) -> float:
            return self.load(sized(width))

        return widths[bisect_left(widths, self.least_load, key=load) : bisect_right(widths, 1.0, key=load)]

    def __str__(self) -> str:
        """Return the bounds in millions, and the limits."""
        parameters = [] if self.least_load else [f"{self.low / 1e6:,.2f}M-{self.high / 1e6:,.2f}M"]
        return ", ".join([*parameters, *map(str, self.limits)])


def require_disjoint(bins: Mapping[str, ParameterBin]) -> None:
    """Check that no parameter count lies in two bins without limits.

    Raises:
        ValueError: two bins overlap; the message names them.
    """
    ordered = sorted(((name, each) for name, each in bins.items() if not each.limits), key=lambda entry: entry[1].low)
    for (name, first), (other, second) in pairwise(ordered):
        if second.low <= first.high:
            raise ValueError(f"bins {name!r} ({first}) and {other!r} ({second}) overlap; every count needs one bin")
