"""Objectives are the losses of Hugging Face's own logits."""

import pytest
import torch
from teachers import tiny_teacher
from torch.nn import functional
from transformers import AutoModelForCausalLM, Gemma2Config, Gemma2ForCausalLM

from budwood.models.checkpoint import load_model, load_tokenizer, save_checkpoint
from budwood.models.device import Compute
from budwood.models.losses import next_token_losses
from budwood.training import objectives
from budwood.training.objectives import Batch, Objective, compiles_loss, objective_of
from budwood.training.settings import DistillationSettings, Engine

CPU = Compute(torch.device("cpu"), "float32")


@pytest.fixture(scope="module")
def models(teacher_folder, model_folder):
    return tuple(AutoModelForCausalLM.from_pretrained(folder).eval() for folder in (teacher_folder, model_folder))


@pytest.fixture(scope="module")
def batch():
    tokens = torch.randint(0, 257, (3, 12), generator=torch.Generator().manual_seed(0))
    return Batch(
        input_ids=tokens[:, :-1],
        labels=tokens[:, 1:],
        starts=torch.tensor([0, 11, 22]),
    )


def distillation(make_job, **settings):
    job = make_job(distillation=DistillationSettings(**settings))
    return objective_of(job, CPU)


def logits_of(model, batch):
    return model(input_ids=batch.input_ids).logits.flatten(0, 1).double()


def test_next_token_is_the_summed_loss_of_hugging_face(models, batch):
    _, student = models
    text = functional.cross_entropy(logits_of(student, batch), batch.labels.flatten(), reduction="sum")
    torch.testing.assert_close(Objective()(student, batch).double(), text, rtol=1e-5, atol=1e-4)


def test_distillation_is_equation_2_of_the_paper(models, batch, make_job):
    teacher, student = models
    actual = distillation(make_job, alpha=0.3, beta=0.6, temperature=2.0)(student, batch)
    text = functional.cross_entropy(logits_of(student, batch), batch.labels.flatten(), reduction="sum")
    own, other = ((logits_of(model, batch) / 2).log_softmax(-1) for model in (student, teacher))
    divergence = functional.kl_div(own, other, reduction="sum", log_target=True)
    torch.testing.assert_close(actual.double(), 0.3 * text + 0.6 * 4 * divergence, rtol=1e-5, atol=1e-4)


@pytest.fixture
def gemma(tmp_path, teacher_folder):
    """A folder and its model, whose logits a cap squeezes visibly."""
    sizes = {"vocab_size": 257, "hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2, "head_dim": 8}
    config = Gemma2Config(num_attention_heads=2, num_key_value_heads=1, final_logit_softcapping=0.2, **sizes)
    torch.manual_seed(0)
    save_checkpoint(Gemma2ForCausalLM(config), load_tokenizer(teacher_folder), tmp_path / "gemma")
    return tmp_path / "gemma", load_model(tmp_path / "gemma", torch.float32).eval()


@pytest.mark.parametrize("loss", ["full", "topk_tail"])
def test_softcapped_logits_are_those_of_hugging_face_on_either_side(models, batch, make_job, gemma, loss):
    folder, capped = gemma
    _, student = models
    assert 0.1 < float(logits_of(capped, batch).detach().abs().max()) < 0.2
    for own, teacher_folder, teacher in ((capped, make_job().teacher_folder, models[0]), (student, folder, capped)):
        settings = DistillationSettings(alpha=0.3, beta=0.7, loss=loss, top_k=257)
        objective = objective_of(make_job(teacher_folder=teacher_folder, distillation=settings), CPU)
        logits, other = (logits_of(model, batch) for model in (own, teacher))
        text = functional.cross_entropy(logits, batch.labels.flatten(), reduction="sum")
        divergence = functional.kl_div(logits.log_softmax(-1), other.softmax(-1), reduction="sum")
        torch.testing.assert_close(Objective()(own, batch).double(), text, rtol=1e-5, atol=1e-4)
        torch.testing.assert_close(objective(own, batch).double(), 0.3 * text + 0.7 * divergence, rtol=1e-5, atol=1e-4)


def test_the_papers_top_is_whittles_dense_one(models, batch, make_job):
    """Its reference code fills all but the teacher's top logits with a large negative number."""
    teacher, student = models
    actual = distillation(make_job, alpha=0.0, beta=1.0, temperature=0.9, loss="topk_renorm", top_k=16)(student, batch)
    own, other = (logits_of(model, batch) for model in (student, teacher))
    values, ids = other.topk(16, -1)
    dense = torch.full_like(other, -1e9).scatter(1, ids, values)
    expected = functional.kl_div((own / 0.9).log_softmax(-1), (dense / 0.9).softmax(-1), reduction="batchmean") * (
        0.9**2 * 33
    )
    torch.testing.assert_close(actual.double(), expected, rtol=1e-5, atol=1e-4)


def test_draws_depend_on_the_sequence_and_not_on_the_batch(models, batch, make_job):
    _, student = models
    objective = distillation(make_job, loss="sampled", num_samples=4)
    whole = objective(student, batch)
    parts = [
        objective(student, Batch(input_ids=batch.input_ids[i : i + 1], labels=batch.labels[i : i + 1], starts=start))
        for i, start in enumerate(batch.starts.split(1))
    ]
    torch.testing.assert_close(sum(parts), whole)
    moved = Batch(input_ids=batch.input_ids, labels=batch.labels, starts=batch.starts + 1)
    assert abs(float((objective(student, moved) - whole).detach())) > 0.01


def test_the_teacher_is_not_trained(models, batch, make_job):
    _, student = models
    objective = distillation(make_job)
    objective(student, batch).backward()
    assert all(parameter.grad is None for parameter in objective.teacher.model.parameters())
    assert not any(parameter.requires_grad for parameter in objective.teacher.model.parameters())
    assert not objective.teacher.model.training
    assert all(parameter.grad is not None for parameter in student.parameters())
    student.zero_grad()


def test_the_teacher_runs_on_its_own_device(models, batch, make_job):
    _, student = models
    elsewhere = distillation(make_job, teacher_device="cpu")
    assert str(elsewhere.teacher.model.device) == "cpu"
    dtype = elsewhere.teacher.model.dtype  # what suits that device
    assert dtype in {torch.float32, torch.bfloat16}
    rtol = 1e-5 if dtype == torch.float32 else 2e-2
    torch.testing.assert_close(elsewhere(student, batch), distillation(make_job)(student, batch), rtol=rtol, atol=1e-3)


def test_whether_the_loss_is_compiled(monkeypatch):
    asked = []
    monkeypatch.setattr(objectives, "inductor_works", lambda device: asked.append(device) or True)
    assert not compiles_loss(Engine(compile_loss="off"), CPU)
    assert compiles_loss(Engine(compile_loss="on"), CPU)
    assert not asked
    assert compiles_loss(Engine(), CPU)
    assert asked == ["cpu"]


def test_divided_logits_are_those_of_the_class():
    """Granite divides its logits after the head, which losses apply themselves."""
    model = tiny_teacher("granite+attention_bias+mlp_bias", tied=True)
    ids = torch.randint(0, 97, (2, 12), generator=torch.Generator().manual_seed(2))
    with torch.no_grad():
        logits = model(ids[:, :-1]).logits
        expected = functional.cross_entropy(logits.flatten(0, 1), ids[:, 1:].flatten(), reduction="sum")
        found = Objective()(model, Batch(input_ids=ids[:, :-1], labels=ids[:, 1:]))
        assert found.item() == pytest.approx(expected.item(), rel=1e-5)
        means = next_token_losses(model, ids)
    assert means.sum().item() * 11 == pytest.approx(expected.item(), rel=1e-5)
