"""The student is its model and nothing else."""

import pytest
import torch
from safetensors.torch import save_file
from teachers import VOCAB_SIZE, tiny_teacher
from transformers import AutoModelForCausalLM

from budwood.arch.family import MODEL_TYPES
from budwood.models.device import Compute
from budwood.training.objectives import Objective, objective_of
from budwood.training.settings import DistillationSettings
from budwood.training.student import Student

RATES = ("attention_dropout", "hidden_dropout", "resid_pdrop", "embd_pdrop", "residual_dropout", "embedding_dropout")
"""Names of dropout rates in the configurations of all families."""


@pytest.fixture
def models(teacher_folder, model_folder):
    return tuple(AutoModelForCausalLM.from_pretrained(folder) for folder in (teacher_folder, model_folder))


def test_the_loss_is_a_mean_over_the_tokens_of_the_step(models):
    _, model = models
    student = Student(model, Objective())
    tokens = torch.randint(0, 257, (2, 8), generator=torch.Generator().manual_seed(0))
    batch = {"input_ids": tokens[:, :-1], "shift_labels": tokens[:, 1:]}
    alone = student(**batch)["loss"]
    torch.testing.assert_close(alone, model(input_ids=tokens, labels=tokens).loss)
    torch.testing.assert_close(student(**batch, num_items_in_batch=torch.tensor(56))["loss"], alone / 4)


def test_the_teacher_is_neither_trained_nor_saved(models, make_job):
    _, model = models
    job = make_job(distillation=DistillationSettings())
    student = Student(model, objective_of(job, Compute(torch.device("cpu"), "float32")))
    assert sum(p.numel() for p in student.parameters()) == sum(p.numel() for p in model.parameters())
    assert {name.removeprefix("model.") for name in student.state_dict()} <= set(model.state_dict())


@pytest.mark.parametrize("tied", [True, False])
def test_the_weights_can_be_saved_and_restored(models, tied, tmp_path):
    """safetensors refuses two names for one tensor."""
    _, model = models
    if not tied:
        model.config.tie_word_embeddings = False
        model.lm_head.weight = torch.nn.Parameter(model.lm_head.weight.detach().clone())
    student = Student(model, Objective())
    state = student.state_dict()
    assert ("model.lm_head.weight" in state) is not tied
    save_file(state, tmp_path / "weights.safetensors")
    before = {name: value.clone() for name, value in model.state_dict().items()}
    with torch.no_grad():
        saved = {name: value.clone() for name, value in state.items()}
        for parameter in model.parameters():
            parameter.zero_()
    student.load_state_dict(saved, strict=not tied)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


@pytest.mark.parametrize("family", MODEL_TYPES)
def test_students_of_every_family_are_trained_without_dropout(family):
    """The exported configuration keeps its rates; what is computed in training is what is computed without them."""
    tokens = torch.randint(0, VOCAB_SIZE, (2, 9), generator=torch.Generator().manual_seed(0))
    losses = []
    for rate in (0.0, 0.5):
        model = tiny_teacher(family, tied=True, num_hidden_layers=2, layer_types=None, **dict.fromkeys(RATES, rate))
        before = model.config.to_dict()
        student = Student(model, Objective()).train()
        losses.append(student(input_ids=tokens[:, :-1], shift_labels=tokens[:, 1:])["loss"])
        assert model.config.to_dict() == before
    assert torch.equal(*losses)
