"""Muon and AdamW together are each by itself."""

import copy

import pytest
import torch
from torch.optim import AdamW, Muon

from budwood.models.checkpoint import load_model
from budwood.training.optimizer import muon_with_adamw, state_dtypes

SETTINGS = {"learning_rate": 0.01, "betas": (0.9, 0.95), "decay": 0.1}


@pytest.fixture
def model(model_folder):
    return load_model(model_folder, torch.float32)


def give_gradients(model, seed):
    generator = torch.Generator().manual_seed(seed)
    for parameter in model.parameters():
        parameter.grad = torch.randn(parameter.shape, generator=generator)


def made(model):
    return muon_with_adamw(model, {p for p in model.parameters() if p.ndim == 2}, **SETTINGS)


def parts_of(model):
    matrices = [p for name, p in model.named_parameters() if "_proj" in name]
    norms = [p for name, p in model.named_parameters() if "norm" in name]
    return matrices, norms, model.get_input_embeddings().weight


def test_matrices_of_layers_take_muons_steps_and_all_else_adamws(model):
    other = copy.deepcopy(model)
    optimizer = made(model)
    matrices, norms, embedding = parts_of(other)
    alone = [
        Muon(matrices, lr=0.01, weight_decay=0.1, adjust_lr_fn="match_rms_adamw"),
        AdamW([embedding], lr=0.01, betas=(0.9, 0.95), weight_decay=0.1),
        AdamW(norms, lr=0.01, betas=(0.9, 0.95), weight_decay=0.0),
    ]
    for seed in range(3):
        for one in (model, other):
            give_gradients(one, seed)
        for single in (optimizer, *alone):
            single.step()
    for one, expected in zip(model.parameters(), other.parameters(), strict=True):
        torch.testing.assert_close(one, expected)
    assert state_dtypes(optimizer) == {torch.float32}


def test_muons_updates_are_of_adamws_size(model):
    """AdamW moves a weight by 0.2 to 0.4 learning rates; Muon's updates are scaled to 0.2."""
    before = {name: p.detach().clone() for name, p in model.named_parameters() if "_proj" in name}
    optimizer = muon_with_adamw(model, set(), learning_rate=0.01, betas=(0.9, 0.95), decay=0.0)
    give_gradients(model, 0)
    optimizer.step()
    moved = [(p.detach() - before[name]).pow(2).mean().sqrt() for name, p in model.named_parameters() if name in before]
    assert all(0.2 * 0.6 < float(rms) / 0.01 < 0.2 * 1.4 for rms in moved)


def test_the_state_survives_a_checkpoint_and_the_schedule_reaches_both_parts(model):
    other = copy.deepcopy(model)
    one, two = made(model), made(other)
    give_gradients(model, 0)
    one.step()
    two.load_state_dict(copy.deepcopy(one.state_dict()))
    other.load_state_dict(model.state_dict())
    for optimizer, module in ((one, model), (two, other)):
        for group in optimizer.param_groups:
            group["lr"] = 0.001
        assert {group["lr"] for part in optimizer.parts for group in part.param_groups} == {0.001}
        give_gradients(module, 1)
        optimizer.step()
    assert all(torch.equal(p, q) for p, q in zip(model.parameters(), other.parameters(), strict=True))
