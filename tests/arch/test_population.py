"""Counting many architectures at once agrees with counting each."""

import numpy as np
from hypothesis import given, settings
from strategies import generators, sample_any, spaces

from budwood.arch.count import num_parameters, population_parameters
from budwood.arch.population import Population
from budwood.arch.sampling import draw_many
from budwood.arch.space import SearchSpace


@given(spaces(), generators)
def test_members_are_counted_as_alone_and_come_back(space: SearchSpace, rng: np.random.Generator) -> None:
    """Their depths differ, and in layer-wise spaces all else."""
    architectures = [sample_any(space, rng).architecture(space.teacher) for _ in range(8)]
    population = Population.of(architectures)
    counts = population_parameters(population, space.teacher)
    assert counts.tolist() == [num_parameters(architecture) for architecture in architectures]
    assert [population.architecture(row, space.teacher) for row in range(len(population))] == architectures


@given(spaces(), generators)
@settings(max_examples=50)
def test_draws_are_counted_as_alone(space: SearchSpace, rng: np.random.Generator) -> None:
    population = draw_many(space, 20, rng).population
    counts = population_parameters(population, space.teacher)
    for row in np.flatnonzero(population.hidden_size):
        assert num_parameters(population.architecture(int(row), space.teacher)) == counts[row]
