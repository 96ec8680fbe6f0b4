"""Law 5: the chunked loss and its gradients are those of the formula, and no large tensor is ever alive."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.nn import functional
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_iter

from budwood.training import losses
from budwood.training.losses import DistillationWeights, chunked_loss, logits_loss

WEIGHTS = DistillationWeights(0.2, 0.8, 2.0)
TEXT_ONLY = DistillationWeights(1.0, 0.0, 1.0)


@pytest.fixture(autouse=True)
def chunks_of_eight(monkeypatch):
    monkeypatch.setattr(losses, "CHUNK_TOKENS", 8)


def plain_loss(hidden, head, targets, teacher=None, weights=TEXT_ONLY):
    """The same by autograd over whole logits, from PyTorch's own losses."""
    logits = hidden @ head.T
    loss = weights.alpha * functional.cross_entropy(logits, targets, reduction="sum")
    if teacher is not None:
        student_log = functional.log_softmax(logits / weights.temperature, -1)
        teacher_log = functional.log_softmax(teacher[0] @ teacher[1].T / weights.temperature, -1)
        divergence = functional.kl_div(student_log, teacher_log, reduction="sum", log_target=True)
        loss = loss + weights.beta * weights.temperature**2 * divergence
    return loss


def draw(num_tokens, width, teacher_width, vocab_size, dtype=torch.float64):
    """Hidden states, head, targets, teacher's states and head."""
    generator = torch.Generator().manual_seed(num_tokens * 1000 + vocab_size)

    def normal(*shape):
        return torch.randn(*shape, dtype=dtype, generator=generator)

    targets = torch.randint(0, vocab_size, (num_tokens,), generator=generator)
    teacher = normal(num_tokens, teacher_width), normal(vocab_size, teacher_width)
    return normal(num_tokens, width), normal(vocab_size, width), targets, teacher


def loss_and_gradients(function, hidden, head, *others):
    hidden, head = hidden.clone().requires_grad_(), head.clone().requires_grad_()
    loss = function(hidden, head, *others)
    (3 * loss).backward()  # an incoming gradient other than one
    return loss.detach(), hidden.grad, head.grad


sizes = st.tuples(st.integers(1, 30), st.integers(1, 6), st.integers(1, 6), st.integers(2, 40))
weightings = st.builds(DistillationWeights, st.floats(0, 2), st.floats(0, 2), st.floats(0.3, 4))


@given(sizes, weightings, st.booleans())
def test_value_and_gradients_equal_plain_autograd(shape, weights, distil):
    hidden, head, targets, teacher = draw(*shape)
    others = (targets, teacher if distil else None, weights)
    loss, *gradients = loss_and_gradients(chunked_loss, hidden, head, *others)
    expected, *expected_gradients = loss_and_gradients(plain_loss, hidden, head, *others)
    # The softmax is in float32 whatever the inputs.
    torch.testing.assert_close(loss.double(), expected, rtol=1e-5, atol=1e-4)
    for actual, reference in zip(gradients, expected_gradients, strict=True):
        torch.testing.assert_close(actual, reference, rtol=1e-4, atol=1e-4)


@given(sizes, weightings)
def test_one_chunk_in_float64_is_exact(shape, weights):
    hidden, head, targets, teacher = draw(*shape)
    logits = (hidden @ head.T).requires_grad_()
    teacher_logits = teacher[0] @ teacher[1].T
    loss, gradient = logits_loss(logits.detach().clone(), targets, teacher_logits.clone(), weights)
    identity = torch.eye(shape[3], dtype=torch.float64)
    expected = plain_loss(logits, identity, targets, (teacher_logits, identity), weights)
    expected.backward()
    torch.testing.assert_close(loss, expected.detach())
    torch.testing.assert_close(gradient, logits.grad, rtol=1e-9, atol=1e-12)


def test_the_gradient_passes_gradcheck_on_one_chunk():
    """Numerical differences of the loss itself, without any reference formula."""
    hidden, head, targets, teacher = draw(5, 4, 3, 7)
    logits = hidden @ head.T
    teacher_logits = teacher[0] @ teacher[1].T
    _, gradient = logits_loss(logits.clone(), targets, teacher_logits.clone(), WEIGHTS)
    for position in [(0, 0), (2, 3), (4, 6)]:
        step = torch.zeros_like(logits)
        step[position] = 1e-6
        above, below = (logits_loss(logits + s, targets, teacher_logits.clone(), WEIGHTS)[0] for s in (step, -step))
        assert float(gradient[position]) == pytest.approx(float(above - below) / 2e-6, abs=1e-7)


def test_worked_value():
    """Uniform student over 4 tokens, teacher with odds 3 to 1 on the first two, temperature 1."""
    head, hidden = torch.eye(4), torch.zeros(1, 4)
    teacher_hidden = torch.tensor([[3.0, 1.0, 1e-30, 1e-30]]).log()
    loss = chunked_loss(hidden, head, torch.tensor([2]), (teacher_hidden, head), DistillationWeights(0.2, 0.8, 1.0))
    divergence = math.log(4) + 0.75 * math.log(0.75) + 0.25 * math.log(0.25)
    assert float(loss) == pytest.approx(0.2 * math.log(4) + 0.8 * divergence, rel=1e-6)


@given(sizes, st.floats(0.3, 4))
def test_divergence_is_not_negative_and_zero_at_equality(shape, temperature):
    hidden, head, targets, teacher = draw(*shape)
    only_divergence = DistillationWeights(0.0, 1.0, temperature)
    assert chunked_loss(hidden, head, targets, teacher, only_divergence) >= -1e-5
    loss, *gradients = loss_and_gradients(chunked_loss, hidden, head, targets, (hidden, head), only_divergence)
    assert abs(float(loss)) < 1e-5
    assert all(float(gradient.abs().max()) < 1e-5 for gradient in gradients)


def test_without_weight_on_the_divergence_the_teacher_changes_no_bit():
    hidden, head, targets, teacher = draw(19, 4, 3, 11, torch.float32)
    pretraining = loss_and_gradients(chunked_loss, hidden, head, targets)
    distillation = loss_and_gradients(chunked_loss, hidden, head, targets, teacher, DistillationWeights(1.0, 0.0, 2.0))
    assert all(torch.equal(one, other) for one, other in zip(pretraining, distillation, strict=True))


def test_a_tied_head_gets_both_gradients():
    """The embedding takes part as input and as head: the gradients add up."""
    _, table, targets, _ = draw(13, 5, 1, 9)
    ids = (targets + 1) % 9
    gradients = []
    for function in (chunked_loss, plain_loss):
        tied = table.clone().requires_grad_()
        function(functional.embedding(ids, tied), tied, targets).backward()
        gradients.append(tied.grad)
    torch.testing.assert_close(*gradients, rtol=1e-5, atol=1e-5)


def test_the_teacher_gets_no_gradient():
    hidden, head, targets, (states, teacher_head) = draw(9, 4, 3, 7)
    states.requires_grad_()
    hidden.requires_grad_()
    chunked_loss(hidden, head, targets, (states, teacher_head), WEIGHTS).backward()
    assert states.grad is None
    assert hidden.grad is not None


class LargestLogits(TorchDispatchMode):
    """Records the most rows of any tensor with a column for every entry of the vocabulary."""

    def __init__(self, vocab_size):
        super().__init__()
        self.vocab_size, self.rows = vocab_size, 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        result = function(*args, **(kwargs or {}))
        for tensor in tree_iter(result):
            if isinstance(tensor, torch.Tensor) and tensor.ndim and tensor.shape[-1] == self.vocab_size:
                self.rows = max(self.rows, tensor.numel() // self.vocab_size)
        return result


@pytest.mark.parametrize("distil", [False, True])
def test_logits_exist_for_one_chunk_at_a_time(distil):
    hidden, head, targets, teacher = draw(50, 4, 3, 31)
    hidden.requires_grad_()
    head.requires_grad_()
    with LargestLogits(31) as largest:
        chunked_loss(hidden, head, targets, teacher if distil else None, WEIGHTS).backward()
    assert largest.rows == 8
    with LargestLogits(31) as largest:
        plain_loss(hidden, head, targets).backward()
    assert largest.rows == 50


def test_half_precision_stays_close():
    hidden, head, targets, teacher = draw(40, 16, 12, 30, torch.float32)
    hidden, head = hidden / 4, head / 4
    exact = loss_and_gradients(chunked_loss, hidden, head, targets, teacher, WEIGHTS)
    rough = loss_and_gradients(
        chunked_loss, hidden.bfloat16(), head.bfloat16(), targets, tuple(t.bfloat16() for t in teacher), WEIGHTS
    )
    assert (rough[0].dtype, rough[1].dtype) == (torch.float32, torch.bfloat16)
    for one, other in zip(exact, rough, strict=True):
        assert (one - other.float()).norm() < 0.05 * one.norm()
