"""What a sub-network is worth by the importance of what it keeps, without running it (paper, appendix E)."""

from collections.abc import Sequence
from typing import Literal

import torch
from scipy.stats import rankdata
from torch import Tensor

from budwood.arch.selection import Selection
from budwood.subnet.importance import Importance, LayerImportance

Normalisation = Literal["softmax", "rank", "sum"]
"""How scores of one axis are made comparable. `softmax` is the paper's; over many components it comes close to counting
them. `rank` gives the k-th best of n the share of n + 1 - k in 1 + ... + n, equal scores their mean; `sum` divides by
the total."""


def normalise(scores: Tensor, normalisation: Normalisation) -> Tensor:
    """Return scores of one axis as shares that add up to one; softmax may give equal shares where scores are close.

    Raises:
        ValueError: the normalisation is unknown.
    """
    if normalisation == "softmax":
        return scores.double().softmax(0)
    if normalisation == "sum":
        # Where nothing has a score, all have equal shares.
        total = scores.double().sum()
        return scores.double() / total if total > 0 else torch.full_like(scores.double(), 1 / len(scores))
    if normalisation == "rank":
        ranks = torch.from_numpy(rankdata(scores.numpy()))
        return ranks / ranks.sum()
    raise ValueError(f"normalisation must be softmax, rank or sum, got {normalisation!r}")


def score_selection(
    importance: Importance,
    selection: Selection,
    normalisation: Normalisation,
    *,
    ranking: Sequence[int] | None = None,
) -> float:
    """Return the sum of the normalised scores of the layers, channels, heads and neurons that a sub-network keeps.

    Every axis of the whole teacher adds up to one; heads and neurons count once for every layer.

    Args:
        importance: of the teacher's components.
        selection: the sub-network.
        normalisation: of the scores of an axis.
        ranking: the layers of a teacher that is ordered by this importance, by rank; None where the selection is of the
            teacher as it is.
    """
    ordered = ranking is not None
    influence = torch.stack([layer.influence for layer in importance.layers])
    by_rank = ranking if ranking is not None else range(len(importance.layers))
    kept = [by_rank[layer.layer] for layer in selection.layers]
    score = _kept(importance.channels, selection.hidden, normalisation, ordered=ordered)
    score += float(normalise(influence, normalisation)[kept].sum())
    for position, layer in zip(kept, selection.layers, strict=True):
        scores = importance.layers[position]
        heads = _heads_in_order(scores) if ordered else scores.heads
        shares = normalise(heads.flatten(), normalisation).reshape(heads.shape)
        score += float(shares[list(layer.groups)][:, list(layer.queries)].sum())
        score += _kept(scores.neurons, layer.neurons, normalisation, ordered=ordered)
    return score


def _kept(scores: Tensor, indices: range | tuple[int, ...], normalisation: Normalisation, *, ordered: bool) -> float:
    shares = normalise(scores, normalisation)
    return float((shares.sort(descending=True).values if ordered else shares)[list(indices)].sum())


def _heads_in_order(layer: LayerImportance) -> Tensor:
    """Return [G, Q] the scores of heads, groups and the queries of each by importance."""
    groups = layer.heads.sum(1).argsort(descending=True, stable=True)
    return layer.heads[groups].sort(dim=1, descending=True).values
