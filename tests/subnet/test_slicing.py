"""Law 3: cutting everything is the identity, cuts compose, and the teacher stays as it was."""

from dataclasses import replace

import numpy as np
import torch
from hypothesis import given
from hypothesis import strategies as st

from budwood.arch.family import LLAMA, axis_lengths
from budwood.subnet.selection import LayerSelection, Selection
from budwood.subnet.slicing import layer_indices, slice_state, slice_tensor

AXES = {"g": 3, "q": 2, "s": 4, "h": 5}


def prefix(hidden, layers, sizes):
    """Select the first entries of every axis; sizes are groups, queries, head dimensions, neurons."""
    groups, queries, dims, neurons = sizes
    return Selection(
        hidden=range(hidden),
        layers=tuple(
            LayerSelection(
                teacher_layer=layer,
                group=range(groups),
                query=range(queries),
                qk=range(dims),
                value=range(dims),
                neuron=range(neurons),
            )
            for layer in layers
        ),
    )


def weights_of(model):
    return {name: parameter.detach() for name, parameter in model.named_parameters()}


@st.composite
def kept_indices(draw):
    """Some axes whole, some cut to a prefix, some to any indices in any order."""
    kept = {}
    for name, length in AXES.items():
        anything = st.lists(st.integers(0, length - 1), min_size=1, max_size=length, unique=True)
        choice = draw(st.one_of(st.none(), st.integers(1, length).map(range), anything))
        if choice is not None:
            kept[name] = choice
    return kept


@given(kept_indices())
def test_index_lists_are_fancy_indexing_on_the_unflattened_tensor(kept):
    array = np.arange(3 * 2 * 4 * 5).reshape(3, 2, 4, 5)
    expected = array[np.ix_(*(list(kept.get(name, range(length))) for name, length in AXES.items()))]
    actual = slice_tensor(torch.from_numpy(array.reshape(24, 5)), (("g", "q", "s"), ("h",)), AXES, kept)
    np.testing.assert_array_equal(actual.numpy(), expected.reshape(-1, expected.shape[-1]))


def test_all_indices_are_the_identity_without_a_copy(teacher, architecture):
    state = weights_of(teacher)
    child = slice_state(state, LLAMA, architecture, prefix(48, range(4), (3, 2, 16, 40)))
    assert child.keys() == state.keys()
    for name, tensor in child.items():
        assert tensor.shape == state[name].shape
        assert tensor.data_ptr() == state[name].data_ptr()


def test_a_prefix_of_whole_axes_is_a_view_and_one_inside_heads_a_copy(teacher, architecture):
    state = weights_of(teacher)
    child = slice_state(state, LLAMA, architecture, prefix(20, [0], (2, 2, 8, 30)))
    shared = {name for name in child if child[name].data_ptr() == state[name].data_ptr()}
    assert {"model.embed_tokens.weight", "model.layers.0.mlp.gate_proj.weight", "model.norm.weight"} <= shared
    assert "model.layers.0.self_attn.q_proj.weight" not in shared


def test_the_prefix_of_a_prefix_is_the_smaller_prefix(teacher, architecture):
    state = weights_of(teacher)
    large, small = (3, 2, 12, 33), (2, 1, 6, 20)
    middle = prefix(40, [0, 2, 3], large)
    between = replace(architecture, hidden_size=40, layers=middle.layer_specs)
    twice = slice_state(slice_state(state, LLAMA, architecture, middle), LLAMA, between, prefix(24, [0, 2], small))
    once = slice_state(state, LLAMA, architecture, prefix(24, [0, 3], small))
    assert twice.keys() == once.keys()
    assert all(torch.equal(twice[name], once[name]) for name in once)


def test_layers_are_renumbered_and_the_teacher_is_untouched(teacher, architecture):
    state = weights_of(teacher)
    before = {name: tensor.clone() for name, tensor in state.items()}
    child = slice_state(state, LLAMA, architecture, prefix(48, [1, 3], (3, 2, 16, 10)))
    assert {name.split(".")[2] for name in child if ".layers." in name} == {"0", "1"}
    assert torch.equal(
        child["model.layers.1.mlp.down_proj.weight"], before["model.layers.3.mlp.down_proj.weight"][:, :10]
    )
    assert all(torch.equal(state[name], before[name]) for name in before)


def test_every_basic_axis_of_a_layer_has_its_indices(architecture):
    selection = prefix(20, [0], (2, 1, 8, 30))
    lengths = axis_lengths(architecture, architecture.layers[0])
    kept = layer_indices(selection, selection.layers[0])
    assert lengths.keys() - kept.keys() == {"vocab"}
    assert {name: len(indices) for name, indices in kept.items()} == {
        "hidden": 20,
        "group": 2,
        "query": 1,
        "qk": 8,
        "value": 8,
        "neuron": 30,
    }
