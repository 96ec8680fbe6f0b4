"""Of a teacher with part of its vocabulary, the tail has what the whole one gives to the ids that were dropped."""

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from runs import assert_close

from budwood.arch.count import forward_flops_per_token
from budwood.corpus.packing import PackedCorpus
from budwood.models.checkpoint import Checkpoint, load_model
from budwood.models.device import Compute
from budwood.models.kind import DROPPED_HEAD
from budwood.models.settings import TeacherSettings
from budwood.models.teacher import fetch_teacher
from budwood.models.vocabulary import num_dropped_ids, trim_checkpoint
from budwood.training import run
from budwood.training.cache import TeacherCache, write_cache
from budwood.training.losses import Logits, SparseTarget, chunked_loss
from budwood.training.order import training_order
from budwood.training.run import train
from budwood.training.settings import DistillationSettings, DistillationWeights
from budwood.training.teacher import asked_architecture, cache_facts, open_live_teacher, sparse_target, take_top

CPU = Compute(torch.device("cpu"), "float32")
KEPT, ROWS = 257, 300
ONLY = DistillationWeights(0.0, 1.0, 1.0)
TAIL = DistillationSettings(loss="topk_tail", top_k=8, temperature=1.5)
IDS, STARTS = torch.arange(24).reshape(2, 12), torch.zeros(2)


@pytest.fixture(scope="module")
def whole(tmp_path_factory) -> Path:
    sizes = {"hidden_size": 8, "intermediate_size": 8, "num_hidden_layers": 1, "num_attention_heads": 1}
    settings = TeacherSettings(random=sizes | {"vocab_size": ROWS}, seed=3)
    return fetch_teacher(settings, tmp_path_factory.mktemp("whole")).checkpoint.folder


@pytest.fixture(scope="module")
def cut(whole, tmp_path_factory) -> Path:
    return trim_checkpoint(Checkpoint.open(whole), range(KEPT), tmp_path_factory.mktemp("cut") / "teacher")


@pytest.fixture(scope="module")
def exact(whole) -> torch.Tensor:
    """Return the whole teacher's probabilities at the temperature, [24, ROWS], in float64."""
    with torch.no_grad():
        return (load_model(whole, torch.float64).eval()(IDS).logits.flatten(0, 1) / TAIL.temperature).softmax(-1)


def test_the_rest_and_its_loss_by_hand():
    """Three kept ids and a dropped one, the likeliest of all. A uniform student of the three has 1/3 and 2/3."""
    top = take_top(torch.tensor([[0.2, 0.3, 0.1, 0.4]]).log(), 1, num_ids=3)
    assert top["ids"].tolist() == [[1]]
    assert top["log_probs"].exp().tolist() == [pytest.approx([0.3])]
    assert top["log_rest"].exp().tolist() == pytest.approx([0.7])
    target = sparse_target(top, DistillationSettings(loss="topk_tail", top_k=1))
    hidden, head = torch.zeros(1, 3, dtype=torch.float64), torch.eye(3, dtype=torch.float64)
    expected = 0.3 * math.log(0.3 * 3) + 0.7 * math.log(0.7 * 3 / 2)
    assert float(chunked_loss(Logits(hidden, head), torch.tensor([0]), target, ONLY)) == pytest.approx(
        expected, abs=1e-6
    )


@given(st.integers(1, 9), st.integers(0, 99))
def test_with_nothing_dropped_not_a_bit_changes(k, seed):
    log_probs = torch.randn(5, 9, generator=torch.Generator().manual_seed(seed)).log_softmax(-1)
    plain, same = take_top(log_probs, k), take_top(log_probs, k, num_ids=9)
    assert all(torch.equal(plain[name], same[name]) for name in plain)


def tail_by_definition(probabilities: torch.Tensor, num_ids: int, k: int) -> SparseTarget:
    """Return the target of some whole distributions in float64."""
    probs, ids = probabilities[:, :num_ids].topk(k, -1)
    rest = 1 - probs.sum(-1)
    return SparseTarget(ids, probs, (probs * probs.log()).sum(-1) + rest * rest.log(), rest, num_ids)


def test_gradients_are_the_slopes_of_the_loss():
    """In float64, by numerical differences; also of a student with rows that the teacher lacks."""
    generator = torch.Generator().manual_seed(0)
    hidden, head, logits = (
        torch.randn(*shape, dtype=torch.float64, generator=generator) for shape in ((5, 4), (8, 4), (5, 11))
    )
    target, labels = tail_by_definition(logits.softmax(-1), 7, 3), torch.tensor([0, 3, 7, 1, 2])
    weights = DistillationWeights(0.2, 0.8, 2.0)
    given_both = hidden.requires_grad_(), head.requires_grad_()
    assert torch.autograd.gradcheck(lambda *own: chunked_loss(Logits(*own), labels, target, weights), given_both)


def test_the_minimum_has_the_whole_teachers_probabilities_on_the_top():
    """A free student of the first four of six ids, which have 0.75 of the mass."""
    probabilities = torch.tensor([[0.25, 0.2, 0.15, 0.15, 0.15, 0.1]], dtype=torch.float64)
    logits, eye = torch.zeros(1, 4, dtype=torch.float64), torch.eye(4, dtype=torch.float64)
    for _ in range(400):
        states = logits.clone().requires_grad_()
        chunked_loss(Logits(states, eye), torch.tensor([0]), tail_by_definition(probabilities, 4, 2), ONLY).backward()
        logits = logits - states.grad
    expected = torch.tensor([0.25, 0.2, 0.275, 0.275], dtype=torch.float64)
    torch.testing.assert_close(logits.softmax(-1)[0], expected, rtol=1e-4, atol=0)


def test_a_live_teacher_answers_as_the_whole_one(cut, exact):
    target = open_live_teacher(cut, TAIL, CPU)(IDS, STARTS)
    expected = tail_by_definition(exact, KEPT, TAIL.top_k)
    assert torch.equal(target.ids, expected.ids)
    assert float(expected.rest.min()) > float(exact[:, KEPT:].sum(-1).min()) > 0.05
    for name in ("probs", "rest", "negative_entropy"):
        torch.testing.assert_close(getattr(target, name).double(), getattr(expected, name), rtol=1e-4, atol=1e-5)


def test_without_a_tail_the_target_is_what_the_teacher_says_of_kept_ids_alone(cut, exact):
    target = open_live_teacher(cut, DistillationSettings(loss="full"), CPU)(IDS, STARTS)
    given_kept = exact[:, :KEPT] / exact[:, :KEPT].sum(-1, keepdim=True)
    found = (target.hidden @ target.head.T / TAIL.temperature).softmax(-1)
    torch.testing.assert_close(found.double(), given_kept, rtol=1e-4, atol=1e-7)


@pytest.mark.slow
def test_live_and_cached_tails_teach_alike_and_their_heads_are_counted(make_job, cut, corpus_folder, tmp_path):
    corpus, wanted = PackedCorpus.open(corpus_folder), TAIL.model_copy(update={"teacher": "cached"})
    live = make_job("live", tokens=192, teacher_folder=cut, distillation=TAIL)
    facts = cache_facts(cut, corpus, live.schedule.sequence_length, wanted)
    starts = training_order(corpus, live.schedule)
    folder = write_cache(
        tmp_path / "cache", open_live_teacher(cut, wanted, CPU).entries, corpus, starts, facts, 8
    ).folder
    read = make_job("read", tokens=192, teacher_folder=cut, distillation=wanted, cache_folder=folder)
    results = [train(job) for job in (live, read)]
    assert_close(live, read, 1e-3)
    # The head of the whole teacher: 43 rows of 8 more than its architecture has.
    plain = forward_flops_per_token(Checkpoint.open(cut).architecture, context=12)
    assert results[0].teacher_flops == 192 * (plain + 2 * 43 * 8)
    assert asked_architecture(cut, wanted).vocab_size == ROWS
    assert asked_architecture(cut, DistillationSettings()).vocab_size == KEPT
    # A cache for another loss has the same entries with another rest.
    renormalised = wanted.model_copy(update={"loss": "topk_renorm"})
    with pytest.raises(ValueError, match="num_dropped_ids is 43, needed 0"):
        TeacherCache.open(folder).check(cache_facts(cut, corpus, 12, renormalised), np.unique(starts))


def test_a_student_without_a_tail_is_refused_before_a_model_is_loaded(make_job, cut, monkeypatch):
    monkeypatch.setattr(run, "load_model", lambda *_: pytest.fail("a model was loaded"))
    wanted = DistillationSettings(loss="topk_tail", top_k=KEPT)
    with pytest.raises(ValueError, match=r"top_k=257 must be less than the vocabulary of 257 tokens.* the 43 ids"):
        train(make_job(teacher_folder=cut, distillation=wanted))


def test_a_teacher_that_is_cut_twice_answers_as_the_whole_one_too(whole, cut, tmp_path):
    once = trim_checkpoint(Checkpoint.open(whole), range(ROWS - 7), tmp_path / "once")
    twice = trim_checkpoint(Checkpoint.open(once), range(KEPT), tmp_path / "twice")
    assert num_dropped_ids(twice) == ROWS - KEPT
    targets = [open_live_teacher(folder, TAIL, CPU)(IDS, STARTS) for folder in (cut, twice)]
    for one, other in zip(*(target.tensors() for target in targets), strict=True):
        torch.testing.assert_close(one, other)


def test_the_fingerprint_covers_the_dropped_head(whole, cut, tmp_path):
    assert (num_dropped_ids(whole), num_dropped_ids(cut)) == (0, ROWS - KEPT)
    other = trim_checkpoint(Checkpoint.open(whole), range(KEPT), tmp_path / "teacher")
    assert Checkpoint.open(other).fingerprint == Checkpoint.open(cut).fingerprint
    content = bytearray((other / DROPPED_HEAD).read_bytes())
    content[-1] ^= 1
    (other / DROPPED_HEAD).write_bytes(content)
    assert Checkpoint.open(other).fingerprint != Checkpoint.open(cut).fingerprint
