"""What a search can minimise, by name; importing a function of the user's own is all that happens here."""

import importlib
from collections.abc import Callable, Mapping
from dataclasses import astuple, dataclass
from typing import Any, Literal

ScoreMethod = Literal["importance", "magnitude"]
"""Scores of activations on calibration text, or of weights."""
ScoreReading = Literal["budwood", "paper"]
"""Which statistics are the scores of heads and neurons.

`budwood`: those that the teacher is ordered by, squares that include the output weights. `paper`: those of appendix E,
the mean norm of a head's output before the output projection and the mean absolute activation of a neuron; of weights,
the norm of all that belong to a head or a neuron. Channels and layers have the paper's in both.
"""

PERPLEXITY, DIVERGENCE = "perplexity", "kl"
FROM_TEXT = (PERPLEXITY, DIVERGENCE)
SCORE_METHODS: Mapping[str, ScoreMethod] = {"importance": "importance", "magnitude": "magnitude"}
FROM_SCORES = tuple(SCORE_METHODS)
"""Names of the measures that budwood brings; with one of the second kind a candidate reads no text."""

Normalisation = Literal["softmax", "rank", "sum"]
"""How scores of one axis are made comparable. `softmax` is the paper's; over many components it comes close to counting
them. `rank` gives the k-th best of n the share of n + 1 - k in 1 + ... + n, equal scores their mean; `sum` divides by
the total."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ScoreMethods:
    """By which method every axis is scored (paper, listing 6)."""

    channels: ScoreMethod
    layers: ScoreMethod
    heads: ScoreMethod
    neurons: ScoreMethod

    def __contains__(self, method: ScoreMethod) -> bool:
        """Whether an axis is scored by a method."""
        return method in astuple(self)


def check_fitness(name: str) -> None:
    """Check that a fitness exists, without opening a teacher.

    Raises:
        ValueError: it is none of budwood's and no importable function.
    """
    if name not in FROM_TEXT + FROM_SCORES:
        load_function(name)


def module_of(name: str) -> str | None:
    """Return the module of a fitness of the user's own; None for those that budwood brings."""
    return None if name in FROM_TEXT + FROM_SCORES else name.rpartition(".")[0]


def load_function(path: str) -> Callable[..., Any]:
    """Import a function by its dotted path.

    Raises:
        ValueError: there is no such function.
    """
    module, _, name = path.rpartition(".")
    try:
        function: Callable[..., Any] = getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError, ValueError) as error:
        names = ", ".join(FROM_TEXT + FROM_SCORES)
        raise ValueError(
            f"search.fitness: {path!r} is none of {names}, and no function of that path can be imported ({error})"
        ) from error
    if not callable(function):
        raise ValueError(f"search.fitness: {path!r} is no function of a model and token ids")  # noqa: TRY004 - a setting
    return function
