"""A guess of what candidates are worth from those that were read: which proposals deserve to be read at all."""

import warnings
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray
from sklearn.exceptions import ConvergenceWarning
from sklearn.gaussian_process import GaussianProcessRegressor
from sklearn.gaussian_process.kernels import ConstantKernel, Matern, WhiteKernel

from budwood.arch.population import Population
from budwood.arch.spec import Architecture

# Shape legend: M candidates, L layers, F features.

Matrix = NDArray[np.float64]

MAX_POINTS = 300
"""Candidates that a guess is made from, the newest: the work grows with their cube."""
_WORST_QUANTILE = 0.75
"""Losses above it count as it: how bad the bad ones are says nothing of the good ones."""
_DECIMALS = 3
"""Of guesses. Fewer than a processor's rounding reaches, so that a resumed search chooses what it chose before."""


def features(architectures: Sequence[Architecture]) -> Matrix:
    """Return [M, F] logarithms: of hidden size and depth, and mean and spread of those of the layers' sizes."""
    population = Population.of(architectures)
    present = population.groups > 0
    depth = present.sum(1)
    columns = [np.log(population.hidden_size), np.log(depth)]
    for sizes in (population.groups, population.queries, population.head_dim, population.intermediate_size):
        logs = np.log(np.maximum(sizes, 1))
        mean = (logs * present).sum(1) / depth
        spread = np.sqrt((np.square(logs - mean[:, None]) * present).sum(1) / depth)
        columns += [mean, spread]
    return np.stack(columns, axis=1)


@dataclass(slots=True)
class Surrogate:
    """A Gaussian process over the sizes of candidates."""

    _features: list[Matrix] = field(default_factory=list)
    _losses: list[float] = field(default_factory=list)
    _model: GaussianProcessRegressor | None = None
    _points: Matrix = field(default_factory=lambda: np.zeros((0, 0)))
    """That the model is fitted to, scaled."""
    _values: NDArray[np.float64] = field(default_factory=lambda: np.zeros(0))
    _center: Matrix = field(default_factory=lambda: np.zeros(0))
    _scale: Matrix = field(default_factory=lambda: np.ones(0))

    def learn(self, architectures: Sequence[Architecture], losses: Sequence[float]) -> None:
        """Take more candidates with their losses; all are fitted again when a guess is asked for."""
        if architectures:
            self._features += list(features(architectures))
            self._losses += losses
        self._model = None

    def _fit(self) -> GaussianProcessRegressor:
        points, values = np.stack(self._features[-MAX_POINTS:]), np.array(self._losses[-MAX_POINTS:])
        self._center, self._scale = points.mean(0), np.where(points.std(0) > 0, points.std(0), 1.0)
        self._points, self._values = self._scaled(points), np.minimum(values, np.quantile(values, _WORST_QUANTILE))
        kernel = ConstantKernel() * Matern(length_scale=np.ones(points.shape[1]), nu=2.5) + WhiteKernel()
        with warnings.catch_warnings():
            # A length scale at its bound: a size that does not matter.
            warnings.simplefilter("ignore", ConvergenceWarning)
            return GaussianProcessRegressor(kernel, normalize_y=True, random_state=0).fit(self._points, self._values)

    def most_promising(self, proposals: Sequence[Architecture], width: float) -> tuple[int, float]:
        """Return the place of the proposal whose loss may be the lowest, and how low it may be.

        Args:
            proposals: at least one.
            width: standard deviations between the loss that is expected and the one that may be (Srinivas et al.,
                2010, "Gaussian process optimization in the bandit setting").
        """
        expected, deviation = self._fitted.predict(self._scaled(features(proposals)), return_std=True)
        bounds = np.round(expected - width * deviation, _DECIMALS)
        place = int(np.argmin(bounds))
        return place, float(bounds[place])

    def believe(self, architecture: Architecture) -> None:
        """Count a candidate as read, with the loss that is expected of it, until more is learnt.

        Nothing more is expected to be found out there, so that the next ones are sought elsewhere (Ginsbourger et al.,
        2010, "Kriging is well-suited to parallelize optimization").
        """
        model, point = self._fitted, self._scaled(features([architecture]))
        self._values = np.append(self._values, model.predict(point))
        self._points = np.vstack([self._points, point])
        believer = GaussianProcessRegressor(model.kernel_, optimizer=None, normalize_y=True)
        self._model = believer.fit(self._points, self._values)

    @property
    def _fitted(self) -> GaussianProcessRegressor:
        if self._model is None:
            self._model = self._fit()
        return self._model

    def _scaled(self, points: Matrix) -> Matrix:
        scaled: Matrix = (points - self._center) / self._scale
        return scaled
