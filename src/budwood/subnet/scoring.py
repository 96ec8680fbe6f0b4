"""The score of a sub-network without any text: the normalised scores of all that it keeps (paper, appendix E)."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Self

import torch
from scipy.stats import rankdata
from torch import Tensor

from budwood.arch.selection import Selection
from budwood.search.fitness import Normalisation, ScoreMethod
from budwood.search.settings import SearchSettings
from budwood.subnet.importance import Importance
from budwood.subnet.ordering import LayerOrder, descending

# Shape legend: L layers, E hidden size, G groups, Q queries of a group, D neurons.


def as_shares(scores: Tensor, normalisation: Normalisation) -> Tensor:
    """Return [n] scores of one axis as shares that add up to one; softmax may give equal ones where scores are close.

    Raises:
        ValueError: the normalisation is unknown.
    """
    if normalisation == "softmax":
        return scores.double().softmax(0)
    if normalisation == "sum":
        # Where nothing has a score, all have equal shares.
        total = scores.double().sum()
        return scores.double() / total if total > 0 else torch.full_like(scores.double(), 1 / scores.numel())
    if normalisation == "rank":
        ranks = torch.from_numpy(rankdata(scores.numpy()))
        return ranks / ranks.sum()
    raise ValueError(f"normalisation must be softmax, rank or sum, got {normalisation!r}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Scores:
    """Scores of a teacher's components."""

    channels: Tensor
    """[E]"""
    layers: Tensor
    """[L]"""
    heads: tuple[Tensor, ...]
    """[G, Q] for every layer."""
    neurons: tuple[Tensor, ...]
    """[D] for every layer."""

    def normalised(self, normalisation: Normalisation) -> Self:
        """Return shares: every axis of the whole teacher adds up to one, heads and neurons in every layer."""

        def shares(axis: Tensor) -> Tensor:
            return as_shares(axis.flatten(), normalisation).reshape(axis.shape)

        return replace(
            self,
            channels=shares(self.channels),
            layers=shares(self.layers),
            heads=tuple(map(shares, self.heads)),
            neurons=tuple(map(shares, self.neurons)),
        )

    def in_order(self, importance: Importance, ranking: tuple[int, ...]) -> Self:
        """Return the scores as they are found in a teacher that is ordered.

        Args:
            importance: by which it is ordered.
            ranking: its layers, the first to keep first.
        """
        orders = [LayerOrder.of(layer, layer.queries.shape[1]) for layer in importance.layers]
        return replace(
            self,
            channels=self.channels[list(descending(importance.channels))],
            layers=self.layers[list(ranking)],
            heads=tuple(orders[layer].heads(self.heads[layer]) for layer in ranking),
            neurons=tuple(self.neurons[layer][list(orders[layer].neurons)] for layer in ranking),
        )

    def of(self, selection: Selection) -> float:
        """Return the sum of the scores of the layers, channels, heads and neurons that a sub-network keeps."""
        score = self.channels[list(selection.hidden)].sum()
        for layer in selection.layers:
            heads, neurons = self.heads[layer.layer], self.neurons[layer.layer]
            score = score + self.layers[layer.layer] + neurons[list(layer.neurons)].sum()
            score = score + heads[list(layer.groups)][:, list(layer.queries)].sum()
        return float(score)


def component_scores(search: SearchSettings, importances: Mapping[ScoreMethod, Importance]) -> Scores:
    """Return the scores that a search adds up, each by its method, in the teacher's own order."""
    methods = search.score_methods
    heads, neurons = importances[methods.heads].layers, importances[methods.neurons].layers
    paper = search.scores == "paper"
    return Scores(
        channels=importances[methods.channels].channels,
        layers=torch.stack([layer.influence for layer in importances[methods.layers].layers]),
        heads=tuple(layer.head_norms if paper else layer.heads for layer in heads),
        neurons=tuple(layer.activations if paper else layer.neurons for layer in neurons),
    )
