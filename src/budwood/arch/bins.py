"""Parameter bins: how large a sub-network may be."""

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import pairwise
from typing import Self


@dataclass(frozen=True, slots=True)
class ParameterBin:
    """A closed range of parameter counts (paper, section 2.2)."""

    low: int
    high: int

    def __post_init__(self) -> None:
        """Refuse an empty range.

        Raises:
            ValueError: the bounds are not positive or not in order.
        """
        if not 0 < self.low < self.high:
            raise ValueError(f"a parameter bin needs 0 < low < high, got low={self.low:,} and high={self.high:,}")

    @classmethod
    def around(cls, center: float, tolerance: float = 0.05) -> Self:
        """Return the bin of `center` plus or minus a relative tolerance (paper, section 4.2: 5 %)."""
        return cls(round(center * (1 - tolerance)), round(center * (1 + tolerance)))

    def __contains__(self, count: int) -> bool:
        """Whether a parameter count lies in the bin."""
        return self.low <= count <= self.high

    def __str__(self) -> str:
        """Return the bounds in millions."""
        return f"{self.low / 1e6:,.2f}M-{self.high / 1e6:,.2f}M"


def require_disjoint(bins: Mapping[str, ParameterBin]) -> None:
    """Check that no parameter count lies in two bins.

    Raises:
        ValueError: two bins overlap; the message names them.
    """
    ordered = sorted(bins.items(), key=lambda entry: entry[1].low)
    for (name, first), (other, second) in pairwise(ordered):
        if second.low <= first.high:
            raise ValueError(f"bins {name!r} ({first}) and {other!r} ({second}) overlap; every count needs one bin")
