"""Searches of a small teacher whose losses are synthetic: how far a candidate is from an optimum."""

from collections.abc import Callable, Sequence

import numpy as np
from strategies import KINDS, layer, llama

from budwood.arch.bins import ParameterBin
from budwood.arch.count import num_parameters
from budwood.arch.selection import Selection
from budwood.arch.space import SearchSpace
from budwood.arch.spec import Architecture
from budwood.search.candidate import Candidate, Evaluation
from budwood.search.evolution import Strategy
from budwood.search.settings import SearchSettings

TEACHER = llama(32, 16, *[layer(6, 3, 8, 12)] * 4)
SPACES = {
    f"{granularity} {'layerwise' if layerwise else 'uniform'}": SearchSpace(
        teacher=TEACHER, granularity=granularity, layerwise=layerwise
    )
    for granularity, layerwise in KINDS
}
UNIFORM = SPACES["coarse uniform"]
HALF = ParameterBin.around(0.5 * num_parameters(TEACHER), 0.2)
FIFTH = ParameterBin.around(0.2 * num_parameters(TEACHER), 0.1)
SMALL = SearchSettings(population=8, epochs=4, num_elites=4, num_mutants=3, num_crossovers=3, num_randoms=2)


def distance(architecture: Architecture, optimum: Architecture) -> float:
    """Return a synthetic loss: how far the mean sizes of the layers are from those of an optimum."""
    return float(np.abs(np.log(_mean_sizes(architecture)) - np.log(_mean_sizes(optimum))).sum())


def _mean_sizes(architecture: Architecture) -> np.ndarray:
    layers = [
        (spec.num_attention_heads, spec.num_key_value_heads, spec.head_dim, spec.intermediate_size)
        for spec in architecture.layers
    ]
    return np.array([architecture.hidden_size, len(layers), *np.mean(layers, axis=0)])


def to_teacher(selection: Selection) -> float:
    """Return a synthetic loss: how far a sub-network's mean sizes are from its teacher's."""
    return distance(selection.architecture(TEACHER), TEACHER)


def results(
    candidates: Sequence[Candidate], loss: Callable[[Selection], float] = to_teacher
) -> list[tuple[Candidate, Evaluation]]:
    """Return candidates with a synthetic loss."""
    return [
        (candidate, Evaluation(sequence_losses=[loss(candidate.selection)], tokens=1, flops=1.0, seconds=0.0))
        for candidate in candidates
    ]


def run(strategy: Strategy, loss: Callable[[Selection], float] = to_teacher) -> list[Candidate]:
    """Run a strategy on a synthetic loss and return all it asked for."""
    asked: list[Candidate] = []
    for _ in range(strategy.proposer.settings.epochs + 1):
        generation = strategy.ask()
        strategy.tell(results(generation, loss))
        asked += generation
    return asked
