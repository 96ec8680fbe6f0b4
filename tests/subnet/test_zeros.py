"""Whatever another tool has masked with zeros: the whole cut is the teacher, and every child computes numbers."""

import pytest
import torch
from corrections import compensate
from hypothesis import given, settings
from hypothesis import strategies as st
from teachers import (
    DEPTH,
    FULL,
    HEAD_DIM,
    HIDDEN_SIZE,
    NEURONS,
    architecture_of,
    measure_importance,
    select,
    tiny_teacher,
    weights_of,
)

from budwood.arch.family import Axes, axis_lengths, family_of
from budwood.arch.selection import Selection
from budwood.search.settings import SearchSettings
from budwood.subnet.extract import extract_child
from budwood.subnet.moments import _Start
from budwood.subnet.ordering import _value_basis, order_teacher
from budwood.subnet.regression import _solver, first_direction, regress
from budwood.subnet.scoring import as_shares, component_scores
from budwood.subnet.settings import Compensation, Ordering

IDS = torch.randint(0, 97, (2, 20), generator=torch.Generator().manual_seed(3))
CHANGE = Ordering(layer_score="change")
FAMILIES = ["gemma2", "gpt_neox", "llama", "olmo2", "qwen3"]
AXES = {"hidden": HIDDEN_SIZE, "group": 3, "query": 2, "qk": HEAD_DIM, "value": HEAD_DIM, "neuron": NEURONS}
CUTS = [
    select(24, [0, 1], (2, 1, 8, 15)),
    select(HIDDEN_SIZE, [0, 1, 2, 3], (1, 1, 4, NEURONS)),
    select(30, [0, 2], (3, 1, 16, 4), (1, 1, 6, 30)),
]


@st.composite
def masks(draw):
    """Draw which positions of every axis are zero in which layers: none, some, or all of them."""
    layers = draw(st.sets(st.integers(0, DEPTH - 1), min_size=1))
    zeros = {}
    for axis, length in AXES.items():
        some = st.sets(st.integers(0, length - 1), max_size=length)
        zeros[axis] = sorted(draw(st.one_of(st.just(set()), some, st.just(set(range(length))))))
    return layers, zeros


def masked(family, layers, zeros):
    """Return a teacher with zeros, its weights by the names of the table; norms keep theirs."""
    model = tiny_teacher(family, tied=False)
    architecture, table = architecture_of(model), family_of(family)
    weights = weights_of(model)
    for name, layer, axes in table.parameters(DEPTH, tied=False):
        if layer in layers and "norm" not in name:
            lengths = axis_lengths(architecture, architecture.layers[layer])
            _mask(weights[name], axes, lengths, zeros)
    if not table.grouped:
        for name, parameter in model.named_parameters():
            if "query_key_value" in name:
                parts = [weights[name.replace("query_key_value", part)] for part in ("query", "key", "value")]
                parts = [part.unflatten(0, (3, HEAD_DIM)) for part in parts]
                parameter.data = torch.stack(parts, 1).flatten(0, 2)
    return model, weights


def _mask(weight: torch.Tensor, axes: Axes, lengths, zeros) -> None:
    for dim, axis in enumerate(axes):
        whole = weight.data.unflatten(dim, [lengths[name] for name in axis]) if len(axis) > 1 else weight.data
        for offset, name in enumerate(axis):
            gone = [position for position in zeros.get(name, ()) if position < lengths[name]]
            # A view: the weight itself becomes zero.
            whole.index_fill_(dim + offset, torch.tensor(gone, dtype=torch.long), 0)


@pytest.mark.slow
@pytest.mark.parametrize("family", FAMILIES)
@settings(max_examples=8)
@given(by=st.sampled_from(["activation", "magnitude"]), mask=masks(), cut=st.sampled_from(CUTS))
def test_zeros_are_cut_like_other_weights(family, by, mask, cut):
    model, weights = masked(family, *mask)
    architecture = architecture_of(model)
    importance = measure_importance(model, architecture, IDS)
    assert all(torch.isfinite(tensor).all() for tensor in importance.to_tensors().values())
    ordered = order_teacher(
        weights, model.config.to_dict(), architecture, Ordering(ordering=by, layer_score="change"), importance
    )
    ordered = ordered.materialise(FULL)
    cut = cut if family != "gpt_neox" else CUTS[0]
    with torch.no_grad():
        expected = model(IDS).logits
        whole = extract_child(ordered, Selection.prefix(ordered.ranked))(IDS).logits
        child = extract_child(ordered, cut)(IDS).logits
        corrected = compensate(ordered, cut, IDS, Compensation())(IDS).logits
    assert (whole - expected).abs().max() <= 1e-4 * max(1.0, float(expected.abs().max()))
    assert torch.isfinite(child).all()
    assert torch.isfinite(corrected).all()
    for normalisation in ("sum", "softmax", "rank"):
        for reading in ("budwood", "paper"):
            search = SearchSettings(fitness="importance", scores=reading)
            shares = component_scores(search, {"importance": importance}).normalised(normalisation)
            assert shares.in_order(importance, ordered.ranking).of(cut) > 0


@pytest.mark.parametrize("normalisation", ["sum", "softmax", "rank"])
def test_an_axis_without_scores_has_equal_shares(normalisation):
    assert as_shares(torch.zeros(4), normalisation).tolist() == [0.25] * 4


@pytest.mark.parametrize("family", FAMILIES)
def test_a_layer_of_zeros_is_the_first_to_go(family):
    model, weights = masked(family, {1}, {name: range(length) for name, length in AXES.items()})
    architecture = architecture_of(model)
    importance = measure_importance(model, architecture, IDS)
    ordered = order_teacher(weights, model.config.to_dict(), architecture, CHANGE, importance)
    assert ordered.ranking[-1] == 1
    assert float(importance.layers[1].change) == pytest.approx(0, abs=1e-12) or family_of(family).output_norms


def test_pairs_without_energy_keep_the_order_of_the_others():
    """One group is zero: the ranking is that of the other two."""
    model, weights = masked("llama", range(DEPTH), {"group": [1]})
    architecture = architecture_of(model)
    importance = measure_importance(model, architecture, IDS)
    ordered = order_teacher(weights, model.config.to_dict(), architecture, CHANGE, importance)
    pairs = torch.cat([layer.pairs(HEAD_DIM)[[0, 2]] for layer in importance.layers])
    shares = (pairs / pairs.sum(1, keepdim=True)).mean(0)
    assert list(ordered.pair_rankings[0]) == shares.argsort(descending=True).tolist()


@pytest.mark.parametrize(("rows", "rank"), [(8, 0), (8, 3), (8, 6), (2, 6), (2, 1)])
def test_a_basis_of_values_is_one_whatever_is_zero(rows, rank):
    generator = torch.Generator().manual_seed(rank)
    heads = torch.randn(20, rank, generator=generator, dtype=torch.float64)
    heads = heads @ torch.randn(rank, 6, generator=generator, dtype=torch.float64)
    weight = torch.randn(rows, 1, 6, generator=generator, dtype=torch.float64)
    for moment in (heads.T @ heads / 20, 1e-20 * heads.T @ heads, -1e-18 * torch.eye(6, dtype=torch.float64)):
        basis, inverse = _value_basis(weight, moment)
        torch.testing.assert_close(basis @ inverse, torch.eye(6, dtype=torch.float64), rtol=0, atol=1e-9)


def test_zeros_at_first_positions_have_no_direction():
    assert torch.equal(first_direction(torch.zeros(2, 3)), torch.zeros(3))


def test_a_token_whose_stream_is_zero_is_not_counted():
    """Two tokens that count: with a tiny ridge the map takes each to where it came out."""
    written = torch.tensor([[[0.0, 0], [3, 4], [1, 1], [1, 0]]])
    after = torch.tensor([[[0.0, 0], [1, 1], [0, 0], [2, 2]]])
    over = _Start([written], [torch.zeros_like(written)]).map([after], 1e-9)
    expected = written[0, [1, 3]] + after[0, [1, 3]]
    torch.testing.assert_close(written[0, [1, 3]] @ over.T, expected, rtol=1e-4, atol=1e-4)


def test_what_lies_in_the_held_direction_alone_predicts_nothing():
    """A layer whose neurons are all zero writes its bias for every token: what remains of it is rounding."""
    bias = torch.randn(48, generator=torch.Generator().manual_seed(0))
    moment = torch.outer(bias, bias)
    noise = 1e-7 * torch.randn(48, 48, generator=torch.Generator().manual_seed(1))
    found = regress((moment * (1 + noise + noise.T)).double(), moment.double(), 0.3, held=bias)
    assert (found.T @ moment.double() @ found).diagonal().max() < 1e-3 * moment.max()


def test_energies_that_rounding_has_made_negative_count_as_zero():
    axes = torch.linalg.qr(torch.randn(3, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64))[0]
    target = torch.randn(3, 2, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    with_rounding, without = (axes @ torch.diag(torch.tensor([2.0, 1, low]).double()) @ axes.T for low in (-0.1, 0))
    expected = torch.linalg.solve(without + 0.05 * torch.eye(3), target)
    torch.testing.assert_close(_solver(with_rounding, 0.05)(target), expected)
