"""The output head and its losses, computed in token chunks so that full logits never exist.

Shape legend: N tokens, C tokens of a chunk, E a model's width, F the teacher's, V vocabulary, K entries of a
sparse target.
"""

import logging
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import FunctionCtx, once_differentiable

from budwood.models.losses import softcap
from budwood.training.settings import PRETRAINING, DistillationWeights, Divergence

logger = logging.getLogger(__name__)

CHUNK_TOKENS = 256
"""Tokens whose logits exist at a time."""
DENSE_PARTS = 2
"""Tensors of a dense target; a sparse one has more."""


@dataclass(frozen=True, slots=True)
class Logits:
    """A model's scores of the whole vocabulary, as the states that its head turns into them."""

    hidden: Tensor
    """[N, E] last hidden states."""
    head: Tensor
    """[V, E] output weights."""
    cap: float | None = None
    """See `budwood.models.losses.softcap`."""

    @property
    def num_ids(self) -> int:
        """V."""
        return len(self.head)


@dataclass(frozen=True, slots=True)
class SparseTarget:
    """A teacher's distribution by some of its entries, at the temperature of the loss."""

    ids: Tensor
    """[N, K] tokens. Repeated ones add up; with `rest` they are distinct."""
    probs: Tensor
    """[N, K] weights in the loss."""
    negative_entropy: Tensor
    """[N] what makes the cross-entropy with the entries a divergence: it moves the value, not the gradient."""
    rest: Tensor | None = None
    """[N] probability of all other tokens together; without it the student's other tokens do not count."""
    num_ids: int | None = None
    """Tokens that student and teacher share, the first of both; all where it is empty."""

    def tensors(self) -> tuple[Tensor, ...]:
        """Return all tensors, [N, ...] each."""
        parts = (self.ids, self.probs, self.negative_entropy)
        return parts if self.rest is None else (*parts, self.rest)


Target = Logits | SparseTarget


def chunked_loss(
    student: Logits,
    labels: Tensor,
    target: Target | None = None,
    weights: DistillationWeights = PRETRAINING,
    *,
    compiled: bool = False,
) -> Tensor:
    """Return the sum over tokens of `alpha * CE + beta * T^2 * D`.

    Without a target this is the cross-entropy times alpha. The factor T^2 keeps the gradient's size independent of the
    temperature (Hinton et al., 2015, arXiv 1503.02531); equation 3 of the paper leaves it out, its reference code has
    it. Gradients are computed chunk by chunk in the forward pass. Losses, softmax and the sum of the head's gradient
    are in float32 (float64 where the states are); products have the type of the states, or of autocast inside it.

    Args:
        student: of N tokens; its states and head get gradients.
        labels: [N] ids of the next tokens.
        target: the teacher's distributions of the N tokens; it gets no gradient. With fewer ids than the student's,
            it is compared with the student's distribution over those ids.
        weights: alpha, beta, the temperature, and the divergence from a dense target.
        compiled: whether the step of a chunk is compiled (see `inductor_works`): half the time and memory.
    """
    teacher_cap = target.cap if isinstance(target, Logits) else None
    formula = _Formula(weights, student.cap, teacher_cap, None if target is None else target.num_ids)
    loss: Tensor = _head_loss(student.hidden, student.head, labels, target, formula, compiled)
    return loss


@dataclass(frozen=True, slots=True)
class _Formula:
    weights: DistillationWeights
    cap: float | None
    teacher_cap: float | None
    num_ids: int | None


# The head is a graph of its own: a compiler of the whole model would unroll the loop over chunks.
@torch.compiler.disable  # type: ignore[untyped-decorator]
def _head_loss(*arguments: Any) -> Tensor:
    loss: Tensor = _ChunkedLoss.apply(*arguments)  # type: ignore[no-untyped-call]
    return loss


class _ChunkedLoss(torch.autograd.Function):
    @staticmethod
    def forward(  # noqa: PLR0913, PLR0917 - autograd takes every tensor as an argument of its own
        ctx: FunctionCtx,
        hidden: Tensor,
        head: Tensor,
        labels: Tensor,
        target: Target | None,
        formula: _Formula,
        compiled: bool,  # noqa: FBT001 - `apply` takes no keywords
    ) -> Tensor:
        product = _product_type(hidden)
        step = _compiled_step() if compiled else _chunk_step
        weight, states = head.detach().to(product), hidden.detach().to(product)
        loss = hidden.new_zeros((), dtype=torch.promote_types(product, torch.float32))
        hidden_grad = torch.empty_like(hidden)
        head_grad = torch.zeros_like(head, dtype=torch.promote_types(head.dtype, torch.float32))
        # Autocast would convert the whole head again for every chunk.
        with torch.autocast(hidden.device.type, enabled=False):
            for start in range(0, len(states), CHUNK_TOKENS):
                chunk = slice(start, start + CHUNK_TOKENS)
                chunk_loss, hidden_grad[chunk] = step(
                    states[chunk], weight, labels[chunk], _chunk_of(target, chunk), formula, head_grad
                )
                loss += chunk_loss
        ctx.save_for_backward(hidden_grad, head_grad.to(head.dtype))
        return loss

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_output: Tensor) -> tuple[Tensor | None, ...]:
        hidden_grad, head_grad = ctx.saved_tensors
        return hidden_grad * grad_output, head_grad * grad_output, None, None, None, None


def _product_type(hidden: Tensor) -> torch.dtype:
    kind = hidden.device.type
    if torch.is_autocast_enabled(kind) and hidden.dtype != torch.float64:
        return torch.get_autocast_dtype(kind)
    return hidden.dtype


def _chunk_of(target: Target | None, chunk: slice) -> tuple[Tensor, ...] | None:
    """Return the part of a target that a chunk needs: [C, F] states and [V, F] head, or the parts of a sparse one."""
    if isinstance(target, Logits):
        return target.hidden[chunk], target.head
    return None if target is None else tuple(part[chunk] for part in target.tensors())


def _chunk_step(
    states: Tensor,
    head: Tensor,
    labels: Tensor,
    target: tuple[Tensor, ...] | None,
    formula: _Formula,
    head_grad: Tensor,
) -> tuple[Tensor, Tensor]:
    """Return the loss of a chunk and [C, E] its gradient by the states; add that by the head to `head_grad`."""
    if target is not None and len(target) == DENSE_PARTS:
        target = (softcap(target[0] @ target[1].T, formula.teacher_cap),)
    logits = softcap(states @ head.T, formula.cap)
    loss, grad = logits_loss(logits, labels, target, formula.weights, formula.num_ids)
    if formula.cap is not None:
        grad *= 1 - (logits / formula.cap).square()
    grad = grad.to(states.dtype)
    head_grad += grad.T @ states
    return loss, grad @ head


def logits_loss(
    logits: Tensor,
    labels: Tensor,
    target: tuple[Tensor, ...] | None,
    weights: DistillationWeights,
    num_ids: int | None = None,
) -> tuple[Tensor, Tensor]:
    """Return the summed loss of a chunk, and its gradient with respect to the student's logits in their own type.

    With q the student's tempered distribution, the logits' gradient of `T^2 D` is T times that of D with respect to
    `logits / T`, which `divergence` and `sparse_divergence` give.

    Args:
        logits: [C, V] student.
        labels: [C] ids.
        target: ([C, V] the teacher's logits,), or the tensors of a `SparseTarget`; nothing without a teacher.
        weights: alpha, beta, the temperature and the divergence.
        num_ids: the first tokens, on which student and teacher are compared; all without it.
    """
    alpha, beta, temperature = weights.alpha, weights.beta, weights.temperature
    scores = logits.to(torch.promote_types(logits.dtype, torch.float32))
    rows = labels[:, None]
    log_probs = torch.log_softmax(scores, -1)
    loss = -alpha * log_probs.gather(1, rows).sum()
    grad = log_probs.exp().mul_(alpha)
    if target is not None:
        shared = scores[:, :num_ids]
        whole = shared.shape == scores.shape
        log_student = log_probs if whole and temperature == 1 else torch.log_softmax(shared / temperature, -1)
        if len(target) == 1:
            log_teacher = torch.log_softmax(target[0].to(scores.dtype) / temperature, -1)
            value, slope = divergence(log_teacher, log_student, weights.divergence)
        else:
            value, slope = sparse_divergence(log_student, *target)
        loss = loss + beta * temperature**2 * value.sum()
        grad[:, :num_ids].add_(slope, alpha=beta * temperature)
    columns = torch.arange(logits.shape[1], device=logits.device)
    # A scatter would keep the compiler from fusing this with the rest: a quarter more time for the whole head.
    return loss, torch.where(columns == rows, grad - alpha, grad).to(logits.dtype)


def divergence(log_teacher: Tensor, log_student: Tensor, kind: Divergence) -> tuple[Tensor, Tensor]:
    """Return [C] a divergence of whole distributions, and [C, V] its gradient with respect to the student's scores.

    With p the teacher, q = softmax(u) the student and m = (p + q) / 2:

    * `forward`: KL(p || q) = sum p log(p / q), gradient q - p (Hinton et al., 2015; paper, equation 3);
    * `reverse`: KL(q || p) = sum q log(q / p), gradient q (log(q / p) - KL(q || p)) (Gu et al., 2024,
      arXiv 2306.08543);
    * `jensen_shannon`: JS = (KL(p || m) + KL(q || m)) / 2, at most log 2, gradient q (log(q / m) - KL(q || m)) / 2
      (Lin, 1991; the generalised form at 1/2 in Agarwal et al., 2024, arXiv 2306.13649).

    Args:
        log_teacher: [C, V] log-probabilities.
        log_student: [C, V] log-probabilities.
        kind: which.
    """
    student = log_student.exp()
    if kind == "forward":
        teacher = log_teacher.exp()
        value = (log_teacher - log_student).mul_(teacher).sum(-1)
        return value, student.sub_(teacher)
    if kind == "reverse":
        ratio = log_student - log_teacher
        value = (student * ratio).sum(-1)
        return value, student * (ratio - value[:, None])
    # log m without the loss of p + q where both are small.
    log_middle = torch.logaddexp(log_teacher, log_student) - torch.log(torch.full_like(log_teacher[:1, :1], 2.0))
    ratio = log_student - log_middle
    from_student = (student * ratio).sum(-1)
    from_teacher = (log_teacher.exp() * (log_teacher - log_middle)).sum(-1)
    return (from_student + from_teacher) / 2, student * (ratio - from_student[:, None]) / 2


def sparse_divergence(
    log_student: Tensor, ids: Tensor, probs: Tensor, negative_entropy: Tensor, rest: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """Return [C] the forward divergence from a sparse target, and [C, V] its gradient by the student's scores.

    With weights w on the ids and q = softmax(u) over the whole vocabulary the value is `sum w log w - sum w log q` and
    the gradient q - w, as the weights sum to one. With the rest r of the teacher's mass, and q_r of the student's on
    all tokens that are not among the ids, it is the divergence of K + 1 events: the value gains `r log r - r log q_r`,
    and the gradient of a token outside is q (1 - r / q_r). `sparse_target` in `budwood.training.teacher` makes
    the weights.

    Args:
        log_student: [C, V] log-probabilities.
        ids: [C, K] tokens.
        probs: [C, K] weights w.
        negative_entropy: [C] `sum w log w`, with `r log r` where there is a rest.
        rest: [C] r.
    """
    student, probs = log_student.exp(), probs.to(log_student.dtype)
    value = negative_entropy - (probs * log_student.gather(1, ids)).sum(-1)
    if rest is not None:
        tail = student.scatter(1, ids, 0.0)
        # At K = V there is no tail and r = 0: 0 log 0 is 0.
        student_rest = tail.sum(-1).clamp_min(torch.finfo(student.dtype).tiny)
        value = value - rest * student_rest.log()
        student = student - tail * (rest / student_rest)[:, None]
    return value, student.scatter_add(1, ids, -probs)


@cache
def _compiled_step() -> Callable[..., tuple[Tensor, Tensor]]:
    compiled: Callable[..., tuple[Tensor, Tensor]] = torch.compile(_chunk_step)
    return compiled


@cache
def inductor_works(device: str) -> bool:
    """Return whether torch.compile works on a kind of device; the reason why not is logged.

    On a CPU it needs a C++ compiler and Python's headers, on an accelerator Triton. The trial takes seconds, once.
    """
    try:
        torch.compile(torch.sin)(torch.zeros(2, device=device))
    except Exception as error:  # noqa: BLE001 - every backend raises errors of its own
        logger.warning(
            "The loss runs uncompiled on %s because torch.compile fails: %s", device, str(error).split("\n")[0]
        )
        return False
    return True
