"""Limits: what a sub-network may take where it is used, as functions of its sizes that rise with each of them."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from budwood.arch.bytes import spell_bytes
from budwood.arch.count import layer_kv_bytes, population_flops_per_token, population_parameters
from budwood.arch.population import Population
from budwood.arch.spec import Architecture

Amounts = NDArray[np.float64]

MEMORY_IN_USE, TOKEN_TIME, PROMPT_TIME = "memory", "time per token", "time per prompt"
"""What may be limited."""

_BITS = 8


@dataclass(frozen=True, slots=True)
class Limit:
    """The most that a sub-network may take of something."""

    name: str
    """Of `MEMORY_IN_USE`, `TOKEN_TIME` or `PROMPT_TIME`."""
    most: float
    amounts: Callable[[Population], Amounts]
    """[N] what every architecture takes, in bytes or seconds. No larger one may take less."""
    per_parameter: float
    """What a further parameter adds at least."""

    def of(self, architecture: Architecture) -> float:
        """Return what one architecture takes."""
        return float(self.amounts(Population.of([architecture]))[0])

    def __str__(self) -> str:
        """Return the limit in words."""
        return f"{self.name} of at most {in_words(self.name, self.most)}"


def in_words(name: str, amount: float) -> str:
    """Return what is taken of a limit, or may be, exactly enough that the two can be compared."""
    return spell_bytes(amount, digits=4) if name == MEMORY_IN_USE else f"{1e3 * amount:,.4g} ms"


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


@dataclass(frozen=True, slots=True, kw_only=True)
class TimeTaken:
    """Seconds in which every sequence of a batch gets further tokens.

    A sum of what every layer takes on its own, of bytes that are read and of operations: an upper bound where a device
    does some of these at once.
    """

    memory: MemoryInUse
    """What is read: all weights, and the keys and values of all tokens in the cache."""
    num_tokens: int
    """Further ones of every sequence, read at once; logits are made of the last."""
    batch_size: int
    layer_seconds: float
    bytes_per_second: float
    flops_per_second: float

    @property
    def seconds_per_parameter(self) -> float:
        """Seconds that reading a weight takes."""
        return self.memory.bytes_per_parameter / self.bytes_per_second

    def __call__(self, population: Population) -> Amounts:
        """Return [N] the seconds of every architecture."""
        return np.asarray(
            self.parts(population) @ (self.layer_seconds, 1 / self.bytes_per_second, 1 / self.flops_per_second)
        )

    def parts(self, population: Population) -> Amounts:
        """Return [N, 3] layers, bytes and FLOPs."""
        teacher, before = self.memory.teacher, self.memory.tokens // self.batch_size
        # A causal mask keeps half of what the further tokens see of each other.
        layers = population_flops_per_token(population, teacher, context=before + self.num_tokens / 2)
        head = 2 * teacher.vocab_size * population.hidden_size
        flops = self.batch_size * (self.num_tokens * layers + head)
        return np.stack([(population.groups > 0).sum(1), self.memory(population), flops], axis=1)
