"""In which order the layers of a teacher are best left out; one of them is in memory at a time."""

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from torch import Tensor

from budwood.arch.count import forward_flops_per_token
from budwood.models.device import Compute
from budwood.models.losses import sequence_losses
from budwood.models.stream import States
from budwood.search.candidate import Evaluation
from budwood.search.elimination import Elimination, Kept, eliminate_layers
from budwood.subnet.flops import ran_alone, trial_flops_per_token
from budwood.subnet.moments import teacher_stream
from budwood.subnet.ordering import OrderedTeacher, open_ordered
from budwood.subnet.settings import Ordering

NUM_TOGETHER = 16
"""Trials that read the text in one pass over the teacher; the streams of all of them are in memory."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LayerTrials:
    """Losses of a teacher that lacks some of its layers.

    The teacher is read layer by layer, for many trials at once. What begins alike is run once.
    """

    teacher: OrderedTeacher
    """In its own order."""
    windows: Tensor
    """[N, T + 1] token ids."""
    batch_size: int

    def __call__(self, trials: Sequence[Kept]) -> Iterator[Evaluation]:
        """Yield the losses of every trial."""
        for first in range(0, len(trials), NUM_TOGETHER):
            yield from self._evaluate(trials[first : first + NUM_TOGETHER])

    def _evaluate(self, trials: Sequence[Kept]) -> list[Evaluation]:
        started = time.perf_counter()
        stream = teacher_stream(self.teacher, self.windows[:, :-1].split(self.batch_size), head=True)
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
            stream.states = streams[kept]
            with stream.finished() as model:
                losses = sequence_losses(model, self.windows, batch_size=self.batch_size)
            made.append(self._evaluation(losses, kept, layers))
        seconds = (time.perf_counter() - started) / len(made)
        return [replace(evaluation, seconds=seconds) for evaluation in made]

    def _evaluation(self, losses: Tensor, kept: Kept, ran: Sequence[int]) -> Evaluation:
        """Return the evaluation of a trial for which some layers were run that no other had run."""
        architecture, length = self.teacher.architecture, self.windows.shape[1] - 1
        left = architecture.with_layers(tuple(architecture.layers[layer] for layer in kept))
        tokens = len(self.windows) * length
        return Evaluation(
            sequence_losses=losses.tolist(),
            tokens=tokens,
            flops=float(tokens * trial_flops_per_token(architecture, ran, context=length)),
            seconds=0.0,
            flops_per_token=float(forward_flops_per_token(left, context=length)),
        )


def leave_layers_out(
    teacher: Path, windows: Tensor, compute: Compute, *, batch_size: int = 4, trials_file: Path | None = None
) -> Elimination:
    """Leave out layers of a teacher one by one, as `budwood.search.elimination` does.

    Args:
        teacher: a checkpoint folder.
        windows: [N, T + 1] token ids on which losses are compared.
        compute: device and precision.
        batch_size: sequences per forward pass.
        trials_file: where trials are written, so that a killed elimination continues; it belongs to this one alone.

    Raises:
        ValueError: a file is damaged, or the teacher's loss is not finite.
    """
    unordered = open_ordered(teacher, Ordering(ordering="native")).on(compute, compute.dtype)
    trials = LayerTrials(teacher=unordered, windows=windows, batch_size=batch_size)
    return eliminate_layers(unordered.architecture.num_hidden_layers, trials, trials_file)
