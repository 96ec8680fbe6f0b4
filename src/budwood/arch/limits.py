"""Limits: what a sub-network may take where it is used, as functions of its sizes that rise with each of them."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from budwood.arch.bytes import spell_bytes
from budwood.arch.count import layer_kv_bytes, population_parameters
from budwood.arch.population import Population
from budwood.arch.spec import Architecture

Amounts = NDArray[np.float64]

_BITS = 8


@dataclass(frozen=True, slots=True)
class Limit:
    """The most that a sub-network may take of something."""

    name: str
    most: float
    amounts: Callable[[Population], Amounts]
    """[N] what every architecture takes, in bytes. No larger one may take less."""
    per_parameter: float
    """What a further parameter adds at least."""

    def of(self, architecture: Architecture) -> float:
        """Return what one architecture takes."""
        return float(self.amounts(Population.of([architecture]))[0])

    def __str__(self) -> str:
        """Return the limit in words."""
        return f"{self.name} of at most {in_words(self.most)}"


def in_words(amount: float) -> str:
    """Return what is taken, or may be, exactly enough that the two can be compared."""
    return spell_bytes(amount, digits=4)


@dataclass(frozen=True, slots=True)
class MemoryInUse:
    """Bytes of weights, and of keys and values in 16 bits as if every layer kept all tokens."""

    teacher: Architecture
    """Gives the family, the vocabulary and whether the head is tied."""
    weight_bits: float
    tokens: int
    """In the cache, of all sequences."""

    @property
    def bytes_per_parameter(self) -> float:
        """Bytes of a weight."""
        return self.weight_bits / _BITS

    def __call__(self, population: Population) -> Amounts:
        """Return [N] the bytes of every architecture."""
        weights = population_parameters(population, self.teacher) * self.bytes_per_parameter
        return np.asarray(weights + self.tokens * layer_kv_bytes(population.groups, population.head_dim).sum(1))
