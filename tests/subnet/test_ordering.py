"""Ordering changes where things stand, never what the teacher computes."""

import pytest
import torch

from budwood.subnet.device import Compute
from budwood.subnet.extract import extract_child
from budwood.subnet.ordering import load_ordered, order_teacher


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


def test_every_axis_of_the_ordered_teacher_stands_best_first(teacher, architecture, importance):
    """The exact choice: rows and columns of the ordered weights are the teacher's, ranked by importance."""
    state = order_teacher(teacher, architecture, importance, "preserve").state
    channels = importance.channels.argsort(descending=True)
    assert torch.equal(state["model.embed_tokens.weight"], teacher.model.embed_tokens.weight[:, channels])
    for layer, block in enumerate(teacher.model.layers):
        neurons = importance.neurons[layer].argsort(descending=True)
        assert neurons[0] == importance.neurons[layer].argmax()
        up = state[f"model.layers.{layer}.mlp.up_proj.weight"]
        assert torch.equal(up, block.mlp.up_proj.weight[neurons][:, channels])
        queries = block.self_attn.q_proj.weight.view(3, 2, 16, 48)
        groups = importance.heads[layer].sum(1).argsort(descending=True)
        ranked = [queries[g, q] for g in groups for q in importance.heads[layer, g].argsort(descending=True)]
        expected = torch.cat(ranked)[:, channels]
        assert torch.equal(state[f"model.layers.{layer}.self_attn.q_proj.weight"], expected)


def test_layers_and_pairs_stay_and_are_ranked(teacher, architecture, importance):
    ordered = order_teacher(teacher, architecture, importance, "preserve")
    assert list(ordered.layer_ranking) == importance.layers.argsort(descending=True).tolist()
    shares = (importance.pairs / importance.pairs.sum(-1, keepdim=True)).mean((0, 1))
    assert list(ordered.pair_ranking) == shares.argsort(descending=True).tolist()
    best = sorted(ordered.pair_ranking[:3])
    assert list(ordered.qk_dims[3]) == [*best, *(pair + 8 for pair in best)]


def test_rebuilt_heads_keep_their_first_dimensions(teacher, architecture, importance):
    assert order_teacher(teacher, architecture, importance, "rebuild").qk_dims == tuple(range(2 * n) for n in range(9))


def test_the_gain_is_the_root_mean_square_of_what_stays(teacher, architecture, importance):
    ordered = order_teacher(teacher, architecture, importance, "preserve")
    energy = importance.channel_energy[:, importance.channels.argsort(descending=True)]
    for kept in (1, 7, 31):
        torch.testing.assert_close(ordered.norm_gain[:, kept - 1], energy[:, :kept].mean(1).sqrt())


def test_no_truncation_of_values_loses_less_than_the_ordered_basis(teacher, architecture, importance):
    """Optimality (Eckart and Young): random orthogonal bases of the same rank lose more of the output's energy."""
    state = order_teacher(teacher, architecture, importance, "preserve").state
    weight = teacher.model.layers[0].self_attn.o_proj.weight.detach().double().view(48, 3, 2, 16)
    basis = state["model.layers.0.self_attn.o_proj.weight"].double().view(48, 3, 2, 16)
    channels = importance.channels.argsort(descending=True)
    first, second = (int(group) for group in importance.heads[0].sum(1).argsort(descending=True)[:2])
    generator = torch.Generator().manual_seed(0)
    for slot, group in enumerate((first, second)):
        queries = importance.heads[0, group].argsort(descending=True)
        original = weight[:, group, queries][channels].flatten(0, 1)  # [E * Q, S], in the ordered layout
        moment = importance.values[0, group].double()
        inverse = torch.linalg.lstsq(original, basis[:, slot].flatten(0, 1)).solution
        torch.testing.assert_close(original @ inverse, basis[:, slot].flatten(0, 1), rtol=1e-4, atol=1e-4)
        forward = torch.linalg.inv(inverse)
        best = lost_energy(original, moment, inverse[:, :6] @ forward[:6])
        for _ in range(20):
            rotation, _ = torch.linalg.qr(torch.randn(16, 16, dtype=torch.double, generator=generator))
            assert best < lost_energy(original, moment, rotation[:, :6] @ rotation[:, :6].T)


def lost_energy(weight, moment, projector):
    """Mean square of what the output loses when head outputs with this second moment are projected."""
    rest = weight @ (torch.eye(16, dtype=torch.double) - projector)
    return torch.trace(rest @ moment @ rest.T)


def test_a_teacher_loaded_from_its_folder_is_ordered_in_the_precision_asked_for(
    teacher_folder, architecture, importance
):
    ordered = load_ordered(teacher_folder, importance, "preserve", Compute(torch.device("cpu"), "bfloat16"))
    exact = load_ordered(teacher_folder, importance, "preserve")
    assert ordered.architecture == architecture
    assert {weight.dtype for weight in ordered.state.values()} == {torch.bfloat16}
    assert all(torch.equal(ordered.state[name], weight.bfloat16()) for name, weight in exact.state.items())
