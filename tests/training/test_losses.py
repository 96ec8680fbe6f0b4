"""Law 5: the chunked loss and its gradients are those of the formulas, and no large tensor is ever alive."""

import math
from dataclasses import replace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.nn import functional
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_iter

from budwood.training import losses
from budwood.training.losses import Logits, SparseTarget, inductor_works
from budwood.training.settings import DistillationSettings, DistillationWeights
from budwood.training.teacher import draw, sparse_target, take_top

DIVERGENCES = ("forward", "reverse", "jensen_shannon")
TOP = ("topk_tail", "topk_renorm")
WEIGHTS = DistillationWeights(0.2, 0.8, 2.0)
TEXT_ONLY = DistillationWeights(1.0, 0.0, 1.0)


@pytest.fixture(autouse=True)
def chunks_of_eight(monkeypatch):
    monkeypatch.setattr(losses, "CHUNK_TOKENS", 8)


def chunked_loss(hidden, head, *others, cap=None, **named):
    return losses.chunked_loss(Logits(hidden, head, cap), *others, **named)


def plain_loss(hidden, head, labels, target=None, weights=TEXT_ONLY, cap=None):
    """The same by autograd over whole logits, from the definitions."""
    logits, temperature = plain_logits(Logits(hidden, head, cap)), weights.temperature
    loss = weights.alpha * functional.cross_entropy(logits, labels, reduction="sum")
    if target is None:
        return loss
    q = (logits / temperature).softmax(-1)
    if isinstance(target, Logits):
        p = (plain_logits(target) / temperature).softmax(-1)
        value = plain_divergence(p, q, weights.divergence)
    else:
        w, q_kept = target.probs, q.gather(1, target.ids)
        value = target.negative_entropy.sum() - (w * q_kept.log()).sum()
        if target.rest is not None:
            value = value - (target.rest * (1 - q_kept.sum(-1)).clamp_min(1e-300).log()).sum()
    return loss + weights.beta * temperature**2 * value


def plain_logits(model):
    logits = model.hidden @ model.head.T
    return logits if model.cap is None else model.cap * (logits / model.cap).tanh()


def plain_divergence(p, q, kind):
    if kind == "jensen_shannon":
        m = (p + q) / 2
        return (plain_divergence(p, m, "forward") + plain_divergence(q, m, "forward")) / 2
    one, other = (p, q) if kind == "forward" else (q, p)
    return (one * (one / other).log()).sum()


def draw_inputs(num_tokens, width, teacher_width, vocab_size, dtype=torch.float64):
    """Hidden states, head, labels, teacher's states and head."""
    generator = torch.Generator().manual_seed(num_tokens * 1000 + vocab_size)

    def normal(*shape):
        return torch.randn(*shape, dtype=dtype, generator=generator)

    labels = torch.randint(0, vocab_size, (num_tokens,), generator=generator)
    teacher = Logits(normal(num_tokens, teacher_width), normal(vocab_size, teacher_width))
    return normal(num_tokens, width), normal(vocab_size, width), labels, teacher


def target_of(teacher, loss, temperature, k):
    """What a loss makes of a dense teacher, in the teacher's own precision."""
    log_probs = (teacher.hidden @ teacher.head.T / temperature).log_softmax(-1)
    if loss == "full":
        return teacher
    wanted = DistillationSettings(loss=loss, top_k=k, num_samples=k, temperature=temperature)
    if loss == "sampled":
        return sparse_target(draw(log_probs, k, torch.Generator().manual_seed(0)), wanted)
    return sparse_target(take_top(log_probs, k), wanted)


def loss_and_gradients(function, hidden, head, *others, **named):
    hidden, head = hidden.clone().requires_grad_(), head.clone().requires_grad_()
    loss = function(hidden, head, *others, **named)
    (3 * loss).backward()  # an incoming gradient other than one
    return loss.detach(), hidden.grad, head.grad


sizes = st.tuples(st.integers(1, 30), st.integers(1, 6), st.integers(1, 6), st.integers(2, 40))
temperatures = st.floats(0.3, 4)
scales = st.floats(0, 2)
divergences = st.sampled_from(DIVERGENCES)
caps = st.none() | st.floats(0.5, 30)


@given(sizes, st.tuples(scales, scales, temperatures, divergences), caps, caps)
def test_chunked_equals_plain_autograd_in_float64(shape, weights, cap, teacher_cap):
    hidden, head, labels, teacher = draw_inputs(*shape)
    others = (labels, replace(teacher, cap=teacher_cap), DistillationWeights(*weights))
    actual, expected = (loss_and_gradients(each, hidden, head, *others, cap=cap) for each in (chunked_loss, plain_loss))
    for one, other in zip(actual, expected, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-7, atol=1e-8)


@given(sizes, temperatures, st.sampled_from(["sampled", *TOP]), caps, st.data())
def test_sparse_targets_equal_plain_autograd(shape, temperature, loss, cap, data):
    hidden, head, labels, teacher = draw_inputs(*shape)
    target = target_of(teacher, loss, temperature, data.draw(st.integers(1, shape[3])))
    others = (labels, target, DistillationWeights(0.3, 0.9, temperature))
    actual, expected = (loss_and_gradients(each, hidden, head, *others, cap=cap) for each in (chunked_loss, plain_loss))
    for one, other in zip(actual, expected, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("kind", DIVERGENCES)
def test_the_gradient_is_the_slope_of_the_loss(kind):
    """Numerical differences, without any reference formula."""
    hidden, head, labels, teacher = draw_inputs(5, 4, 3, 7)
    weights = DistillationWeights(0.2, 0.8, 2.0, kind)
    _, gradient, _ = loss_and_gradients(chunked_loss, hidden, head, labels, teacher, weights)
    for position in [(0, 0), (2, 3), (4, 1)]:
        step = torch.zeros_like(hidden)
        step[position] = 1e-6
        above, below = (chunked_loss(hidden + s, head, labels, teacher, weights) for s in (step, -step))
        assert float(gradient[position]) / 3 == pytest.approx(float(above - below) / 2e-6, abs=1e-7)


@pytest.mark.parametrize("kind", DIVERGENCES)
@pytest.mark.parametrize("temperature", [1.0, 2.0])
def test_a_teacher_of_fewer_tokens_is_compared_on_those_alone(kind, temperature):
    """As if the student's other logits were sliced off before the softmax; the text is learnt with all of them."""
    hidden, head, labels, teacher = draw_inputs(11, 5, 7, 19)
    teacher = Logits(teacher.hidden, teacher.head[:13])
    weights = DistillationWeights(0.2, 0.8, temperature, kind)

    def plain(hidden, head):
        p, q = ((logits / temperature).softmax(-1) for logits in (plain_logits(teacher), (hidden @ head.T)[:, :13]))
        text = functional.cross_entropy(hidden @ head.T, labels, reduction="sum")
        return weights.alpha * text + weights.beta * temperature**2 * plain_divergence(p, q, kind)

    expected = loss_and_gradients(plain, hidden, head)
    found = loss_and_gradients(chunked_loss, hidden, head, labels, teacher, weights)
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, other)


def test_sparse_targets_of_fewer_tokens_are_compared_on_those_alone():
    """All entries of a smaller vocabulary say what its whole distribution says."""
    hidden, head, labels, teacher = draw_inputs(11, 5, 7, 19)
    teacher = Logits(teacher.hidden, teacher.head[:13])
    entries = take_top(torch.log_softmax(plain_logits(teacher).float() / 2, -1), 13)
    sparse = sparse_target(entries, DistillationSettings(loss="topk_tail", top_k=13, temperature=2.0), num_ids=13)
    found = loss_and_gradients(chunked_loss, hidden, head, labels, sparse, WEIGHTS)
    expected = loss_and_gradients(chunked_loss, hidden, head, labels, teacher, WEIGHTS)
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-6)


def test_worked_values():
    """Uniform student over 4 tokens, teacher with odds 3 to 1 on the first two, temperature 1."""
    head, hidden = torch.eye(4, dtype=torch.float64), torch.zeros(1, 4, dtype=torch.float64)
    states = torch.tensor([[3.0, 1.0, 1e-30, 1e-30]], dtype=torch.float64).log()
    labels, teacher = torch.tensor([2]), Logits(states, head)
    entropy = 0.75 * math.log(0.75) + 0.25 * math.log(0.25)
    forward = math.log(4) + entropy
    loss = chunked_loss(hidden, head, labels, teacher, DistillationWeights(0.2, 0.8, 1.0))
    assert float(loss) == pytest.approx(0.2 * math.log(4) + 0.8 * forward, rel=1e-6)
    # Halfway between both stands one half, one quarter, and twice one eighth.
    shannon = (0.75 * math.log(1.5) + 0 + 0.25 * math.log(0.5) + 0 + 0.5 * math.log(2)) / 2
    loss = chunked_loss(hidden, head, labels, teacher, DistillationWeights(0, 1, 1.0, "jensen_shannon"))
    assert float(loss) == pytest.approx(shannon, rel=1e-6)
    only = DistillationWeights(0.0, 1.0, 1.0)
    # Of the top one: alone 1 against 1/4; with the rest (3/4, 1/4) against (1/4, 3/4).
    assert float(chunked_loss(hidden, head, labels, target_of(teacher, "topk_renorm", 1, 1), only)) == pytest.approx(
        math.log(4)
    )
    assert float(chunked_loss(hidden, head, labels, target_of(teacher, "topk_tail", 1, 1), only)) == pytest.approx(
        0.5 * math.log(3), rel=1e-6
    )


@given(sizes, temperatures, divergences)
def test_divergences_are_not_negative_and_zero_at_equality(shape, temperature, kind):
    hidden, head, labels, teacher = draw_inputs(*shape)
    only = DistillationWeights(0.0, 1.0, temperature, kind)
    assert chunked_loss(hidden, head, labels, teacher, only) >= -1e-9
    equal = loss_and_gradients(chunked_loss, hidden, head, labels, Logits(hidden, head), only)
    assert all(float(part.abs().max()) < 1e-9 for part in equal)


@given(sizes, temperatures, st.sampled_from(["topk_tail", "sampled"]), st.data())
def test_sparse_divergences_are_zero_at_equality(shape, temperature, loss, data):
    """Draws cancel one by one in the value; the gradient of a single draw is not zero, its mean is."""
    hidden, head, labels, _ = draw_inputs(*shape)
    target = target_of(Logits(hidden, head), loss, temperature, data.draw(st.integers(1, shape[3])))
    only = DistillationWeights(0.0, 1.0, temperature)
    value, *gradients = loss_and_gradients(chunked_loss, hidden, head, labels, target, only)
    scale = temperature**2 * shape[0]
    assert abs(float(value)) < 1e-5 * scale
    if loss == "topk_tail":
        assert all(float(part.abs().max()) < 1e-5 * scale for part in gradients)


@given(sizes, temperatures, st.data())
def test_the_tail_bucket_is_a_lower_bound_that_grows_with_k(shape, temperature, data):
    hidden, head, labels, teacher = draw_inputs(*shape)
    only = DistillationWeights(0.0, 1.0, temperature)
    k = data.draw(st.integers(1, shape[3]))
    targets = [target_of(teacher, "topk_tail", temperature, n) for n in (k, shape[3])]
    values = [float(chunked_loss(hidden, head, labels, target, only)) for target in targets]
    full = float(chunked_loss(hidden, head, labels, teacher, only))
    assert -1e-4 <= values[0] <= values[1] + 1e-4 * (1 + full)


@pytest.mark.parametrize("loss", TOP)
@given(shape=sizes, temperature=temperatures)
def test_the_top_of_the_whole_vocabulary_is_everything(loss, shape, temperature):
    hidden, head, labels, teacher = draw_inputs(*shape)
    weights = DistillationWeights(0.2, 0.8, temperature)
    whole = loss_and_gradients(chunked_loss, hidden, head, labels, teacher, weights)
    target = target_of(teacher, loss, temperature, shape[3])
    top = loss_and_gradients(chunked_loss, hidden, head, labels, target, weights)
    for one, other in zip(top, whole, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-4)


def test_draws_are_unbiased_and_renormalisation_is_not():
    """Every entry of the mean gradient over 2,000 draws lies within 5 standard errors of the whole divergence's; an
    entry of the renormalised top does not.
    """
    hidden, head, labels, teacher = draw_inputs(1, 6, 5, 40)
    only, repeats = DistillationWeights(0.0, 1.0, 1.0), 2000
    many = [part.expand(repeats, -1) for part in (hidden, teacher.hidden)]
    exact_value, exact, _ = loss_and_gradients(chunked_loss, hidden, head, labels, teacher, only)

    def gradients(loss, k):
        states = many[0].clone().requires_grad_()
        target = target_of(Logits(many[1], teacher.head), loss, 1.0, k)
        value = chunked_loss(states, head, labels.expand(repeats), target, only)
        value.backward()
        return float(value.detach()) / repeats, states.grad

    value, drawn = gradients("sampled", 16)
    errors = (drawn.mean(0) - exact[0] / 3) / (drawn.std(0) / repeats**0.5)
    assert float(errors.abs().max()) < 5
    assert value == pytest.approx(float(exact_value), rel=0.05)
    _, renormalised = gradients("topk_renorm", 8)
    bias = (renormalised.mean(0) - exact[0] / 3) / (drawn.std(0) / repeats**0.5)
    assert float(bias.abs().max()) > 10


def test_the_teachers_probabilities_are_the_minimum_with_a_tail_and_not_without():
    """A free student, fitted to one distribution with 0.45 of its mass on the top two of six."""
    probabilities = torch.tensor([[0.25, 0.2, 0.15, 0.15, 0.15, 0.1]], dtype=torch.float64)
    teacher, eye = Logits(probabilities.log(), torch.eye(6, dtype=torch.float64)), torch.eye(6).double()
    fitted = {}
    for loss in TOP:
        logits, target = torch.zeros(1, 6, dtype=torch.float64), target_of(teacher, loss, 1.0, 2)
        for _ in range(400):
            states = logits.clone().requires_grad_()
            chunked_loss(states, eye, torch.tensor([0]), target, DistillationWeights(0, 1, 1.0)).backward()
            logits = logits - states.grad
        fitted[loss] = logits.softmax(-1)[0, :2]
    torch.testing.assert_close(fitted["topk_tail"], probabilities[0, :2], rtol=1e-4, atol=0)
    assert float(fitted["topk_renorm"].sum()) > 0.95


def test_without_weight_on_the_divergence_the_teacher_changes_no_bit():
    hidden, head, labels, teacher = draw_inputs(19, 4, 3, 11, torch.float32)
    pretraining = loss_and_gradients(chunked_loss, hidden, head, labels)
    distillation = loss_and_gradients(chunked_loss, hidden, head, labels, teacher, DistillationWeights(1.0, 0.0, 2.0))
    assert all(torch.equal(one, other) for one, other in zip(pretraining, distillation, strict=True))


def test_a_tied_head_gets_both_gradients():
    """The embedding takes part as input and as head: the gradients add up."""
    _, table, labels, _ = draw_inputs(13, 5, 1, 9)
    ids = (labels + 1) % 9
    gradients = []
    for function in (chunked_loss, plain_loss):
        tied = table.clone().requires_grad_()
        function(functional.embedding(ids, tied), tied, labels).backward()
        gradients.append(tied.grad)
    torch.testing.assert_close(*gradients)


def test_the_teacher_gets_no_gradient():
    hidden, head, labels, teacher = draw_inputs(9, 4, 3, 7)
    teacher.hidden.requires_grad_()
    hidden.requires_grad_()
    chunked_loss(hidden, head, labels, teacher, WEIGHTS).backward()
    assert teacher.hidden.grad is None
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


@pytest.mark.parametrize("loss", [None, "full", "topk_tail", "sampled"])
def test_logits_exist_for_one_chunk_at_a_time(loss):
    hidden, head, labels, teacher = draw_inputs(50, 4, 3, 31)
    target = loss and target_of(teacher, loss, 2.0, 5)
    hidden.requires_grad_()
    head.requires_grad_()
    with LargestLogits(31) as largest:
        chunked_loss(hidden, head, labels, target, WEIGHTS).backward()
    assert largest.rows == 8
    with LargestLogits(31) as largest:
        plain_loss(hidden, head, labels).backward()
    assert largest.rows == 50


def test_half_precision_stays_close_and_the_loss_is_float32():
    hidden, head, labels, teacher = draw_inputs(40, 16, 12, 30, torch.float32)
    hidden, head = hidden / 4, head / 4
    exact = loss_and_gradients(chunked_loss, hidden, head, labels, teacher, WEIGHTS)
    halves = Logits(teacher.hidden.bfloat16(), teacher.head.bfloat16())
    rough = loss_and_gradients(chunked_loss, hidden.bfloat16(), head.bfloat16(), labels, halves, WEIGHTS)
    assert (rough[0].dtype, rough[1].dtype) == (torch.float32, torch.bfloat16)
    for one, other in zip(exact, rough, strict=True):
        assert (one - other.float()).norm() < 0.05 * one.norm()


def test_autocast_multiplies_in_bfloat16_and_leaves_gradients_in_float32():
    hidden, head, labels, teacher = draw_inputs(40, 16, 12, 30, torch.float32)
    halves = Logits(teacher.hidden.bfloat16(), teacher.head.bfloat16())
    with torch.autocast("cpu", dtype=torch.bfloat16):
        inside = loss_and_gradients(chunked_loss, hidden, head, labels, halves, WEIGHTS)
    outside = loss_and_gradients(chunked_loss, hidden.bfloat16(), head.bfloat16(), labels, halves, WEIGHTS)
    assert {part.dtype for part in inside} == {torch.float32}
    for one, other in zip(inside, outside, strict=True):
        torch.testing.assert_close(one, other.float(), rtol=1e-2, atol=1e-2)


@pytest.mark.slow  # a C++ compiler takes a minute on a busy machine
@pytest.mark.parametrize("loss", ["full", "topk_tail"])
def test_compiled_is_eager(need, loss):
    """Against whole teachers and against some of their entries."""
    need(inductor_works("cpu"), "torch.compile needs a C++ compiler and Python's headers")
    hidden, head, labels, teacher = draw_inputs(16, 4, 3, 31, torch.float32)
    arguments = (hidden, head, labels, target_of(teacher, loss, 2.0, 5), WEIGHTS)
    eager = loss_and_gradients(chunked_loss, *arguments)
    compiled = loss_and_gradients(lambda *a: chunked_loss(*a, compiled=True), *arguments)
    for one, other in zip(compiled, eager, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-5)


def test_where_nothing_compiles_that_is_said(monkeypatch, caplog):
    def broken(_function):
        raise RuntimeError("no compiler\nat all")

    monkeypatch.setattr(torch, "compile", broken)
    inductor_works.cache_clear()
    assert not inductor_works("cpu")
    inductor_works.cache_clear()
    assert "runs uncompiled on cpu because torch.compile fails: no compiler" in caplog.text


def test_padding_of_a_sparse_target_changes_nothing():
    hidden, head, labels, _ = draw_inputs(3, 4, 3, 7)
    ids, probs = torch.tensor([[1, 4]] * 3), torch.tensor([[0.25, 0.75]] * 3)
    padded = SparseTarget(
        torch.cat([ids, torch.zeros_like(ids)], 1), torch.cat([probs, torch.zeros_like(probs)], 1), torch.zeros(3)
    )
    one, other = (
        loss_and_gradients(chunked_loss, hidden, head, labels, target, WEIGHTS)
        for target in (SparseTarget(ids, probs, torch.zeros(3)), padded)
    )
    assert all(torch.equal(a, b) for a, b in zip(one, other, strict=True))
