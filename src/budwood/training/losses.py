"""The output head and its losses, computed in token chunks so that full logits never exist.

Shape legend: N tokens, C tokens of a chunk, E student width, F teacher width, V vocabulary.
"""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import FunctionCtx, once_differentiable

CHUNK_TOKENS = 256


@dataclass(frozen=True, slots=True)
class DistillationWeights:
    """Weights of `alpha * CE + beta * T^2 * KL(teacher || student)` (paper, equation 2)."""

    alpha: float
    """Weight of the cross-entropy with the text."""
    beta: float
    """Weight of the forward Kullback-Leibler divergence from the teacher."""
    temperature: float


def chunked_loss(
    hidden: Tensor,
    head: Tensor,
    targets: Tensor,
    teacher: tuple[Tensor, Tensor] | None = None,
    weights: DistillationWeights = DistillationWeights(1.0, 0.0, 1.0),
) -> Tensor:
    """Return the sum over tokens of `alpha * CE + beta * T^2 * KL`, in float32.

    Without a teacher this is the cross-entropy times alpha. The factor T^2 keeps the gradient's size independent of
    the temperature (Hinton et al., 2015); equation 3 of the paper leaves it out, its reference code has it. Gradients
    are computed chunk by chunk in the forward pass, with the softmax in float32.

    Args:
        hidden: [N, E] the student's last hidden states.
        head: [V, E] the student's output weights.
        targets: [N] ids of the next tokens.
        teacher: [N, F] last hidden states and [V, F] output weights of the teacher; they get no gradient.
        weights: alpha, beta and the temperature.
    """
    teacher_hidden, teacher_head = teacher if teacher is not None else (None, None)
    loss: Tensor = _ChunkedLoss.apply(hidden, head, targets, teacher_hidden, teacher_head, weights)  # type: ignore[no-untyped-call]
    return loss


class _ChunkedLoss(torch.autograd.Function):
    @staticmethod
    def forward(  # noqa: PLR0913, PLR0917 - autograd takes every tensor as an argument of its own
        ctx: FunctionCtx,
        hidden: Tensor,
        head: Tensor,
        targets: Tensor,
        teacher_hidden: Tensor | None,
        teacher_head: Tensor | None,
        weights: DistillationWeights,
    ) -> Tensor:
        loss = hidden.new_zeros((), dtype=torch.float32)
        hidden_grad = torch.empty_like(hidden)
        head_grad = torch.zeros_like(head, dtype=torch.float32)
        for start in range(0, hidden.shape[0], CHUNK_TOKENS):
            chunk = slice(start, start + CHUNK_TOKENS)
            logits = (hidden[chunk] @ head.T).float()
            teacher_logits = None
            if teacher_hidden is not None and teacher_head is not None:
                teacher_logits = (teacher_hidden[chunk] @ teacher_head.T).float()
            chunk_loss, grad = logits_loss(logits, targets[chunk], teacher_logits, weights)
            loss += chunk_loss
            grad = grad.to(head.dtype)
            hidden_grad[chunk] = grad @ head
            head_grad += grad.T @ hidden[chunk]
        ctx.save_for_backward(hidden_grad, head_grad.to(head.dtype))
        return loss

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_output: Tensor) -> tuple[Tensor | None, ...]:
        hidden_grad, head_grad = ctx.saved_tensors
        return hidden_grad * grad_output, head_grad * grad_output, None, None, None, None


def logits_loss(
    logits: Tensor, targets: Tensor, teacher_logits: Tensor | None, weights: DistillationWeights
) -> tuple[Tensor, Tensor]:
    """Return the summed loss of a chunk and its gradient with respect to the student's logits.

    With q and p the tempered distributions of student and teacher, the gradient of `T^2 KL(p || q)` is `T (q - p)`.

    Args:
        logits: [C, V] student, float32 or float64; overwritten.
        targets: [C] ids.
        teacher_logits: [C, V]; overwritten.
        weights: alpha, beta and the temperature.
    """
    rows = targets[:, None]
    alpha, beta, temperature = weights.alpha, weights.beta, weights.temperature
    tempered = logits / temperature if teacher_logits is not None else None
    log_probs = torch.log_softmax(logits, -1)
    loss = -alpha * log_probs.gather(1, rows).sum()
    grad = log_probs.exp_().mul_(alpha)
    grad.scatter_add_(1, rows, torch.full_like(rows, -alpha, dtype=grad.dtype))
    if teacher_logits is not None and tempered is not None:
        student_log = torch.log_softmax(tempered, -1)
        teacher_log = torch.log_softmax(teacher_logits.div_(temperature), -1)
        teacher_probs = teacher_log.exp()
        loss = loss + beta * temperature**2 * (teacher_probs * teacher_log.sub_(student_log)).sum()
        grad.add_(student_log.exp_().sub_(teacher_probs), alpha=beta * temperature)
    return loss, grad
