"""Scores of sub-networks: worked values, and laws over all of a teacher."""

from dataclasses import replace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from budwood.arch.selection import LayerSelection, Selection
from budwood.search.settings import SearchSettings
from budwood.subnet.importance import Importance, LayerImportance
from budwood.subnet.scoring import as_shares, component_scores

NORMALISATIONS = ("softmax", "rank", "sum")
WHOLE = LayerSelection(layer=0, groups=range(2), queries=range(1), pairs=range(2), neurons=range(3))


def layer_importance(influence: float, heads: list[float], neurons: list[float]) -> LayerImportance:
    return LayerImportance(
        influence=torch.tensor(influence),
        change=torch.tensor(influence),
        heads=torch.tensor(heads)[:, None],
        queries=torch.ones(2, 4),
        keys=torch.ones(2, 4),
        neurons=torch.tensor(neurons),
        head_norms=torch.tensor(heads)[:, None].sqrt(),
        activations=torch.tensor(neurons) + 1,
        values=torch.eye(4).repeat(2, 1, 1),
    )


IMPORTANCE = Importance(
    channels=torch.tensor([1.0, 3.0]),
    norms={},
    layers=(layer_importance(1.0, [1.0, 3.0], [1.0, 2.0, 5.0]), layer_importance(3.0, [1.0, 1.0], [0.0, 1.0, 1.0])),
)


MAGNITUDE = Importance(
    channels=torch.tensor([1.0, 1.0]),
    norms={},
    layers=(layer_importance(1.0, [9.0, 1.0], [8.0, 0.0, 0.0]), layer_importance(1.0, [1.0, 9.0], [0.0, 0.0, 8.0])),
)


def score(selection, normalisation, ranking=None, **fields):
    """Return the score of a sub-network; with a ranking, of one of the teacher ordered by the same importance."""
    search = SearchSettings(fitness="importance", **fields)
    shares = component_scores(search, {"importance": IMPORTANCE, "magnitude": MAGNITUDE}).normalised(normalisation)
    return (shares if ranking is None else shares.in_order(IMPORTANCE, ranking)).of(selection)


@pytest.mark.parametrize(
    ("normalisation", "expected"),
    [
        ("sum", [0.1, 0.2, 0.7]),
        ("rank", [1 / 6, 2 / 6, 3 / 6]),
        ("softmax", [0.09003057, 0.24472847, 0.66524096]),
    ],
)
def test_worked_shares(normalisation, expected):
    scores = torch.tensor([0.0, 1.0, 2.0] if normalisation == "softmax" else [1.0, 2.0, 7.0])
    torch.testing.assert_close(as_shares(scores, normalisation), torch.tensor(expected, dtype=torch.float64))


@given(st.lists(st.floats(0.01, 10), min_size=1, max_size=8), st.sampled_from(NORMALISATIONS))
def test_shares_add_up_to_one_and_keep_the_order(scores, normalisation):
    shares = as_shares(torch.tensor(scores), normalisation)
    assert float(shares.sum()) == pytest.approx(1)
    order = torch.tensor(scores).argsort(stable=True)
    assert (shares[order].diff() >= -1e-12).all()


def test_worked_score():
    """The second layer, its first head and last two neurons, and the first channel."""
    layer = replace(WHOLE, layer=1, groups=(0,), neurons=(1, 2))
    selection = Selection(hidden=(0,), layers=(layer,))
    # Channel 1/4, layer 3/4, head 1/2, neurons 1/2 + 1/2.
    assert score(selection, "sum") == pytest.approx(0.25 + 0.75 + 0.5 + 1)


@pytest.mark.parametrize("normalisation", NORMALISATIONS)
@pytest.mark.parametrize("ranking", [(1, 0), None])
def test_the_whole_teacher_has_one_of_every_axis(normalisation, ranking):
    whole = Selection(hidden=range(2), layers=(WHOLE, replace(WHOLE, layer=1)))
    assert score(whole, normalisation, ranking) == pytest.approx(1 + 1 + 2 * 2)


@pytest.mark.parametrize("normalisation", NORMALISATIONS)
def test_ordered_prefixes_are_the_best_of_the_best_layer(normalisation):
    small = replace(WHOLE, groups=range(1), neurons=range(1))
    best = score(Selection(hidden=range(1), layers=(small,)), normalisation, (1, 0))
    others = [
        score(
            Selection(hidden=(channel,), layers=(replace(small, layer=1, groups=(group,), neurons=(neuron,)),)),
            normalisation,
        )
        for channel in range(2)
        for group in range(2)
        for neuron in range(3)
    ]
    assert best == pytest.approx(max(others))


def test_an_unknown_normalisation_is_refused():
    with pytest.raises(ValueError, match="softmax, rank or sum, got 'mean'"):
        as_shares(torch.ones(2), "mean")


def test_the_papers_scores_are_norms_and_mean_activations():
    """The second layer, its first head and last two neurons, and the first channel of the teacher as it is."""
    selection = Selection(hidden=(0,), layers=(replace(WHOLE, layer=1, groups=(0,), neurons=(1, 2)),))
    # Channel 1/4, layer 3/4, head 1/2; activations 1, 2, 2, of which 4/5 are kept.
    assert score(selection, "sum", scores="paper") == pytest.approx(0.25 + 0.75 + 0.5 + 4 / 5)
    first = Selection(hidden=(0,), layers=(replace(WHOLE, groups=(1,), neurons=(2,)),))
    # Head: root of 3 of 1 + root of 3; activations 2, 3, 6.
    expected = 0.25 + 0.25 + 3**0.5 / (1 + 3**0.5) + 6 / 11
    assert score(first, "sum", scores="paper") == pytest.approx(expected)


def test_every_axis_has_a_method_of_its_own():
    """Listing 6: layers, heads and neurons are each scored by activations or by weights."""
    selection = Selection(hidden=(0,), layers=(replace(WHOLE, layer=1, groups=(0,), neurons=(2,)),))
    parts = {"layer_scores": (0.75, 0.5), "head_scores": (0.5, 0.1), "neuron_scores": (0.5, 1.0)}
    for changed, (by_activations, by_weights) in parts.items():
        rest = sum(values[0] for name, values in parts.items() if name != changed)
        assert score(selection, "sum") == pytest.approx(0.25 + rest + by_activations)
        assert score(selection, "sum", **{changed: "magnitude"}) == pytest.approx(0.25 + rest + by_weights)


def test_scores_by_another_method_follow_the_order_of_the_teacher():
    """Ordered by activations, the first layer has heads 1, 0 and neurons 2, 1, 0, whatever their weights are."""
    first = replace(WHOLE, layer=1, groups=(0,), neurons=(2,))
    found = score(
        Selection(hidden=(0,), layers=(first,)), "sum", (1, 0), head_scores="magnitude", neuron_scores="magnitude"
    )
    # Channel 1 comes first: 3/4; layer 0 is second: 1/4; its head 1 has 1/10, its neuron 0 all of the weights.
    assert found == pytest.approx(0.75 + 0.25 + 0.1 + 1.0)


def test_methods_are_of_searches_by_scores():
    with pytest.raises(ValueError, match="fitness='perplexity' adds up no scores"):
        _ = SearchSettings().score_methods
