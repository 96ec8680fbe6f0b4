"""What a machine has to do, by kinds that have a speed of their own."""

from dataclasses import dataclass, fields


@dataclass(frozen=True, slots=True, kw_only=True)
class Workload:
    """Work, or what a machine does of it in a second."""

    passes: float = 0.0
    """FLOPs of forward passes, in the precision in which models read text."""
    products: float = 0.0
    """FLOPs of other matrix products, in float32; solving a large system is most of all products."""
    panels: float = 0.0
    """What solving takes beside products, panel by panel: its FLOPs over the rows of the system."""
    entries: float = 0.0
    """Numbers that are made of tokens, beside products."""
    moved: float = 0.0
    """Numbers of weights and moments that are read, permuted, converted or written."""

    @property
    def flops(self) -> float:
        """What is computed."""
        return self.passes + self.products

    @classmethod
    def solving(cls, flops: float, rows: int) -> "Workload":
        """Return the work of solving positive definite systems.

        Args:
            flops: of all of them.
            rows: of each.
        """
        return cls(products=flops, panels=flops / rows)

    def __add__(self, other: "Workload") -> "Workload":
        """Return both together."""
        return Workload(**{each.name: getattr(self, each.name) + getattr(other, each.name) for each in fields(self)})

    def times(self, factor: float) -> "Workload":
        """Return the work done so often."""
        return Workload(**{each.name: factor * getattr(self, each.name) for each in fields(self)})

    def seconds(self, speed: "Workload") -> float:
        """Return how long it takes a machine that does so much in a second, one thing after the other."""
        return sum(float(getattr(self, each.name) / getattr(speed, each.name)) for each in fields(self))
