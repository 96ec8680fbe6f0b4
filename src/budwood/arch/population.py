"""Sizes of many architectures at once, as arrays: what a population is counted by."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Self

import numpy as np
from numpy.typing import NDArray

from budwood.arch.spec import Architecture, LayerSpec

Sizes = NDArray[np.int64]

# Shape legend: N architectures, L layers of the deepest.


@dataclass(frozen=True, slots=True)
class Population:
    """N architectures of one family and vocabulary; a layer that an architecture lacks has only zeros."""

    hidden_size: Sizes
    """[N]"""
    groups: Sizes
    """[N, L] key/value heads."""
    queries: Sizes
    """[N, L] query heads of a group."""
    head_dim: Sizes
    """[N, L]"""
    intermediate_size: Sizes
    """[N, L]"""

    def __len__(self) -> int:
        """Return the number of architectures."""
        return len(self.hidden_size)

    @classmethod
    def of(cls, architectures: Sequence[Architecture]) -> Self:
        """Gather the sizes of architectures."""
        depth = max(architecture.num_hidden_layers for architecture in architectures)
        sizes = np.zeros((4, len(architectures), depth), dtype=np.int64)
        for row, architecture in enumerate(architectures):
            for position, layer in enumerate(architecture.layers):
                sizes[:, row, position] = layer.sizes
        hidden = np.array([architecture.hidden_size for architecture in architectures], dtype=np.int64)
        return cls(hidden, *sizes)

    def architecture(self, row: int, teacher: Architecture) -> Architecture:
        """Return one of the architectures, with the family and vocabulary of a teacher."""
        sizes = (self.groups[row], self.queries[row], self.head_dim[row], self.intermediate_size[row])
        layers = tuple(LayerSpec.of(*layer) for layer in np.stack(sizes, axis=1).tolist() if layer[0])
        return replace(teacher, hidden_size=int(self.hidden_size[row]), layers=layers)
