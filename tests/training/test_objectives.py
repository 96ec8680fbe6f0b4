"""Objectives are the losses of Hugging Face's own logits."""

import pytest
import torch
from torch.nn import functional
from transformers import AutoModelForCausalLM

from budwood.training.losses import DistillationWeights
from budwood.training.objectives import Distillation, NextToken


@pytest.fixture(scope="module")
def models(teacher_folder, model_folder):
    return tuple(AutoModelForCausalLM.from_pretrained(folder).eval() for folder in (teacher_folder, model_folder))


@pytest.fixture(scope="module")
def tokens():
    return torch.randint(0, 257, (3, 11), generator=torch.Generator().manual_seed(0))


def apply(objective, student, tokens):
    hidden = student.base_model(input_ids=tokens[:, :-1]).last_hidden_state
    return objective(hidden, student.get_output_embeddings().weight, tokens[:, :-1], tokens[:, 1:])


def test_next_token_is_the_summed_loss_of_hugging_face(models, tokens):
    _, student = models
    expected = student(input_ids=tokens, labels=tokens).loss * 30
    torch.testing.assert_close(apply(NextToken(), student, tokens), expected)


def test_distillation_is_equation_2_of_the_paper(models, tokens):
    teacher, student = models
    actual = apply(Distillation(teacher, DistillationWeights(0.3, 0.6, 2.0)), student, tokens)
    logits, targets = (model(input_ids=tokens[:, :-1]).logits.flatten(0, 1).double() for model in (student, teacher))
    text = functional.cross_entropy(logits, tokens[:, 1:].flatten(), reduction="sum")
    divergence = functional.kl_div(
        (logits / 2).log_softmax(-1), (targets / 2).log_softmax(-1), reduction="sum", log_target=True
    )
    torch.testing.assert_close(actual.double(), 0.3 * text + 0.6 * 4 * divergence, rtol=1e-5, atol=1e-4)


def test_the_teacher_is_not_trained(models, tokens):
    teacher, student = models
    apply(Distillation(teacher, DistillationWeights(0.2, 0.8, 1.0)), student, tokens).backward()
    assert all(parameter.grad is None for parameter in teacher.parameters())
    assert all(parameter.grad is not None for parameter in student.parameters())
    student.zero_grad()
