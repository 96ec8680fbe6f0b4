"""Losses of models and of candidates on fixed windows of text."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional
from tqdm import tqdm
from transformers import PreTrainedModel

from budwood.arch.count import forward_flops_per_token
from budwood.arch.selection import Selection
from budwood.search.candidate import Evaluation
from budwood.subnet.extract import extract_child
from budwood.subnet.ordering import OrderedTeacher

# Shape legend: N sequences, T predicted tokens of a sequence, V vocabulary.


@torch.no_grad()
def sequence_losses(
    model: PreTrainedModel, windows: Tensor, *, batch_size: int = 4, progress: str | None = None
) -> Tensor:
    """Return the mean loss per token of every sequence.

    Args:
        model: any causal language model.
        windows: [N, T + 1] token ids; every token but the first is predicted.
        batch_size: sequences per forward pass.
        progress: shows a bar of this name.

    Returns:
        [N] nats, float32, on the CPU.
    """
    with evaluating(model):
        batches = tqdm(
            windows.split(batch_size), desc=progress, unit="batch", dynamic_ncols=True, disable=progress is None
        )
        return torch.cat([_batch_losses(model, batch) for batch in batches])


def _batch_losses(model: PreTrainedModel, windows: Tensor) -> Tensor:
    windows = windows.to(model.device)
    hidden = model.base_model(input_ids=windows[:, :-1], use_cache=False).last_hidden_state
    head = model.get_output_embeddings()
    # One sequence at a time: a [T, V] float32 block instead of [N, T, V].
    losses = [
        functional.cross_entropy(head(states).float(), targets)
        for states, targets in zip(hidden, windows[:, 1:], strict=True)
    ]
    return torch.stack(losses).cpu()


@contextmanager
def evaluating(model: PreTrainedModel) -> Iterator[None]:
    """Switch a model to evaluation mode and back."""
    was_training = model.training
    model.eval()
    try:
        yield
    finally:
        model.train(was_training)


@dataclass(slots=True)
class SubnetEvaluator:
    """Evaluates candidates of one ordered teacher, all on the same tokens; the `Evaluate` that a search calls."""

    teacher: OrderedTeacher
    windows: Tensor
    """[N, T + 1] token ids."""
    batch_size: int = 4

    def __call__(self, selection: Selection, sequences: slice = slice(None)) -> Evaluation:
        """Cut the candidate out and return its loss on every one of some sequences."""
        windows = self.windows[sequences]
        started = time.perf_counter()
        child = extract_child(self.teacher, selection)
        nn.Module.to(child, self.teacher.weights[self.teacher.family.final_norm.weight].device)
        losses = sequence_losses(child, windows, batch_size=self.batch_size)
        length = windows.shape[1] - 1
        tokens = len(windows) * length
        return Evaluation(
            sequence_losses=losses.tolist(),
            tokens=tokens,
            flops=float(
                tokens * forward_flops_per_token(selection.architecture(self.teacher.architecture), context=length)
            ),
            seconds=time.perf_counter() - started,
        )
