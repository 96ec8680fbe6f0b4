"""Ordering puts the best first on every axis; that it changes no logit is shown for every family in test_families."""

from dataclasses import replace

import pytest
import torch
from teachers import FULL, HALF, every_family, weights_of

from budwood.arch.family import family_of
from budwood.subnet.ordering import open_ordered, order_teacher
from budwood.subnet.settings import Ordering

FAMILIES = ["gpt_neox untied", "llama tied", "olmo2 untied", "qwen2 untied", "qwen3 untied"]
every_kind = pytest.mark.parametrize("teacher", FAMILIES, indirect=True)
llama_only = pytest.mark.parametrize("teacher", ["llama tied"], indirect=True)
# Queries whose first four of sixteen dimensions turn.
partly_turning = pytest.mark.parametrize("teacher", ["gpt_neox untied"], indirect=True)


def descending(scores):
    return scores.argsort(descending=True, stable=True).tolist()


@every_kind
@pytest.mark.parametrize("ordering", ["native", "magnitude"])
def test_without_activations_no_importance_is_needed(teacher, teacher_folder, ordering):
    ordered = open_ordered(teacher_folder, Ordering(ordering=ordering, rope="rebuild"))
    assert not ordered.norms
    assert ordered.singular_values is (ordering == "magnitude")
    if ordering == "native":
        assert ordered.ranking == (0, 1, 2, 3)
        assert all(torch.equal(ordered.weights[name], value) for name, value in weights_of(teacher).items())


@every_kind
@pytest.mark.parametrize("ordering", ["activation", "native"])
def test_channels_say_where_the_teacher_has_them(teacher, architecture, orders, ordering):
    ordered, name = orders[ordering, "preserve"], family_of(architecture.family).embedding.weight
    assert torch.equal(ordered.weights[name], weights_of(teacher)[name][:, list(ordered.channels)])
    assert (ordered.channels == tuple(range(architecture.hidden_size))) is (ordering == "native")


@llama_only
def test_ordering_by_activation_needs_importance(teacher_folder):
    with pytest.raises(ValueError, match="ordering: activation needs the importance"):
        open_ordered(teacher_folder, Ordering(layer_score="change"))


@every_kind
def test_every_axis_of_the_ordered_teacher_stands_best_first(teacher, architecture, importance, orders):
    """The exact choice: rows and columns of the ordered weights are the teacher's, ranked by importance."""
    family, weights = family_of(architecture.family), weights_of(teacher)
    ordered, channels = orders["activation", "preserve"].weights, descending(importance.channels)
    embedding = family.embedding.weight
    assert torch.equal(ordered[embedding], weights[embedding][:, channels])
    assert torch.equal(ordered[family.final_norm.weight], weights[family.final_norm.weight][channels])
    turning = 4 if not family.grouped else 16
    for layer, scores in enumerate(importance.layers):
        neurons, groups = descending(scores.neurons), descending(scores.heads.sum(1))
        for module in family.mlp_in:
            name = family.layer_weight(layer, module)
            assert torch.equal(ordered[name], weights[name][neurons][:, channels])
        name = family.layer_weight(layer, family.mlp_out)
        assert torch.equal(ordered[name], weights[name][channels][:, neurons])
        dims = [[*range(turning), *(turning + d for d in descending(scores.dims[g, turning:]))] for g in range(3)]
        queries = [(g, q) for g in groups for q in descending(scores.heads[g])]
        for name, axes in family.query.parameters:
            whole = weights[f"{family.decoder}.{layer}.{name}"]
            heads = whole.unflatten(0, (3, scores.heads.shape[1], 16))
            expected = torch.cat([heads[g, q][dims[g]] for g, q in queries])
            expected = expected[:, channels] if len(axes) > 1 else expected
            assert torch.equal(ordered[f"{family.decoder}.{layer}.{name}"], expected)
        name = family.layer_weight(layer, family.key)
        heads = weights[name].view(3, 16, 48)
        assert torch.equal(ordered[name], torch.cat([heads[g][dims[g]] for g in groups])[:, channels])


@every_family
def test_norm_energies_stand_in_the_new_order_and_have_mean_one(importance, orders):
    """All entries together keep their size: a child that keeps every channel has the gain one."""
    norms = orders["activation", "preserve"].norms
    assert norms.keys() == importance.norms.keys()
    for name, energy in norms.items():
        torch.testing.assert_close(energy.sort().values, importance.norms[name].sort().values, rtol=0, atol=0)
        assert float(energy.mean()) == pytest.approx(1, abs=1e-4)
    final = orders["activation", "preserve"].family.final_norm.weight
    assert torch.equal(norms[final], importance.norms[final][descending(importance.channels)])


@every_kind
@pytest.mark.parametrize("score", ["influence", "change"])
def test_layers_are_ranked_by_the_score_asked_for(teacher_folder, importance, score):
    ordered = open_ordered(teacher_folder, Ordering(layer_score=score), importance)
    values = [float(getattr(layer, score)) for layer in importance.layers]
    assert [values[layer] for layer in ordered.ranking] == sorted(values, reverse=True)
    assert sorted(ordered.ranking) == [0, 1, 2, 3]
    assert ordered.ranked.layers == tuple(ordered.architecture.layers[layer] for layer in ordered.ranking)


@llama_only
def test_layers_that_can_be_left_out_first_are_ranked_last(teacher_folder, importance):
    ordering = Ordering(layer_score="elimination")
    ordered = open_ordered(teacher_folder, ordering, replace(importance, eliminated=(2, 0, 3, 1)))
    assert ordered.ranking == (1, 3, 0, 2)
    with pytest.raises(ValueError, match="layer_score: elimination needs an importance in which layers were left out"):
        open_ordered(teacher_folder, ordering, importance)
    by_weight = open_ordered(teacher_folder, Ordering(ordering="magnitude", layer_score="elimination"))
    assert by_weight.ranking == open_ordered(teacher_folder, Ordering(ordering="magnitude")).ranking


@llama_only
def test_pairs_stay_and_are_ranked_by_their_mean_share(importance, orders):
    ordered = orders["activation", "preserve"]
    pairs = torch.stack([layer.pairs(16) for layer in importance.layers])
    shares = (pairs / pairs.sum(-1, keepdim=True)).mean((0, 1))
    assert ordered.pair_rankings == (tuple(descending(shares)),) * 4
    for layer, scores in enumerate(importance.layers):
        groups = descending(scores.heads.sum(1))
        assert torch.equal(ordered.pair_scores[layer], scores.pairs(16)[groups])


@partly_turning
def test_where_a_part_turns_every_prefix_of_pairs_turns_its_share(orders):
    for ordering in ("activation", "native"):
        for ranking in orders[ordering, "preserve"].pair_rankings:
            assert [sum(pair < 2 for pair in ranking[:kept]) for kept in range(1, 9)] == [1, 1, 1, 1, 1, 2, 2, 2]


def test_layers_that_turn_alike_share_a_ranking(own_teacher):
    """Layers of different head dimensions cannot."""
    sizes = [layer.head_dim // 2 for layer in own_teacher.architecture.layers]
    assert [len(ranking) for ranking in own_teacher.pair_rankings] == sizes
    assert all(sorted(ranking) == list(range(len(ranking))) for ranking in own_teacher.pair_rankings)


def lost_energy(weight, moment, projector):
    """Mean square of what the output loses when head outputs with this second moment are projected."""
    rest = weight @ (torch.eye(16, dtype=torch.double) - projector)
    return float(torch.trace(rest @ moment @ rest.T))


@every_kind
def test_no_truncation_of_values_loses_less_than_the_ordered_basis(teacher, architecture, importance, orders):
    """Eckart and Young: what k dimensions lose are the smallest singular values of output weights times moment root."""
    family, weights, ordered = family_of(architecture.family), weights_of(teacher), orders["activation", "preserve"]
    channels, scores = descending(importance.channels), importance.layers[1]
    queries = scores.heads.shape[1]
    name, reader = family.layer_weight(1, family.output), family.layer_weight(1, family.value)
    output = weights[name].double().view(48, 3, queries, 16)
    turned = ordered.weights[name].double().view(48, 3, queries, 16)
    values = weights[reader].double().view(3, 16, 48)[:, :, channels]
    turned_values = ordered.weights[reader].double().view(3, 16, 48)
    for slot, group in enumerate(descending(scores.heads.sum(1))):
        original = output[channels][:, group, descending(scores.heads[group])].flatten(0, 1)  # [E * Q, S]
        basis = torch.linalg.lstsq(values[group].T, turned_values[slot].T).solution.T
        torch.testing.assert_close(basis @ values[group], turned_values[slot], rtol=1e-4, atol=1e-4)
        inverse = torch.linalg.inv(basis)
        torch.testing.assert_close(original @ inverse, turned[:, slot].flatten(0, 1), rtol=1e-4, atol=1e-4)
        moment = scores.values[group].double()
        energies, directions = torch.linalg.eigh(moment)
        root = directions @ energies.clamp_min(0).sqrt().diag() @ directions.T
        singular = torch.linalg.svdvals(original @ root).square()
        for kept in (2, 6, 12):
            lost = lost_energy(original, moment, inverse[:, :kept] @ basis[:kept])
            assert lost == pytest.approx(float(singular[kept:].sum()), rel=1e-3)


@pytest.mark.parametrize("teacher", ["gpt_neox untied", "qwen2 untied"], indirect=True)
def test_value_biases_are_turned_as_value_weights_are(teacher, architecture, importance, orders):
    family, weights, ordered = family_of(architecture.family), weights_of(teacher), orders["activation", "preserve"]
    weight, bias = (f"{family.decoder}.2.{name}" for name, _ in family.value.parameters)
    channels, groups = descending(importance.channels), descending(importance.layers[2].heads.sum(1))
    values = weights[weight].double().view(3, 16, 48)[groups][:, :, channels]
    turned = ordered.weights[weight].double().view(3, 16, 48)
    for slot, group in enumerate(groups):
        basis = torch.linalg.lstsq(values[slot].T, turned[slot].T).solution.T
        expected = basis @ weights[bias].double().view(3, 16)[group]
        torch.testing.assert_close(ordered.weights[bias].double().view(3, 16)[slot], expected, rtol=1e-3, atol=1e-3)


@every_kind
def test_materialised_weights_are_those_of_the_folder_in_the_precision_asked_for(teacher_folder, importance):
    lazy = open_ordered(teacher_folder, Ordering(layer_score="change"), importance)
    whole, halved = lazy.materialise(FULL), lazy.materialise(HALF)
    assert set(whole.weights) == set(lazy.weights)
    assert len(whole.weights) == len(lazy.weights)
    assert all(torch.equal(whole.weights[name], lazy.weights[name]) for name in lazy.weights)
    assert all(torch.equal(halved.weights[name], weight.bfloat16()) for name, weight in whole.weights.items())
    assert (whole.dtype, halved.dtype) == (FULL.dtype, HALF.dtype)
    assert replace(halved, weights=lazy.weights, dtype=lazy.dtype) == lazy


@every_kind
def test_the_given_weights_are_left_as_they_are(teacher, architecture, importance, orders):
    weights = weights_of(teacher)
    before = {name: weight.clone() for name, weight in weights.items()}
    lazy = orders["native", "preserve"]
    ordered = order_teacher(weights, lazy.config, architecture, Ordering(layer_score="change"), importance).materialise(
        FULL
    )
    for name, weight in ordered.weights.items():
        assert torch.equal(weight, orders["activation", "preserve"].weights[name])
    assert all(torch.equal(weights[name], before[name]) for name in before)
