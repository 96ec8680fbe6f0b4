"""Leaving layers out of a real model: the same choices as trying every layer of the stock model every time."""

from copy import deepcopy

import pytest
import torch
from teachers import FULL
from torch import nn

from budwood.models.losses import sequence_losses
from budwood.subnet.elimination import leave_layers_out


@pytest.fixture(scope="module")
def windows(windows):
    return windows[:3]


def loss_of(teacher, kept, windows):
    """Return the loss of the stock model with some of its layers."""
    model = deepcopy(teacher)
    layers = model.model.layers if hasattr(model, "model") else model.gpt_neox.layers
    kept_layers = nn.ModuleList(layers[position] for position in kept)
    (model.model if hasattr(model, "model") else model.gpt_neox).layers = kept_layers
    model.config.num_hidden_layers = len(kept)
    return float(sequence_losses(model, windows).mean())


def test_the_first_to_go_is_the_cheapest_and_costs_are_what_was_run(teacher, teacher_folder, windows):
    found = leave_layers_out(teacher_folder, windows, FULL)
    losses = {gone: loss_of(teacher, [p for p in range(4) if p != gone], windows) for gone in range(4)}
    assert found.order[0] == min(losses, key=losses.__getitem__)
    whole, *tried = found.evaluations
    assert whole.loss == pytest.approx(loss_of(teacher, range(4), windows), abs=1e-5)
    assert sorted(evaluation.loss for evaluation in tried[:4]) == pytest.approx(sorted(losses.values()), abs=1e-5)
    assert sorted(found.order) == [0, 1, 2, 3]
    # Candidates that share their first layers run them once.
    assert sum(evaluation.flops for evaluation in tried[:4]) < 4 * 0.9 * whole.flops
    assert all(evaluation.tokens == windows[:, 1:].numel() for evaluation in found.evaluations)


def test_the_order_does_not_depend_on_the_batch(teacher_folder, windows):
    assert (
        leave_layers_out(teacher_folder, windows, FULL, batch_size=1).order
        == leave_layers_out(teacher_folder, windows, FULL).order
    )


@pytest.mark.slow
def test_text_decides(teacher_folder, windows):
    orders = {leave_layers_out(teacher_folder, torch.randint_like(windows, 97), FULL).order for _ in range(12)}
    assert len(orders) > 1
