"""Losses of a causal language model on fixed windows of text."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor
from tqdm import tqdm
from transformers import PreTrainedModel

# Shape legend: N sequences, T predicted tokens of a sequence, E hidden size, V vocabulary.

Measure = Callable[[PreTrainedModel, Tensor], Tensor]
"""Takes a model and [N, T + 1] token ids, and returns [N] one value per sequence: the lower, the better."""

_CPU_TOKENS = 128
"""Tokens whose logits are made at once on a processor: head and loss take 0.85 of the time that 256 at once take."""


def next_token_losses(model: PreTrainedModel, windows: Tensor) -> Tensor:
    """Return [N] the mean loss per token of every sequence, nats, float32."""
    hidden = final_states(model, windows)
    # One sequence at a time: a [T, V] float32 block instead of [N, T, V].
    return torch.stack([_loss(model, *pair) for pair in zip(hidden, windows[:, 1:], strict=True)])


def _loss(model: PreTrainedModel, states: Tensor, targets: Tensor) -> Tensor:
    """Return the mean loss of a sequence's [T] targets; a processor computes a part at a time, which its cache fits."""
    block = _CPU_TOKENS if states.device.type == "cpu" else len(states)
    parts = zip(states.split(block), targets.split(block), strict=True)
    return torch.stack([_summed_loss(logits_of(model, some), next_) for some, next_ in parts]).sum() / len(targets)


def _summed_loss(logits: Tensor, targets: Tensor) -> Tensor:
    """Return the summed cross-entropy of [T] targets, and overwrite their [T, V] logits.

    A second block of that size would not fit a processor's cache: `functional.cross_entropy` takes three times as long.
    """
    wanted = logits.gather(1, targets[:, None])[:, 0]
    peak = logits.amax(1)
    return (logits.sub_(peak[:, None]).exp_().sum(1).log() + peak - wanted).sum()


def final_states(model: PreTrainedModel, windows: Tensor) -> Tensor:
    """Return [N, T, E] the input of the head."""
    states: Tensor = model.base_model(input_ids=windows[:, :-1], use_cache=False).last_hidden_state
    return states


def logits_of(model: PreTrainedModel, states: Tensor) -> Tensor:
    """Return [T, V] float32."""
    return softcap(model.get_output_embeddings()(scaled(model, states)), cap_of(model)).float()


def scaled(model: PreTrainedModel, states: Tensor) -> Tensor:
    """Return [..., H] states of which the head makes the model's logits, which some classes divide (Granite)."""
    divisor: float = getattr(model.config, "logits_scaling", 1.0)
    return states / divisor if divisor != 1 else states


def cap_of(model: PreTrainedModel) -> float | None:
    """Return where a model's class softcaps its logits (Gemma 2); nothing where it does not."""
    cap: float | None = getattr(model.config, "final_logit_softcapping", None)
    return cap


def softcap(logits: Tensor, cap: float | None) -> Tensor:
    """Return `cap * tanh(logits / cap)` of [..., V], in float32 at least; without a cap the logits as they are."""
    if cap is None:
        return logits
    return cap * torch.tanh(logits.to(torch.promote_types(logits.dtype, torch.float32)) / cap)


@torch.no_grad()
def sequence_losses(
    model: PreTrainedModel,
    windows: Tensor,
    *,
    batch_size: int = 4,
    progress: str | None = None,
    measure: Measure = next_token_losses,
) -> Tensor:
    """Return the mean loss per token of every sequence, or another measure.

    Args:
        model: any causal language model.
        windows: [N, T + 1] token ids; every token but the first is predicted.
        batch_size: sequences per forward pass.
        progress: shows a bar of this name.
        measure: of a model on a batch.

    Returns:
        [N] nats, float32, on the CPU.
    """
    with evaluating(model):
        batches = tqdm(
            windows.split(batch_size), desc=progress, unit="batch", dynamic_ncols=True, disable=progress is None
        )
        return torch.cat([measure(model, batch.to(model.device)).float().cpu() for batch in batches])


@contextmanager
def evaluating(model: PreTrainedModel) -> Iterator[None]:
    """Switch a model to evaluation mode and back."""
    was_training = model.training
    model.eval()
    try:
        yield
    finally:
        model.train(was_training)
