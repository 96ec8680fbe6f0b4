"""Losses of models and of candidates on fixed windows of text."""

import time
from collections.abc import Hashable, Iterator, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from budwood.arch.count import forward_flops_per_token, layer_flops_per_token
from budwood.arch.selection import LayerSelection, Selection
from budwood.models.device import release_memory
from budwood.models.losses import next_token_losses, sequence_losses
from budwood.search.candidate import Evaluation
from budwood.subnet.compensate import corrected_child, gaps_of
from budwood.subnet.extract import Cut, resolve
from budwood.subnet.fitness import Fitness
from budwood.subnet.flops import NUM_TIMED, latency_flops, solve_work
from budwood.subnet.moments import Moments
from budwood.subnet.ordering import OrderedTeacher
from budwood.subnet.reuse import Resume, Visit, families, walk
from budwood.subnet.scoring import Scores
from budwood.subnet.settings import NO_CORRECTION, Compensation

# Shape legend: N sequences, T predicted tokens of a sequence.

LARGEST_FAMILY = 8
"""Candidates that share first layers and stay together; more would keep the other workers waiting."""


@dataclass(slots=True, kw_only=True)
class SubnetEvaluator:
    """Evaluates candidates of one ordered teacher, all on the same tokens; the `Evaluate` that a search calls."""

    teacher: OrderedTeacher
    """With its weights in memory."""
    windows: Tensor
    """[N, T + 1] token ids."""
    batch_size: int = 4
    fitness: Fitness = field(default_factory=lambda: Fitness(measure=next_token_losses))
    reuse: bool = True
    """Whether candidates of one call that share their first layers run them once."""
    times: bool = False
    """Whether the latency of candidates is measured as well."""
    compensation: Compensation = NO_CORRECTION
    """How candidates are corrected."""
    moments: Moments | None = None
    """What corrections follow from; none where there is no regression."""

    def __call__(
        self, selections: Sequence[Selection], sequences: slice = slice(None)
    ) -> Iterator[tuple[int, Evaluation]]:
        """Cut every candidate out and yield its place and its loss on every one of some sequences.

        Raises:
            ValueError: there are fewer sequences.
        """
        if (sequences.stop or 0) > len(self.windows):
            raise ValueError(f"{sequences.stop} sequences are to be read but {len(self.windows)} are given")
        cuts = [resolve(self.teacher, selection) for selection in selections]
        visits = (
            walk(list(map(self._path, selections))) if self._shares else [Visit(i, 0, ()) for i in range(len(cuts))]
        )
        resume, windows = Resume(), self.windows[sequences]
        for visit in visits:
            yield visit.place, self._evaluate(cuts[visit.place], windows, visit, resume)
        release_memory()

    def one(self, selection: Selection, sequences: slice = slice(None)) -> Evaluation:
        """Return the losses of a single candidate."""
        return next(self([selection], sequences))[1]

    def groups(self, selections: Sequence[Selection]) -> list[list[int]]:
        """Return places of candidates that are best read in one call, because they share their first layers."""
        if not self._shares:
            return [[place] for place in range(len(selections))]
        return families(list(map(self._path, selections)), LARGEST_FAMILY)

    @property
    def _shares(self) -> bool:
        return self.reuse and self.fitness.runs_once

    def _path(self, selection: Selection) -> list[Hashable]:
        """Return what the layers of a candidate depend on, and its layers in depth order."""
        ranking, depth = self.teacher.ranking, self.teacher.architecture.num_hidden_layers
        layers = sorted(selection.layers, key=lambda layer: ranking[layer.layer])
        common = (selection.hidden, selection.architecture(self.teacher.architecture).is_uniform)
        if not self.compensation.steps:
            return [common, *layers]
        # A layer makes up for those that are dropped after it, and slots of rotary pairs are those of all layers.
        following = [*(ranking[layer.layer] for layer in layers[1:]), depth]
        slots = tuple(layers) if self.compensation.pairs and self._drops_pairs(layers) else ()
        return [(*common, slots), *zip(layers, following, strict=True)]

    def _drops_pairs(self, layers: Sequence[LayerSelection]) -> bool:
        whole = self.teacher.ranked.layers
        return any(2 * len(layer.pairs) < whole[layer.layer].head_dim for layer in layers)

    def _evaluate(self, cut: Cut, windows: Tensor, visit: Visit, resume: Resume) -> Evaluation:
        started = time.perf_counter()
        child = corrected_child(self.teacher, cut, self.compensation, self.moments)
        nn.Module.to(child, self.teacher.weights[self.teacher.family.final_norm.weight].device)
        latency = self._latency(child) if self.times else None
        layers = child.get_submodule(self.teacher.family.decoder)
        assert isinstance(layers, nn.ModuleList)
        resume.attach(layers, visit)
        losses = sequence_losses(child, windows, batch_size=self.batch_size, measure=self.fitness.measure)
        length = windows.shape[1] - 1
        whole = forward_flops_per_token(cut.architecture, context=length)
        shared = layer_flops_per_token(cut.architecture, *cut.architecture.layers[: visit.shared], context=length)
        read, beside = len(windows) * length, self._correcting(cut)
        if self.times:
            beside += latency_flops(cut.architecture, length=length)
        return Evaluation(
            sequence_losses=losses.tolist(),
            tokens=read + (NUM_TIMED * length if self.times else 0),
            flops=read * (whole - shared + self.fitness.flops_per_token) + beside,
            seconds=time.perf_counter() - started,
            flops_per_token=float(whole),
            latency_seconds=latency,
        )

    def _correcting(self, cut: Cut) -> float:
        teacher = self.teacher.architecture
        num_gaps = len(gaps_of(cut.kept_layers, teacher.num_hidden_layers))
        return solve_work(teacher, cut.architecture, self.compensation, num_gaps=num_gaps).flops

    @torch.no_grad()
    def _latency(self, child: PreTrainedModel) -> float:
        """Return the seconds of a forward pass over one sequence, the best of some."""
        tokens = self.windows[:1, :-1].to(child.device)
        return min(_seconds(child, tokens) for _ in range(NUM_TIMED))


@dataclass(frozen=True, slots=True, kw_only=True)
class ScoreEvaluator:
    """Rates candidates by the importance of what they keep, without any text; also an `Evaluate`."""

    shares: Scores
    """Normalised, in the order of the teacher that candidates are cut from."""

    def __call__(
        self, selections: Sequence[Selection], sequences: slice = slice(None)
    ) -> Iterator[tuple[int, Evaluation]]:
        """Yield every candidate's place and its score, negated, as that of one sequence."""
        assert len(range(1)[sequences]) == 1, "scores have one stage"
        for place, selection in enumerate(selections):
            yield place, Evaluation(sequence_losses=[-self.shares.of(selection)], tokens=0, flops=0.0, seconds=0.0)


def _seconds(model: PreTrainedModel, tokens: Tensor) -> float:
    started = time.perf_counter()
    model(input_ids=tokens, use_cache=False, logits_to_keep=1).logits.sum().item()
    return time.perf_counter() - started
