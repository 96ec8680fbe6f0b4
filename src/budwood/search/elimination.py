"""In which order layers are best left out: always the one without which the loss is lowest, until one is left.

Scores of single layers do not tell what becomes of a model that lacks several of them; leaving one out after the other
and looking does (Song et al., 2024, "SLEB: Streamlining LLMs through redundancy verification and elimination of
transformer blocks").
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

from tqdm import tqdm

from budwood.arch.selection import Selection
from budwood.search.candidate import Evaluate, Evaluation

_NUM_TOGETHER = 4
"""Layers tried in one call; what they share is then run once."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Elimination:
    """What came of leaving layers out."""

    order: tuple[int, ...]
    """Ranks of all layers: the first to go first, the one that is left last."""
    evaluations: tuple[Evaluation, ...]
    """All that was read to find out."""

    @property
    def tokens(self) -> int:
        """Read to find out."""
        return sum(evaluation.tokens for evaluation in self.evaluations)

    @property
    def flops(self) -> float:
        """Spent to find out."""
        return sum(evaluation.flops for evaluation in self.evaluations)


def eliminate_layers(whole: Selection, evaluate: Evaluate) -> Elimination:
    """Leave out one layer after the other.

    What a layer was worth when it was last left out on trial stands for the least that it is worth now, because layers
    seldom matter less once others are gone. Only those that may be worth least by it are tried again (Minoux, 1978,
    "Accelerated greedy algorithms for maximizing submodular set functions").

    Args:
        whole: what layers are left out of.
        evaluate: the losses of what remains.

    Raises:
        ValueError: the loss of the whole is not finite.
    """
    trials = _Trials(evaluate, whole)
    (loss,) = trials.losses([whole])
    if not math.isfinite(loss):
        raise ValueError("the loss of the whole teacher is not finite: check its weights, its precision and the text")
    worth, order = {layer.layer: -math.inf for layer in whole.layers}, []
    for _ in tqdm(range(len(worth) - 1), desc="leaving layers out", unit="layer", dynamic_ncols=True):
        fresh = trials.worth_now(worth, loss)
        gone = min(fresh, key=lambda layer: (fresh[layer], layer))
        worth |= fresh
        loss += worth.pop(gone)
        trials.kept = _without(trials.kept, gone)
        order.append(gone)
    return Elimination(order=(*order, *worth), evaluations=tuple(trials.evaluations))


@dataclass(slots=True)
class _Trials:
    """Leaves out layers of what is kept, and remembers what that took."""

    evaluate: Evaluate
    kept: Selection
    evaluations: list[Evaluation] = field(default_factory=list)

    def worth_now(self, worth: Mapping[int, float], loss: float) -> dict[int, float]:
        """Return by how much the loss rises without a layer, for those of which one may be worth least."""
        fresh: dict[int, float] = {}
        while tried := _promising(worth, fresh):
            losses = self.losses([_without(self.kept, layer) for layer in tried])
            # Whatever breaks the model is worth more than all else.
            rises = [left - loss if math.isfinite(left) else math.inf for left in losses]
            fresh |= dict(zip(tried, rises, strict=True))
        return fresh

    def losses(self, selections: Sequence[Selection]) -> list[float]:
        made = dict(self.evaluate(selections))
        self.evaluations += made.values()
        return [made[place].loss for place in range(len(selections))]


def _promising(worth: Mapping[int, float], fresh: Mapping[int, float]) -> list[int]:
    """Return untried layers that may be worth less than all that were tried; those that never were all at once."""
    stale = [layer for layer in worth if layer not in fresh and (not fresh or worth[layer] < min(fresh.values()))]
    promising = sorted(stale, key=worth.__getitem__)
    never = [layer for layer in promising if worth[layer] == -math.inf]
    return never or promising[:_NUM_TOGETHER]


def _without(selection: Selection, gone: int) -> Selection:
    return replace(selection, layers=tuple(layer for layer in selection.layers if layer.layer != gone))
