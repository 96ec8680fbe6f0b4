"""Ordering changes where things stand, never what the teacher computes."""

import pytest
import torch

from budwood.subnet.extract import extract_child
from budwood.subnet.ordering import order_teacher


@pytest.mark.parametrize("rope", ["preserve", "rebuild"])
def test_the_whole_ordered_teacher_computes_the_teachers_logits(teacher, architecture, importance, windows, rope):
    ordered = order_teacher(teacher, architecture, importance, rope)
    with torch.no_grad():
        expected = teacher(windows).logits
        actual = extract_child(ordered, architecture)(windows).logits
    assert (actual - expected).abs().max() < 2e-4
    assert any(not torch.equal(ordered.state[name], teacher.get_parameter(name)) for name in ordered.state)


def test_the_teacher_is_untouched(teacher, architecture, importance):
    before = {name: value.clone() for name, value in teacher.state_dict().items()}
    order_teacher(teacher, architecture, importance, "preserve")
    assert all(torch.equal(value, before[name]) for name, value in teacher.state_dict().items())


def test_native_order_is_the_teachers_own(teacher, architecture):
    ordered = order_teacher(teacher, architecture, None, "rebuild")
    assert ordered.layer_ranking == (0, 1, 2, 3)
    assert all(torch.equal(value, teacher.get_parameter(name)) for name, value in ordered.state.items())


def test_the_gain_of_all_channels_is_one(teacher, architecture, importance):
    ordered = order_teacher(teacher, architecture, importance, "preserve")
    assert torch.allclose(ordered.norm_gain[:, -1], torch.ones(9), atol=1e-4)
