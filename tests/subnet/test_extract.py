"""Worked values of a cut; what a child computes is tested in test_masked_parents and test_families."""

from dataclasses import replace
from itertools import product

import pytest
import torch
from children import SELECTIONS
from teachers import (
    HEAD_DIM,
    across,
    architecture_of,
    every_family,
    every_family_and_tie,
    kept_in_layer,
    kept_mask,
    select,
    tiny_teacher,
    weights_of,
)

from budwood.arch.count import num_parameters
from budwood.arch.family import axis_lengths
from budwood.arch.selection import LayerSelection, Selection
from budwood.models.checkpoint import own_weights
from budwood.models.rotary import layer_rope
from budwood.subnet.extract import Corrections, child_state, extract_child, kept_positions, resolve
from budwood.subnet.ordering import order_teacher
from budwood.subnet.settings import Ordering

llama_only = pytest.mark.parametrize("teacher", ["llama untied"], indirect=True)
CUT = Selection(
    hidden=tuple(range(1, 48, 2)),
    layers=(
        LayerSelection(layer=2, groups=(2, 0), queries=(0,), pairs=(0, 1, 3, 7), neurons=range(11)),
        LayerSelection(layer=0, groups=(1,), queries=(0,), pairs=(4, 0), neurons=(3, 8)),
    ),
)


def state_of(ordered, selection=CUT, corrections=None):
    return child_state(ordered, resolve(ordered, selection), corrections)


@pytest.mark.parametrize("rope", ["preserve", "rebuild"])
def test_a_child_has_the_sizes_and_the_closed_forms_count(orders, selection, rope):
    ordered = orders["activation", rope]
    child, sizes = extract_child(ordered, selection), resolve(ordered, selection).architecture
    assert sum(parameter.numel() for parameter in child.parameters()) == num_parameters(sizes)
    assert sorted(sizes.layers, key=str) == sorted((layer.spec for layer in selection.layers), key=str)
    assert sizes.hidden_size == child.config.hidden_size == len(selection.hidden)
    assert not child.training


@every_family
def test_layers_stand_in_depth_order_whatever_order_they_were_taken_in(orders):
    ordered = orders["activation", "preserve"]
    cut = resolve(ordered, CUT)
    depths = [ordered.ranking[layer.layer] for layer in CUT.layers]
    assert [layer.teacher_layer for layer in cut.layers] == sorted(depths)
    again = state_of(ordered, replace(CUT, layers=CUT.layers[::-1]))
    assert all(torch.equal(again[name], weight) for name, weight in state_of(ordered).items())


@pytest.mark.parametrize(
    ("teacher", "kind"), across(list(product(SELECTIONS, ("preserve", "rebuild")))), indirect=["teacher"]
)
def test_what_is_kept_is_what_the_selection_says(orders, kind):
    selection, ordered = SELECTIONS[kind[0]], orders["activation", kind[1]]
    family, by_depth = ordered.family, sorted(selection.layers, key=lambda layer: ordered.ranking[layer.layer])
    for chosen, layer in zip(by_depth, resolve(ordered, selection).layers, strict=True):
        kept = kept_in_layer(ordered, selection.hidden, chosen)
        assert {name: list(indices) for name, indices in layer.axes.items()} == kept
        for axis in {axis for module in family.layer_modules for axis in module.axes}:
            positions = kept_positions(ordered, axis, layer)
            mask = kept_mask(axis, ordered.architecture, layer.teacher_layer, kept)
            assert sorted(positions.tolist()) == mask.nonzero().flatten().tolist()


@pytest.mark.parametrize(
    ("teacher", "selection"), across(["uniform", "heads that do not divide", "layer-wise"]), indirect=True
)
def test_native_prefix_with_rebuilt_embeddings_is_the_papers_cut(teacher, orders, selection):
    """The first of everything, unscaled, under the teacher's rotary base (paper, section 2.1)."""
    ordered, weights = orders["native", "rebuild"], weights_of(teacher)
    family, state = ordered.family, state_of(ordered, selection)
    for name, position, axes in family.parameters(len(selection.layers), tied=ordered.architecture.tie_word_embeddings):
        layer = selection.layers[position or 0]
        assert position is None or layer.layer == position
        lengths = axis_lengths(ordered.architecture, ordered.architecture.layers[0])
        sizes = axis_lengths(selection.architecture(ordered.architecture), layer.spec)
        tensor = weights[name].view([lengths[basic] for axis in axes for basic in axis])
        expected = tensor[tuple(slice(sizes[basic]) for axis in axes for basic in axis)]
        assert torch.equal(state[name].flatten(), expected.flatten())
    config = extract_child(ordered, selection).config.to_dict()
    for position, layer in enumerate(selection.layers):
        rope, whole = dict(layer_rope(config, position)), dict(layer_rope(teacher.config.to_dict(), position))
        share = rope.pop("partial_rotary_factor", 1.0)
        turning = 2 * max(1, round(layer.spec.head_dim / 2 * whole.pop("partial_rotary_factor", 1.0)))
        # The list of a longrope fits no other head.
        listed = whole["rope_type"] == "longrope" and layer.spec.head_dim < HEAD_DIM
        assert rope == ({"rope_type": "default", "rope_theta": whole["rope_theta"]} if listed else whole)
        assert int(share * layer.spec.head_dim) == turning


@every_family
def test_a_norm_gains_what_keeps_the_size_of_its_entries(orders):
    """Weights (with Gemma's offset) are multiplied by the root mean square of the kept normalised inputs."""
    ordered = orders["activation", "preserve"]
    family, depth = ordered.family, min(ordered.ranking[2], ordered.ranking[0])

    def cut_to_the_loudest(name):
        """Return the 24 channels with most energy in a norm, and a child of them: their size is not that of all."""
        channels = sorted(ordered.norms[name].topk(24).indices.tolist())
        return channels, state_of(ordered, replace(CUT, hidden=tuple(channels)), Corrections(norm_gain=True))

    if not family.scales_embedding:
        name = family.final_norm.weight
        channels, state = cut_to_the_loudest(name)
        gain = ordered.norms[name][channels].mean() ** 0.5
        torch.testing.assert_close(state[name], ordered.weights[name][channels] * gain)
    for norm in family.norms:
        source, offset = family.layer_weight(depth, norm), family.norm_offset
        channels, state = cut_to_the_loudest(source)
        gain = ordered.norms[source][channels].sum().div(24).sqrt()
        assert float(gain) > 1.01
        expected = (ordered.weights[source][channels] + offset) * gain - offset
        torch.testing.assert_close(state[family.layer_weight(0, norm)], expected)
        for name, _ in norm.parameters[1:]:
            bias = ordered.weights[f"{family.decoder}.{depth}.{name}"][channels]
            assert torch.equal(state[f"{family.decoder}.0.{name}"], bias)


@pytest.mark.parametrize(("teacher", "rope"), across(["preserve", "rebuild"]), indirect=["teacher"])
def test_attention_keeps_the_teachers_temperature(orders, rope):
    """Queries, or the norm behind them, shrink by sqrt(d' / d), where the model would divide by sqrt(d')."""
    ordered = orders["native", rope]
    family, cut = ordered.family, resolve(ordered, CUT)
    state = child_state(ordered, cut)
    for position, layer in enumerate(cut.layers):
        factor = (cut.architecture.layers[position].head_dim / 16) ** 0.5
        for module in (family.query, family.key, *family.head_norms):
            scaled = rope == "preserve" and family.scales_by_head_dim and module == (family.query_norm or family.query)
            for name, axes in module.parameters:
                whole = ordered.weights[f"{family.decoder}.{layer.teacher_layer}.{name}"]
                rows = whole[kept_positions(ordered, axes[0], layer)]
                expected = rows[:, list(CUT.hidden)] if len(axes) > 1 else rows
                actual = state[f"{family.decoder}.{position}.{name}"]
                torch.testing.assert_close(actual, expected * (factor if scaled else 1))


@every_family
def test_kept_pairs_make_up_for_the_scores_of_dropped_ones(orders):
    """Queries of a group grow by the size of all its scores over that of the kept ones, in the mean where one norm
    serves all heads."""
    ordered = orders["activation", "preserve"]
    family, cut = ordered.family, resolve(ordered, CUT)
    scaled, plain = child_state(ordered, cut), child_state(replace(ordered, score_gain=False), cut)
    target = family.query_norm or family.query
    for position, layer in enumerate(cut.layers):
        scores = ordered.pair_scores[layer.teacher_layer][list(layer.axes["group"])]
        chosen = next(kept for kept in CUT.layers if ordered.ranking[kept.layer] == layer.teacher_layer)
        ranking = ordered.pair_rankings[layer.teacher_layer]
        gains = scores.sum(1) / scores[:, [ranking[pair] for pair in chosen.pairs]].sum(1)
        assert (gains > 1).all()
        for name, axes in target.parameters:
            full = f"{family.decoder}.{position}.{name}"
            expected = gains if "group" in axes[0] else gains.mean(0, keepdim=True)
            offset = family.norm_offset if family.query_norm else 0
            ratio = ((scaled[full] + offset) / (plain[full] + offset)).reshape(len(expected), -1)
            torch.testing.assert_close(ratio, expected[:, None].expand_as(ratio), rtol=1e-4, atol=0)
    changed = {name for name, weight in scaled.items() if not torch.equal(weight, plain[name])}
    assert changed == {f"{family.decoder}.{p}.{name}" for p in range(len(cut.layers)) for name, _ in target.parameters}


@pytest.mark.parametrize("teacher", ["gemma2 tied", "gemma2 untied", "gemma3_text tied"], indirect=True)
def test_embeddings_keep_their_size_where_the_model_scales_them(architecture, orders):
    """Gemma multiplies by the root of the hidden size: 48 in the teacher, 24 in the child. A tied head pays it back."""
    ordered = orders["activation", "preserve"]
    state, channels = state_of(ordered), list(CUT.hidden)
    embedding, norm = "model.embed_tokens.weight", "model.norm.weight"
    torch.testing.assert_close(state[embedding], ordered.weights[embedding][:, channels] * 2**0.5)
    gain = 0.5**0.5 if architecture.tie_word_embeddings else 1
    torch.testing.assert_close(state[norm], (ordered.weights[norm][channels] + 1) * gain - 1)
    native = orders["native", "preserve"]
    assert torch.equal(state_of(native)[embedding], native.weights[embedding][:, channels])


def test_embeddings_keep_their_size_in_every_order():
    """Of 48 channels a quarter; the paper's native cut is left as it is."""
    model = tiny_teacher("gemma2", tied=False)
    for by, factor in (("magnitude", 2.0), ("native", 1.0)):
        chosen = Ordering(ordering=by, singular_values=False, layer_score="change")
        ordered = order_teacher(weights_of(model), model.config.to_dict(), architecture_of(model), chosen)
        cut = resolve(ordered, select(12, [0, 1], (3, 2, 16, 40)))
        embedding = child_state(ordered, cut)["model.embed_tokens.weight"]
        torch.testing.assert_close(embedding, factor * ordered.weights["model.embed_tokens.weight"][:, :12])


@llama_only
def test_prefixes_share_the_teachers_memory_until_the_child_owns_its_weights(orders):
    ordered = orders["activation", "preserve"]
    child = extract_child(ordered, select(48, [0, 1, 2, 3], (3, 2, 16, 10)))
    inside = ordered.weights["model.layers.0.mlp.up_proj.weight"]
    before = inside.clone()
    assert child.model.layers[0].mlp.up_proj.weight.data_ptr() == inside.data_ptr()
    with torch.no_grad():
        for parameter in own_weights(child).parameters():
            assert parameter.is_contiguous()
            parameter.zero_()
    assert torch.equal(inside, before)


@every_family_and_tie
def test_ties_survive_the_cut(architecture, orders):
    child = own_weights(extract_child(orders["activation", "preserve"], CUT))
    shared = child.get_output_embeddings().weight is child.get_input_embeddings().weight
    assert shared is architecture.tie_word_embeddings


@every_family
def test_a_child_has_the_precision_of_the_ordered_weights(orders):
    ordered = orders["activation", "preserve"]
    halved = replace(ordered, weights={name: weight.bfloat16() for name, weight in ordered.weights.items()})
    child = extract_child(halved, CUT)
    assert {parameter.dtype for parameter in child.parameters()} == {torch.bfloat16}
    assert child.config.dtype == torch.bfloat16


def layer(**changes):
    whole = {"layer": 0, "groups": range(3), "queries": range(1), "pairs": range(8), "neurons": range(40)}
    return LayerSelection(**whole | changes)


@pytest.mark.parametrize(
    ("hidden", "changes", "message"),
    [
        (range(49), {}, "hidden: index 48 is out of range, the teacher has 48"),
        ((0, 50), {}, "hidden: index 50 is out of range, the teacher has 48"),
        (range(48), {"layer": 4}, "layers: index 4 is out of range, the teacher has 4"),
        (range(48), {"layer": 2, "groups": range(4)}, "layer 2, groups: index 3 is out of range, the teacher has 3"),
        (range(48), {"queries": (5,)}, "layer 0, queries: index 5 is out of range, the teacher has 2"),
        (range(48), {"pairs": (1, 8)}, "layer 0, pairs: index 8 is out of range, the teacher has 8"),
        (
            range(48),
            {"layer": 3, "neurons": range(41)},
            "layer 3, neurons: index 40 is out of range, the teacher has 40",
        ),
    ],
)
@llama_only
def test_what_the_teacher_lacks_is_named(orders, hidden, changes, message):
    selection = Selection(hidden=hidden, layers=(layer(**changes),))
    with pytest.raises(ValueError, match=message):
        resolve(orders["activation", "preserve"], selection)
    with pytest.raises(ValueError, match=message):
        extract_child(orders["activation", "preserve"], selection)


@pytest.mark.parametrize(
    ("hidden", "changes", "message"),
    [
        ((), {}, "hidden: at least one index must be kept"),
        (range(8), {"layer": 1, "groups": (1, 1)}, "layer 1, groups: index 1 is given more than once"),
        (range(8), {"neurons": (4, -1)}, "layer 0, neurons: indices must be at least 0, got -1"),
        (range(8), {"pairs": range(0)}, "layer 0, pairs: at least one index must be kept"),
        (range(8), {"layer": -1}, "layer must be at least 0, got -1"),
    ],
)
def test_what_no_teacher_can_have_is_named(hidden, changes, message):
    with pytest.raises(ValueError, match=message):
        Selection(hidden=hidden, layers=(layer(**changes),))
