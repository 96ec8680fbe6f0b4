"""Leaving layers out of a real model: the same choices as trying every layer of the stock model every time."""

from copy import deepcopy

import pytest
import torch
from teachers import FULL, architecture_of, tiny_teacher
from torch import nn

from budwood.arch.count import forward_flops_per_token
from budwood.subnet import elimination
from budwood.subnet.elimination import leave_layers_out


@pytest.fixture(scope="module")
def windows(windows):
    return windows[:3]


def logits_with(teacher, kept, windows):
    """Return the logits of the stock model with some of its layers."""
    model = deepcopy(teacher)
    layers = model.model.layers if hasattr(model, "model") else model.gpt_neox.layers
    kept_layers = nn.ModuleList(layers[position] for position in kept)
    (model.model if hasattr(model, "model") else model.gpt_neox).layers = kept_layers
    model.config.num_hidden_layers = len(kept)
    if hasattr(model.config, "layer_types"):
        model.config.layer_types = [teacher.config.layer_types[position] for position in kept]
    with torch.no_grad():
        return model(windows[:, :-1], use_cache=False).logits


def error_of(teacher, kept, windows):
    """Return the variance over the vocabulary of what the stock model's logits lack without some layers."""
    error = logits_with(teacher, kept, windows) - logits_with(teacher, range(4), windows)
    return float(error.var(-1, correction=0).mean())


def test_the_first_to_go_is_the_cheapest_and_costs_are_what_was_run(teacher, teacher_folder, windows):
    found = leave_layers_out(teacher_folder, windows, FULL)
    errors = {gone: error_of(teacher, [p for p in range(4) if p != gone], windows) for gone in range(4)}
    assert found.order[0] == min(errors, key=errors.__getitem__)
    whole, *tried = found.evaluations
    assert whole.loss == 0
    assert sorted(evaluation.loss for evaluation in tried[:4]) == pytest.approx(sorted(errors.values()), rel=1e-4)
    assert sorted(found.order) == [0, 1, 2, 3]
    # Candidates that share their first layers run them once.
    assert sum(evaluation.flops for evaluation in tried[:4]) < 4 * 0.9 * whole.flops
    assert all(evaluation.tokens == windows[:, 1:].numel() for evaluation in found.evaluations)


def test_errors_are_those_of_capped_logits(windows, tmp_path, monkeypatch):
    """A cap that most logits meet; the vocabulary is read in parts."""
    monkeypatch.setattr(elimination, "HEAD_ROWS", 40)
    teacher = tiny_teacher("gemma2", tied=True, final_logit_softcapping=3.0)
    teacher.save_pretrained(tmp_path)
    found = leave_layers_out(tmp_path, windows, FULL, batch_size=2)
    whole, *tried = found.evaluations
    assert whole.loss == 0
    errors = [error_of(teacher, [p for p in range(4) if p != gone], windows) for gone in range(4)]
    assert sorted(evaluation.loss for evaluation in tried[:4]) == pytest.approx(sorted(errors), rel=1e-4)
    forward = forward_flops_per_token(architecture_of(teacher), context=windows.shape[1] - 1)
    assert whole.flops == whole.tokens * (forward + 2 * 97 * 48)  # the head runs for the teacher too


def test_the_order_does_not_depend_on_the_batch(teacher_folder, windows):
    assert (
        leave_layers_out(teacher_folder, windows, FULL, batch_size=1).order
        == leave_layers_out(teacher_folder, windows, FULL).order
    )


def test_an_order_continues_from_the_trials_of_another_run(teacher_folder, windows, tmp_path):
    """The states of the whole are made again where its trial is in the file."""
    file = tmp_path / "trials.jsonl"
    first = leave_layers_out(teacher_folder, windows, FULL, trials_file=file)
    rows = file.read_text().splitlines(keepends=True)
    file.write_text("".join(rows[:3]))
    second = leave_layers_out(teacher_folder, windows, FULL, trials_file=file)
    assert second.order == first.order
    assert [each.loss for each in second.evaluations] == pytest.approx([each.loss for each in first.evaluations])


@pytest.mark.slow
def test_text_decides(teacher_folder, windows):
    errors = {
        leave_layers_out(teacher_folder, torch.randint_like(windows, 97), FULL).evaluations[1].loss for _ in range(3)
    }
    assert len(errors) > 1
