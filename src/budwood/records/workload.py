"""What a machine has to do, by kinds that have a speed of their own."""

from dataclasses import dataclass, fields


@dataclass(frozen=True, slots=True, kw_only=True)
class Workload:
    """Work, or what a machine does of it in a second."""

    passes: float = 0.0
    """FLOPs of forward passes, in the precision in which models read text."""
    products: float = 0.0
    """FLOPs of other matrix products, in float32."""
    solves: float = 0.0
    """FLOPs of solving positive definite systems, in float32."""
    moved: float = 0.0
    """Numbers that are read, permuted, converted or written."""

    @property
    def flops(self) -> float:
        """What is computed."""
        return self.passes + self.products + self.solves

    def __add__(self, other: "Workload") -> "Workload":
        """Return both together."""
        return Workload(**{each.name: getattr(self, each.name) + getattr(other, each.name) for each in fields(self)})

    def times(self, factor: float) -> "Workload":
        """Return the work done so often."""
        return Workload(**{each.name: factor * getattr(self, each.name) for each in fields(self)})

    def seconds(self, speed: "Workload") -> float:
        """Return how long it takes a machine that does so much in a second, one thing after the other."""
        return sum(float(getattr(self, each.name) / getattr(speed, each.name)) for each in fields(self))
