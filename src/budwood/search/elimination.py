"""In which order layers are best left out: always the one without which the loss is lowest, until one is left.

The loss is whatever trials return: see `budwood.subnet.elimination`.

Scores of single layers do not say what becomes of a model that lacks several of them; leaving one out after the other
and measuring does (Song et al., 2024, "SLEB: Streamlining LLMs through redundancy verification and elimination of
transformer blocks").
"""

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

from tqdm import tqdm

from budwood.records.files import append_json_lines, restore_rows
from budwood.search.candidate import Evaluation

Kept = tuple[int, ...]
"""Layers that are left, ascending."""
Try = Callable[[Sequence[Kept]], Iterable[Evaluation]]
"""Returns the losses of what is left, in that order."""
_NUM_TOGETHER = 4
"""Layers tried in one call; what they share is then run once."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Elimination:
    """The outcome of leaving layers out."""

    order: tuple[int, ...]
    """Ranks of all layers: the first to go comes first, the one that is left comes last."""
    evaluations: tuple[Evaluation, ...]
    """All trials, in the order in which they were asked for."""

    @property
    def tokens(self) -> int:
        """Read in all trials."""
        return sum(evaluation.tokens for evaluation in self.evaluations)

    @property
    def flops(self) -> float:
        """Spent on all trials."""
        return sum(evaluation.flops for evaluation in self.evaluations)


def eliminate_layers(depth: int, evaluate: Try, trials_file: Path | None = None) -> Elimination:
    """Leave out one layer after the other.

    What a layer was worth when it was last left out on trial is taken for the least that it is worth now, because
    layers seldom matter less once others are gone. Only those that may be worth least by it are tried again (Minoux,
    1978, "Accelerated greedy algorithms for maximizing submodular set functions").

    Args:
        depth: layers of the whole.
        evaluate: the losses of what remains.
        trials_file: belongs to this elimination alone. Every trial is appended to it (JSON lines) as soon as it is
            made, and those that it already has are not repeated; the folder must exist.

    Raises:
        ValueError: the loss of the whole is not finite, or the file is damaged or that of another elimination.
        OSError: the file cannot be written; what was written before stays valid.
    """
    whole = tuple(range(depth))
    trials = _Trials(evaluate, whole, trials_file)
    (loss,) = trials.losses([whole])
    if not math.isfinite(loss):
        raise ValueError("the loss of the whole teacher is not finite: check its weights, its precision and the text")
    worth, order = dict.fromkeys(whole, -math.inf), []
    for _ in tqdm(range(len(worth) - 1), desc="leaving layers out", unit="layer", dynamic_ncols=True):
        fresh = trials.worth_now(worth, loss)
        gone = min(fresh, key=lambda layer: (fresh[layer], layer))
        worth |= fresh
        loss += worth.pop(gone)
        order.append(gone)
    return Elimination(order=(*order, *worth), evaluations=tuple(trials.evaluations))


def expected_trials(depth: int) -> list[list[Kept]]:
    """Return what an elimination is expected to try, call by call.

    All layers are tried once, then a few in every round. On SmolLM2-135M, with four texts, one round of 28 took one
    trial more. Which layers those are depends on the model: here they are spread evenly, so that trials share as many
    layers as on average.
    """
    whole = tuple(range(depth))
    calls = [[whole], [_without(whole, place) for place in whole]] if depth > 1 else [[whole]]
    for left in range(depth - 1, 1, -1):
        tried = min(_NUM_TOGETHER, left)
        places = (round(number * (left + 1) / (tried + 1)) - 1 for number in range(1, tried + 1))
        calls.append([_without(whole[:left], place) for place in places])
    return calls


def _without(kept: Kept, place: int) -> Kept:
    return kept[:place] + kept[place + 1 :]


@dataclass(slots=True)
class _Trials:
    """Leaves out layers, and remembers what that took."""

    evaluate: Try
    whole: Kept
    file: Path | None
    evaluations: list[Evaluation] = field(default_factory=list)
    _known: dict[Kept, Evaluation] = field(init=False)
    """By the layers that were kept."""

    def __post_init__(self) -> None:
        """Read what an interrupted elimination wrote down."""
        rows = restore_rows(self.file, lambda row: (tuple(row.pop("kept")), Evaluation(**row))) if self.file else []
        self._known = dict(rows)
        if self._known and next(iter(self._known)) != self.whole:
            raise ValueError(f"{self.file} is the elimination of another teacher; remove the file to start again")

    def worth_now(self, worth: Mapping[int, float], loss: float) -> dict[int, float]:
        """Return by how much the loss rises without a layer, for those of which one may be worth least.

        Args:
            worth: of every layer that is kept, at least.
            loss: of all of them together.
        """
        fresh: dict[int, float] = {}
        while tried := _promising(worth, fresh):
            losses = self.losses([tuple(layer for layer in sorted(worth) if layer != gone) for gone in tried])
            # Whatever breaks the model is worth more than all else.
            rises = [left - loss if math.isfinite(left) else math.inf for left in losses]
            fresh |= dict(zip(tried, rises, strict=True))
        return fresh

    def losses(self, trials: Sequence[Kept]) -> list[float]:
        """Return the losses of what is left, read from the file where it has them."""
        missing = [kept for kept in trials if kept not in self._known]
        for kept, made in zip(missing, self.evaluate(missing) if missing else (), strict=True):
            if self.file:
                append_json_lines(self.file, [{"kept": kept} | asdict(made)])
            self._known[kept] = made
        self.evaluations += [self._known[kept] for kept in trials]
        return [self._known[kept].loss for kept in trials]


def _promising(worth: Mapping[int, float], fresh: Mapping[int, float]) -> list[int]:
    """Return untried layers that may go before all that were tried; those that never were tried all at once.

    Of layers that are worth the same the first goes, so that one may also go before by its number.
    """
    first = min(((rise, layer) for layer, rise in fresh.items()), default=(math.inf, math.inf))
    stale = [layer for layer in worth if layer not in fresh and (worth[layer], layer) <= first]
    promising = sorted(stale, key=worth.__getitem__)
    never = [layer for layer in promising if worth[layer] == -math.inf]
    return never or promising[:_NUM_TOGETHER]
