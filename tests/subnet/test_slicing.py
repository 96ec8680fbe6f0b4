"""Law 3: cutting everything is the identity, and cuts compose."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from budwood.subnet.slicing import permute_within_groups, slice_tensor

LENGTHS = {"group": 3, "query": 2, "qk": 4, "hidden": 5}
AXES = (("group", "query", "qk"), ("hidden",))


def tensor_of(lengths=LENGTHS):
    rows = lengths["group"] * lengths["query"] * lengths["qk"]
    return torch.arange(rows * lengths["hidden"]).reshape(rows, lengths["hidden"])


@st.composite
def kept_indices(draw, lengths=LENGTHS):
    """Some axes whole, some cut to a prefix, some to any indices in any order."""
    kept = {}
    for name, length in lengths.items():
        anything = st.lists(st.integers(0, length - 1), min_size=1, max_size=length, unique=True).map(tuple)
        choice = draw(st.one_of(st.none(), st.integers(1, length).map(range), anything))
        if choice is not None:
            kept[name] = choice
    return kept


@st.composite
def cuts_of_cuts(draw):
    first = draw(kept_indices())
    between = {name: len(first.get(name, range(length))) for name, length in LENGTHS.items()}
    return first, between, draw(kept_indices(between))


@given(kept_indices())
def test_index_lists_are_fancy_indexing_on_the_unflattened_tensor(kept):
    array = tensor_of().numpy().reshape(tuple(LENGTHS.values()))
    expected = array[np.ix_(*(list(kept.get(name, range(length))) for name, length in LENGTHS.items()))]
    actual = slice_tensor(tensor_of(), AXES, LENGTHS, kept)
    np.testing.assert_array_equal(actual.numpy(), expected.reshape(-1, expected.shape[-1]))


@given(cuts_of_cuts())
def test_cuts_compose(cuts):
    """Two cuts are one cut by the composed indices."""
    first, between, second = cuts
    twice = slice_tensor(slice_tensor(tensor_of(), AXES, LENGTHS, first), AXES, between, second)
    composed = {
        name: [list(first.get(name, range(LENGTHS[name])))[index] for index in second.get(name, range(length))]
        for name, length in between.items()
    }
    assert torch.equal(twice, slice_tensor(tensor_of(), AXES, LENGTHS, composed))


@pytest.mark.parametrize("kept", [{}, {name: range(length) for name, length in LENGTHS.items()}])
def test_all_indices_are_the_identity_without_a_copy(kept):
    tensor = tensor_of()
    assert slice_tensor(tensor, AXES, LENGTHS, kept) is tensor


def test_all_indices_in_a_list_are_the_identity_too():
    every = {name: tuple(range(length)) for name, length in LENGTHS.items()}
    assert torch.equal(slice_tensor(tensor_of(), AXES, LENGTHS, every), tensor_of())


@pytest.mark.parametrize(
    ("kept", "shared"),
    [
        ({"hidden": range(2)}, True),
        ({"group": range(2), "hidden": range(3)}, True),
        ({"query": range(1)}, False),
        ({"hidden": (0, 1)}, False),
    ],
)
def test_a_prefix_of_whole_axes_is_a_view_and_one_inside_heads_a_copy(kept, shared):
    tensor = tensor_of()
    assert (slice_tensor(tensor, AXES, LENGTHS, kept).data_ptr() == tensor.data_ptr()) is shared


def test_a_cut_leaves_its_tensor_as_it_was():
    tensor = tensor_of()
    slice_tensor(tensor, AXES, LENGTHS, {"group": (2, 0), "qk": range(2)}).zero_()
    assert torch.equal(tensor, tensor_of())


@pytest.mark.parametrize(("name", "dim"), [("query", 1), ("qk", 2)])
def test_every_group_is_permuted_by_its_own_order(name, dim):
    rng = np.random.default_rng(0)
    orders = [tuple(rng.permutation(LENGTHS[name]).tolist()) for _ in range(3)]
    array = tensor_of().numpy().reshape(3, 2, 4, 5)
    expected = np.stack([np.take(group, order, axis=dim - 1) for group, order in zip(array, orders, strict=True)])
    actual = permute_within_groups(tensor_of(), AXES, LENGTHS, name, orders)
    np.testing.assert_array_equal(actual.numpy(), expected.reshape(24, 5))
    inverse = [np.argsort(order).tolist() for order in orders]
    assert torch.equal(permute_within_groups(actual, AXES, LENGTHS, name, inverse), tensor_of())


def test_columns_are_permuted_as_rows_are():
    orders = [(1, 0), (0, 1), (1, 0)]
    rows = permute_within_groups(tensor_of(), AXES, LENGTHS, "query", orders)
    columns = permute_within_groups(tensor_of().T, AXES[::-1], LENGTHS, "query", orders)
    assert torch.equal(columns, rows.T)


def test_a_tensor_without_the_axis_is_returned_as_it_is():
    tensor = tensor_of()
    assert permute_within_groups(tensor, (("vocab",), ("hidden",)), LENGTHS, "qk", [(0,)]) is tensor
    assert permute_within_groups(tensor, AXES, LENGTHS, "value", [(0,)]) is tensor
