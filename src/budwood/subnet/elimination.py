"""In which order the layers of a teacher are best left out; one of them is in memory at a time.

What a trial is worth is the mean square error of its logits, less their mean over the vocabulary, which no prediction
depends on. It is a quadratic form of the error of the state in front of the head, so no trial runs the head; unless
the teacher caps its logits.
"""

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

import torch
from torch import Tensor

from budwood.arch.count import forward_flops_per_token
from budwood.models.device import Compute
from budwood.models.losses import final_states, softcap
from budwood.models.stream import LayerStream, States
from budwood.search.candidate import Evaluation
from budwood.search.elimination import Elimination, Kept, eliminate_layers
from budwood.subnet.flops import logit_metric_flops, ran_alone, trial_flops_per_token
from budwood.subnet.moments import teacher_stream
from budwood.subnet.ordering import OrderedTeacher, open_ordered
from budwood.subnet.settings import Ordering

# Shape legend: N sequences, T tokens of a sequence, E hidden size.

NUM_TOGETHER = 16
"""Trials that read the text in one pass over the teacher; the streams of all of them are in memory."""
HEAD_ROWS = 8192
"""Rows of a head that are converted together."""


@dataclass(kw_only=True)
class LayerTrials:
    """Errors of a teacher that lacks some of its layers.

    The teacher is read layer by layer, for many trials at once. What begins alike is run once.
    """

    teacher: OrderedTeacher
    """In its own order."""
    windows: Tensor
    """[N, T + 1] token ids, the last of which are not read."""
    batch_size: int
    _wanted: States | None = None
    """[N, T, E] of every batch, what the whole teacher's head reads."""

    def __call__(self, trials: Sequence[Kept]) -> Iterator[Evaluation]:
        """Yield the errors of every trial."""
        for first in range(0, len(trials), NUM_TOGETHER):
            yield from self._evaluate(trials[first : first + NUM_TOGETHER])

    @cached_property
    def metric(self) -> Tensor:
        """[E, E] the second moment of the head's rows, less the product of their means."""
        width = self.teacher.architecture.hidden_size
        total, moment = (torch.zeros(size, device=self.teacher.device) for size in (width, (width, width)))
        for part in self._head_parts():
            total += part.sum(0)
            moment += part.T @ part
        rows = self.teacher.architecture.vocab_size
        return moment / rows - torch.outer(total, total) / rows**2

    @property
    def _cap(self) -> float | None:
        """Where logits are softcapped; nothing where they are not."""
        cap: float | None = self.teacher.config.get("final_logit_softcapping")
        return cap

    def _head_parts(self) -> Iterator[Tensor]:
        """Yield [some rows, E] the head's weights in float32."""
        family, tied = self.teacher.family, self.teacher.architecture.tie_word_embeddings
        head = self.teacher.weights[(family.embedding if tied else family.head).weight]
        for rows in head.split(HEAD_ROWS):
            yield rows.to(self.teacher.device, torch.float32)

    def _evaluate(self, trials: Sequence[Kept]) -> list[Evaluation]:
        started, metric = time.perf_counter(), self.metric if self._cap is None else None
        stream = self._stream()
        streams: dict[Kept, States] = {(): stream.states}
        for depth in range(stream.num_layers):
            begun = {tuple(layer for layer in kept if layer <= depth) for kept in trials}
            following: dict[Kept, States] = {}
            for beginning in begun:
                if beginning[-1:] == (depth,):
                    stream.states = streams[beginning[:-1]]
                    following[beginning] = stream.returned()
                else:
                    following[beginning] = streams[beginning]
            stream.pass_on([])
            streams = following
        made = []
        for kept, layers in zip(trials, ran_alone(trials), strict=True):
            stream.states = streams.pop(kept)
            states = self._finished(stream)
            if len(kept) == stream.num_layers:
                self._wanted = states
            made.append(self._evaluation(self._errors(states, metric), kept, layers))
        seconds = (time.perf_counter() - started) / len(made)
        return [replace(evaluation, seconds=seconds) for evaluation in made]

    def _stream(self) -> LayerStream:
        return teacher_stream(self.teacher, self.windows[:, :-1].split(self.batch_size))

    @torch.no_grad()
    def _finished(self, stream: LayerStream) -> States:
        """Return what the head would read."""
        with stream.finished() as model:
            return [final_states(model, batch.to(model.device)) for batch in self.windows.split(self.batch_size)]

    def _errors(self, states: States, metric: Tensor | None) -> Tensor:
        """Return [N] the mean square error of logits, over positions and vocabulary; capped ones have no metric."""
        if self._wanted is None:  # the trial of the whole is in the file of a run that was killed
            stream = self._stream()
            stream.advance(stream.num_layers)
            self._wanted = self._finished(stream)
        if metric is None:
            return self._capped_errors(states, self._wanted)
        errors = []
        for came, wanted in zip(states, self._wanted, strict=True):
            error = came.float() - wanted.float()
            errors.append(((error @ metric) * error).sum(-1).mean(1).cpu())
        return torch.cat(errors)

    def _capped_errors(self, states: States, whole: States) -> Tensor:
        """Return [N] the same of capped logits, whose errors are added up a part of the vocabulary at a time."""
        sums = [torch.zeros(2, *came.shape[:2], device=came.device) for came in states]
        for part in self._head_parts():
            for came, wanted, summed in zip(states, whole, sums, strict=True):
                error = softcap(came.float() @ part.T, self._cap) - softcap(wanted.float() @ part.T, self._cap)
                summed[0].add_(error.sum(-1))
                summed[1].add_(error.square().sum(-1))
        mean, square = (torch.cat([summed.cpu() for summed in sums], 1) / self.teacher.architecture.vocab_size).unbind()
        return (square - mean.square()).mean(1)

    def _evaluation(self, errors: Tensor, kept: Kept, ran: Sequence[int]) -> Evaluation:
        """Return the evaluation of a trial for which some layers were run that no other had run."""
        architecture, length = self.teacher.architecture, self.windows.shape[1] - 1
        left = architecture.with_layers(tuple(architecture.layers[layer] for layer in kept))
        tokens, capped = len(self.windows) * length, self._cap is not None
        once = logit_metric_flops(architecture, capped=capped) if left == architecture else 0
        return Evaluation(
            sequence_losses=errors.tolist(),
            tokens=tokens,
            flops=float(tokens * trial_flops_per_token(architecture, ran, context=length, capped=capped) + once),
            seconds=0.0,
            flops_per_token=float(forward_flops_per_token(left, context=length)),
        )


def leave_layers_out(
    teacher: Path, windows: Tensor, compute: Compute, *, batch_size: int = 4, trials_file: Path | None = None
) -> Elimination:
    """Leave out layers of a teacher one by one, as `budwood.search.elimination` does.

    Args:
        teacher: a checkpoint folder.
        windows: [N, T + 1] token ids on which errors are compared.
        compute: device and precision.
        batch_size: sequences per forward pass.
        trials_file: where trials are written, so that a killed elimination continues; it belongs to this one alone.

    Raises:
        ValueError: a file is damaged, or the teacher's states are not finite.
    """
    unordered = open_ordered(teacher, Ordering(ordering="native")).on(compute, compute.dtype)
    trials = LayerTrials(teacher=unordered, windows=windows, batch_size=batch_size)
    return eliminate_layers(unordered.architecture.num_hidden_layers, trials, trials_file)
