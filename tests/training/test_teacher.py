"""Whether a teacher can teach is checked before anything runs; a cached one teaches what a live one does."""

import json
import shutil
from dataclasses import asdict

import numpy as np
import pytest
import torch
from runs import assert_close

from budwood.corpus.packing import PackedCorpus
from budwood.models.checkpoint import load_model, read_architecture
from budwood.models.device import Compute
from budwood.models.settings import TeacherSettings
from budwood.models.teacher import fetch_teacher
from budwood.training import run
from budwood.training.cache import write_cache
from budwood.training.checks import check_vocabulary
from budwood.training.order import training_order
from budwood.training.run import train
from budwood.training.settings import DistillationSettings
from budwood.training.teacher import cache_facts, draw, open_live_teacher, take_top

CPU = Compute(torch.device("cpu"), "float32")
VOCABULARY = 257


settings = DistillationSettings


@pytest.fixture
def cached(make_job, corpus_folder, teacher_folder, tmp_path):
    """Return a maker of caches for the default job."""

    def make(wanted, folder="cache"):
        corpus, schedule = PackedCorpus.open(corpus_folder), make_job().schedule
        teacher = open_live_teacher(teacher_folder, wanted, CPU)
        facts = cache_facts(teacher_folder, corpus, schedule.sequence_length, wanted)
        starts = training_order(corpus, schedule)
        return write_cache(tmp_path / folder, teacher.entries, corpus, starts, facts, batch_size=8).folder

    return make


@pytest.mark.slow
def test_a_cache_of_everything_teaches_what_the_live_teacher_does(make_job, cached):
    """Law 5: the tail bucket with k = V is the whole distribution; float16 leaves 2^-11 of a log-probability."""
    live = make_job("live", distillation=settings())
    whole = settings(loss="topk_tail", top_k=VOCABULARY, teacher="cached")
    read = make_job("read", distillation=whole, cache_folder=cached(whole))
    results = [train(job) for job in (live, read)]
    assert_close(live, read, 1e-3)
    assert results[0].teacher_flops > 0
    assert results[1].teacher_flops == results[0].teacher_flops, "every sequence is read once"
    assert [result.teacher_cached for result in results] == [False, True]
    assert results[0].student_flops == results[1].student_flops


def swap_two_tokens(source, target):
    shutil.copytree(source, target)
    tokenizer = json.loads((target / "tokenizer.json").read_text())
    vocabulary = tokenizer["model"]["vocab"]
    vocabulary["a"], vocabulary["b"] = vocabulary["b"], vocabulary["a"]
    (target / "tokenizer.json").write_text(json.dumps(tokenizer))
    return target


def test_other_vocabularies_are_refused_before_a_model_is_loaded(make_job, model_folder, tmp_path, monkeypatch):
    monkeypatch.setattr(run, "load_model", lambda *_: pytest.fail("a model was loaded"))
    check_vocabulary(model_folder, make_job().teacher_folder)
    other = swap_two_tokens(model_folder, tmp_path / "other")
    with pytest.raises(ValueError, match="have different vocabularies"):
        train(make_job(model_folder=other, distillation=settings()))


@pytest.fixture
def sized(tmp_path):
    """Return a maker of models with a number of rows for the same 257 bytes."""

    def make(vocab_size, seed=1):
        sizes = {"hidden_size": 8, "intermediate_size": 8, "num_hidden_layers": 1, "num_attention_heads": 1}
        settings = TeacherSettings(random=sizes | {"vocab_size": vocab_size}, seed=seed)
        return fetch_teacher(settings, tmp_path / f"{vocab_size} {seed}").checkpoint.folder

    return make


@pytest.mark.slow
@pytest.mark.parametrize("loss", ["full", "topk_tail", "sampled"])
@pytest.mark.parametrize(("student", "teacher"), [(300, 280), (280, 300)])
def test_padding_does_not_keep_a_teacher_from_teaching(make_job, sized, student, teacher, loss):
    wanted = settings(loss=loss, top_k=8, num_samples=4)
    job = make_job(tokens=1, model_folder=sized(student), teacher_folder=sized(teacher, 2), distillation=wanted)
    assert np.isfinite(train(job).seconds)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("loss", "rows"), [("topk_renorm", VOCABULARY), ("topk_renorm", 300), ("topk_tail", 300), ("sampled", 300)]
)
def test_live_and_cached_entries_teach_alike(make_job, cached, sized, loss, rows):
    """Also a student that has 43 rows that the teacher has not: they are outside the divergence of either."""
    student, jobs = sized(rows), []
    for teacher in ("live", "cached"):
        wanted = settings(loss=loss, num_samples=8, top_k=8, teacher=teacher)
        folder = cached(wanted) if teacher == "cached" else None
        jobs.append(make_job(teacher, tokens=192, model_folder=student, distillation=wanted, cache_folder=folder))
        train(jobs[-1])
    assert_close(*jobs, 1e-3)


def test_a_wider_teacher_is_sliced_before_the_softmax(sized):
    """Its padding gets no probability: every entry is that of a teacher without padding."""
    folder, ids = sized(300), torch.arange(12)[None]
    whole = load_model(folder, torch.float32).eval()
    expected = torch.log_softmax(whole(ids).logits[0, :, :VOCABULARY], -1)
    for loss in ("full", "topk_tail"):
        teacher = open_live_teacher(folder, settings(loss=loss, top_k=VOCABULARY), CPU, VOCABULARY)
        target = teacher(ids, torch.zeros(1))
        if loss == "full":
            found = torch.log_softmax(target.hidden @ target.head.T, -1)
        else:
            found = torch.zeros_like(expected).scatter(1, target.ids, target.probs).log()
        torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)
        assert target.num_ids == VOCABULARY


def test_fewer_rows_than_ids_are_refused_and_a_cache_of_more(make_job, sized, monkeypatch):
    monkeypatch.setattr(run, "load_model", lambda *_: pytest.fail("a model was loaded"))
    small = asdict(read_architecture(sized(300))) | {"vocab_size": 200}
    alone = {"model_folder": None, "architecture": small, "initialisation": "random"}
    for distillation in (None, settings()):
        with pytest.raises(ValueError, match=r"has vocab_size=200, the tokenizer of .* makes 257 ids"):
            train(make_job(**alone, distillation=distillation))
    wanted = settings(loss="sampled", teacher="cached")
    job = make_job(model_folder=sized(VOCABULARY), teacher_folder=sized(300), distillation=wanted)
    with pytest.raises(ValueError, match=r"a cache has entries of all of its .*use teacher='live'"):
        train(job)


def test_text_of_another_tokenizer_is_refused_before_a_model_is_loaded(make_job, tmp_path, monkeypatch):
    monkeypatch.setattr(run, "load_model", lambda *_: pytest.fail("a model was loaded"))
    other = swap_two_tokens(make_job().teacher_folder, tmp_path / "other")
    with pytest.raises(ValueError, match=r"corpus_folder: .* was made by tokenizer \w{16}, .*other has \w{16}"):
        train(make_job(teacher_folder=other))


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"loss": "topk_tail", "top_k": VOCABULARY + 1}, "top_k=258 must not exceed the vocabulary of 257 tokens"),
        ({"teacher_device": "cuda:7"}, "teacher_device='cuda:7' is not available here"),
        ({"teacher_device": "abacus"}, "teacher_device='abacus' is not available here"),
        ({"teacher_device": "meta"}, "teacher_device='meta' must be same, cpu"),
        ({"loss": "sampled", "teacher": "cached"}, "arm child has teacher='cached': give cache_folder"),
    ],
)
def test_what_cannot_teach_is_refused_before_a_model_is_loaded(make_job, monkeypatch, changes, expected):
    monkeypatch.setattr(run, "load_model", lambda *_: pytest.fail("a model was loaded"))
    with pytest.raises(ValueError, match=expected):
        train(make_job(distillation=settings(**changes)))


def test_a_foreign_cache_is_refused_before_a_model_is_loaded(make_job, cached, monkeypatch):
    folder = cached(settings(loss="sampled", num_samples=8, teacher="cached"))
    monkeypatch.setattr(run, "load_model", lambda *_: pytest.fail("a model was loaded"))
    other = settings(loss="sampled", num_samples=9, teacher="cached")
    with pytest.raises(ValueError, match="num_entries is 8, needed 9"):
        train(make_job(distillation=other, cache_folder=folder))
    wanted = settings(loss="sampled", num_samples=8, teacher="cached")
    with pytest.raises(ValueError, match="seed is 42, needed 7"):
        train(make_job(distillation=wanted.model_copy(update={"sampling_seed": 7}), cache_folder=folder))
    with pytest.raises(ValueError, match="does not exist"):
        train(make_job(distillation=wanted, cache_folder=folder.with_name("nowhere")))


@pytest.mark.slow
def test_runs_in_other_orders_read_one_cache(make_job, corpus_folder, teacher_folder, tmp_path):
    wanted = settings(loss="sampled", num_samples=8, teacher="cached")
    corpus = PackedCorpus.open(corpus_folder)
    teacher = open_live_teacher(teacher_folder, wanted, CPU)
    facts = cache_facts(teacher_folder, corpus, 12, wanted)
    folder = write_cache(tmp_path / "all", teacher.entries, corpus, corpus.window_starts("train", 12), facts, 8).folder
    for seed in (1, 2):
        job = make_job(f"cached-{seed}", tokens=192, distillation=wanted, cache_folder=folder, seed=seed)
        live = make_job(f"live-{seed}", tokens=192, distillation=settings(loss="sampled", num_samples=8), seed=seed)
        train(job)
        train(live)
        assert_close(job, live, 1e-3)


def test_the_top_and_the_rest_by_hand():
    log_probs = torch.tensor([[0.5, 0.125, 0.25, 0.125]]).log()
    top = take_top(log_probs, 2)
    assert top["ids"].tolist() == [[0, 2]]
    assert top["log_probs"].exp().tolist() == [[0.5, 0.25]]
    assert top["log_rest"].exp().tolist() == pytest.approx([0.25])
    assert take_top(log_probs, 4)["log_rest"].tolist() == [-torch.inf]


def test_draws_follow_the_teacher():
    """Frequencies of 20,000 draws lie within five standard errors of three probabilities."""
    probabilities = torch.tensor([0.7, 0.2, 0.1])
    entries = draw(probabilities.log().expand(100, -1), 200, torch.Generator().manual_seed(0))
    frequencies = torch.bincount(entries["ids"].flatten(), minlength=3) / 20_000
    errors = (frequencies - probabilities) / (probabilities * (1 - probabilities) / 20_000).sqrt()
    assert float(errors.abs().max()) < 5
    expected = probabilities.log()[entries["ids"]].mean(-1)
    torch.testing.assert_close(entries["mean_log_prob"], expected)


@pytest.mark.slow
def test_a_compiled_teacher_computes_the_same(teacher_folder, monkeypatch):
    """Traced, and run without a compiler's minutes."""
    compiled, original = [], torch.nn.Module.compile
    monkeypatch.setattr(
        torch.nn.Module, "compile", lambda module: compiled.append(module) or original(module, backend="eager")
    )
    ids = torch.arange(24).reshape(2, 12)
    plain, traced = (
        open_live_teacher(teacher_folder, settings(compile_teacher=flag), CPU)(ids, torch.zeros(2)).hidden
        for flag in (False, True)
    )
    assert len(compiled) == 1
    torch.testing.assert_close(traced, plain)
