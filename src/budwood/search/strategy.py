"""The strategies of a search by name."""

from collections.abc import Mapping

from budwood.arch.bins import ParameterBin
from budwood.arch.space import SearchSpace
from budwood.search.evolution import Evolution, LocalSearch, RandomSearch, Strategy
from budwood.search.pareto import ParetoEvolution
from budwood.search.proposer import Proposer
from budwood.search.settings import SearchSettings, StrategyName

STRATEGIES: Mapping[StrategyName, type[Strategy]] = {
    "evolution": Evolution,
    "random": RandomSearch,
    "local": LocalSearch,
    "pareto": ParetoEvolution,
}


def open_strategy(space: SearchSpace, parameter_bin: ParameterBin, settings: SearchSettings) -> Strategy:
    """Return the strategy that settings name.

    Raises:
        ValueError: no member of the space lies in the bin.
    """
    return STRATEGIES[settings.strategy](Proposer(space, parameter_bin, settings))
