"""Evolution of a whole front: candidates that no other beats in loss and in size or speed at once (pymoo's NSGA-II)."""

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray
from pymoo.core.population import Population
from pymoo.core.problem import Problem
from pymoo.indicators.hv import HV
from pymoo.operators.survival.rank_and_crowding import RankAndCrowding
from pymoo.util.nds.non_dominated_sorting import NonDominatedSorting

from budwood.arch.count import num_parameters
from budwood.arch.selection import Selection
from budwood.search.candidate import Candidate, Evaluation
from budwood.search.evolution import Elite, Evolution
from budwood.search.settings import ObjectiveName

# Shape legend: M candidates, O objectives, the loss first.

Points = NDArray[np.float64]
"""[M, O], all minimised."""


def front(points: Points) -> NDArray[np.bool_]:
    """Return [M] which points no other dominates."""
    chosen = np.zeros(len(points), dtype=bool)
    chosen[NonDominatedSorting().do(points, only_non_dominated_front=True)] = True
    return chosen


def hypervolume(points: Points, reference: NDArray[np.float64]) -> float:
    """Return the volume that points dominate below a reference, in boxes from the origin to it.

    Of objectives that are positive it is a share; below a reference that is negative there may be many boxes.
    """
    unit = np.where(reference == 0, 1.0, np.abs(reference))
    return float(HV(ref_point=reference / unit)(points / unit))


@dataclass(slots=True)
class ParetoEvolution(Evolution):
    """Evolution whose elites spread over the front."""

    _front: list[Elite] = field(init=False, default_factory=list)
    """Of all results so far; what another dominates is dropped, since nothing later brings it back."""
    _reference: NDArray[np.float64] | None = field(init=False, default=None)

    @property
    def front(self) -> list[tuple[dict[str, float], Selection]]:
        """All candidates so far that no other dominates, with their objectives by name, lowest loss first."""
        names = ("loss", *self.proposer.settings.objectives)
        found = zip(self._points(self._front).tolist(), self._front, strict=True)
        return [
            (dict(zip(names, point, strict=True)), elite.selection)
            for point, elite in sorted(found, key=lambda pair: pair[0])
        ]

    def tell(
        self, results: Sequence[tuple[Candidate, Evaluation]], dropped: Sequence[tuple[Candidate, float]] = ()
    ) -> None:
        """Take the objectives of a generation, and keep the elites of the best fronts.

        Raises:
            ValueError: there is nothing to go on with, or an objective was not measured.
        """
        Evolution.tell(self, results, dropped)
        pool = [*self._front, *(Elite(candidate, evaluation) for candidate, evaluation in results)]
        points = self._points(pool)
        if self._reference is None:
            self._reference = points.max(0)
        self._front = [pool[place] for place in np.flatnonzero(front(points))]

    def metrics(self) -> dict[str, float]:
        """Return what evolution does, and the hypervolume.

        That is what the front dominates, in boxes between the origin and the worst values of the first generation.
        """
        assert self._reference is not None, "no losses were reported yet"
        return Evolution.metrics(self) | {"hypervolume": hypervolume(self._points(self._front), self._reference)}

    def survivors(self, pool: list[Elite]) -> list[Elite]:
        """Return those that spread over the best fronts, lowest loss first."""
        points, count = self._points(pool), min(self.proposer.settings.num_elites, len(pool))
        population = Population.new(F=points)
        population.set("place", np.arange(len(pool)))
        problem = Problem(n_var=1, n_obj=points.shape[1])
        # Ties at the edge of a front are broken by a generator of its own, the same in every run.
        kept = RankAndCrowding().do(problem, population, n_survive=count, random_state=np.random.default_rng(0))
        return [pool[place] for place in sorted(kept.get("place").tolist())]

    def _points(self, pool: Sequence[Elite]) -> Points:
        return np.array([[elite.loss, *self._others(elite)] for elite in pool], dtype=float)

    def _others(self, elite: Elite) -> list[float]:
        measured: dict[ObjectiveName, float | None] = {
            "parameters": num_parameters(elite.selection.architecture(self.proposer.space.teacher)),
            "flops": elite.evaluation.flops_per_token,
            "latency": elite.evaluation.latency_seconds,
        }
        values = [(name, measured[name]) for name in self.proposer.settings.objectives]
        missing = [name for name, value in values if value is None]
        if missing:
            raise ValueError(f"objectives: the evaluation of candidates does not measure {', '.join(missing)}")
        return [value for _, value in values if value is not None]
