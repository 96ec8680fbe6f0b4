"""A child computes what its teacher computes with everything else switched off."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from strategies import KINDS, sample_any
from teachers import across, families, kept_in_layer, kept_mask

from budwood.arch.selection import LayerSelection, Selection
from budwood.arch.space import SearchSpace
from budwood.subnet.extract import assemble, child_config, extract_child, resolve

WHOLE = range(48)
HALVES = LayerSelection(layer=0, groups=(2, 0), queries=(0,), pairs=(0, 1, 3, 7), neurons=tuple(range(0, 40, 2)))


def masked_parent(ordered, selection):
    """Return the whole ordered teacher with zeros for all that a child leaves out; layers become skips.

    A norm over n entries of which only k are not zero divides by a root mean square that is sqrt(k / n) of the child's:
    its weight takes that back. Queries and keys keep the teacher's temperature by themselves.
    """
    family, architecture = ordered.family, ordered.architecture
    by_depth = {ordered.ranking[layer.layer]: layer for layer in selection.layers}
    norms = {module.weight for module in (*family.norms, *family.head_norms)}
    written = {name for module in (family.output, family.mlp_out) for name, _ in module.parameters}
    state = {}
    for name, layer, axes in family.parameters(architecture.num_hidden_layers, tied=architecture.tie_word_embeddings):
        weight, kept = ordered.weights[name].clone(), {"hidden": list(selection.hidden)}
        inner = name.removeprefix(f"{family.decoder}.{layer}.")
        if layer in by_depth:
            kept = kept_in_layer(ordered, selection.hidden, by_depth[layer])
        masks = [kept_mask(axis, architecture, layer or 0, kept) for axis in axes]
        if name == family.final_norm.weight or inner in norms:
            share = masks[0].float().mean()
            weight = (weight + family.norm_offset) * share**0.5 - family.norm_offset
        for dim, mask in enumerate(masks):
            weight.index_fill_(dim, (~mask).nonzero().flatten(), 0)
        state[name] = weight * (layer is None or layer in by_depth or inner not in written)
    whole = resolve(ordered, Selection.prefix(ordered.ranked))
    return assemble(state, child_config(ordered, whole), whole.architecture)


def centred(ordered, hidden):
    """Return the teacher with a residual stream of mean zero over kept channels, so that a LayerNorm subtracts nothing.

    Zeros in place of dropped channels would shift the mean that it subtracts.
    """
    weights = dict(ordered.weights)
    depth, tied = ordered.architecture.num_hidden_layers, ordered.architecture.tie_word_embeddings
    for name, _, axes in ordered.family.parameters(depth, tied=tied):
        dim = 1 if axes[0] == ("vocab",) else 0
        if axes[dim] == ("hidden",) and "norm" not in name:
            kept = weights[name].index_select(dim, torch.tensor(list(hidden)))
            weights[name] = weights[name] - kept.mean(dim, keepdim=True)
    return replace(ordered, weights=weights)


def check(ordered, selection, windows):
    # Norms add a constant to mean squares, which are smaller in a parent that has zeros.
    exact = {**ordered.config, "rms_norm_eps": 1e-15, "layer_norm_eps": 1e-15, "norm_epsilon": 1e-15}
    # Scores of pairs that are zero have no size to make up for.
    ordered = replace(ordered, config=exact, score_gain=False)
    subtracts_mean = len(ordered.family.final_norm.parameters) > 1
    if subtracts_mean and len(selection.hidden) < ordered.architecture.hidden_size:
        ordered = centred(ordered, selection.hidden)
    with torch.no_grad():
        expected = masked_parent(ordered, selection)(windows).logits
        actual = extract_child(ordered, selection)(windows).logits
        whole = extract_child(ordered, Selection.prefix(ordered.ranked))(windows).logits
    torch.testing.assert_close(actual, expected, rtol=1e-3, atol=1e-4 * float(expected.abs().max()))
    assert (expected - whole).abs().max() > 0.1


CHANNELS = {
    "all channels": Selection(hidden=WHOLE, layers=(replace(HALVES, layer=2), HALVES)),
    "few channels": Selection(
        hidden=tuple(range(1, 48, 3)), layers=(HALVES, replace(HALVES, layer=3), replace(HALVES, layer=1))
    ),
}


@pytest.mark.parametrize(("teacher", "channels"), across(list(CHANNELS)), indirect=["teacher"])
def test_a_child_equals_its_masked_parent(orders, windows, channels):
    check(orders["activation", "preserve"], CHANNELS[channels], windows)


@pytest.mark.parametrize(("teacher", "kind"), across(KINDS), indirect=["teacher"])
def test_so_does_any_child_of_any_space(orders, windows, kind):
    ordered = orders["activation", "preserve"]
    space = SearchSpace(teacher=ordered.ranked, granularity=kind[0], layerwise=kind[1])
    check(ordered, sample_any(space, np.random.default_rng(7)), windows[:3])


@pytest.mark.parametrize("teacher", families(without=("gemma",)), indirect=True)
def test_plain_cuts_leave_norms_as_they_are(orders, windows):
    """Gemma is left out: its embedding is scaled by the root of the hidden size, which the child's class computes."""
    cut = Selection(hidden=range(20), layers=(HALVES, replace(HALVES, layer=2)))
    for ordering in ("native", "magnitude"):
        check(orders[ordering, "preserve"], cut, windows)


@pytest.mark.slow
@pytest.mark.parametrize(("teacher", "kind"), across(KINDS), indirect=["teacher"])
def test_so_do_children_of_a_layerwise_teacher(own_teacher, windows, kind):
    space = SearchSpace(teacher=own_teacher.ranked, granularity=kind[0], layerwise=kind[1])
    check(own_teacher, sample_any(space, np.random.default_rng(3)), windows[:3])
