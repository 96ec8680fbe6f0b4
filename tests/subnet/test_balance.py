"""Balanced weights: the same function to the last bit, and values of the size of what reads them."""

import pytest
import torch
from children import SELECTIONS
from corrections import logits_of
from teachers import every_family

from budwood.arch.family import family_of
from budwood.subnet.balance import _powers, balanced
from budwood.subnet.compensate import cut_out
from budwood.subnet.extract import Corrections, child_parts, child_state, extract_child, merged, resolve


def sizes(state, architecture, position):
    """Return [G, S] the root mean squares of a layer's values, and of what reads them."""
    family, spec = family_of(architecture.family), architecture.layers[position]
    values, outputs = (
        state[family.layer_weight(position, module)].double() for module in (family.value, family.output)
    )
    groups = spec.num_key_value_heads
    rows = values.unflatten(0, (groups, -1)).square().mean(2)
    columns = outputs.unflatten(1, (groups, spec.heads_per_group, -1)).square().mean((0, 2))
    return rows.sqrt(), columns.sqrt()


def skew(part, architecture):
    """Make values 64 times as large, and what reads them as many times as small."""
    family = family_of(architecture.family)
    factors = dict.fromkeys((f".{name}" for name, _ in family.value.parameters), 64) | {
        f".{family.output.weight}": 1 / 64
    }
    factor = {name: next((each for end, each in factors.items() if name.endswith(end)), 1) for name in part}
    return {name: weight * factor[name] for name, weight in part.items()}


def test_powers_by_hand():
    """Values of 12 that something of 0.0008 reads meet it at 2^-7; rounding leaves a factor of two between them."""
    values, outputs = torch.tensor([12.0, 1.0, 0.5, 0.0, 3.0]), torch.tensor([0.0008, 1.0, 8.0, 1.0, 0.0])
    assert _powers(values, outputs).tolist() == [2**-7, 1, 4, 1, 1]
    assert 0.5 <= (12 * 2**-7) / (0.0008 * 2**7) <= 2


@every_family
@pytest.mark.usefixtures("teacher")
@pytest.mark.parametrize("name", ["layer-wise", "fine"])
def test_balancing_changes_no_bit_of_what_is_computed(orders, windows, name):
    for ordering in ("activation", "magnitude"):
        ordered, selection = orders[ordering, "preserve"], SELECTIONS[name]
        child = cut_out(ordered, selection, windows, None).assemble()
        assert torch.equal(logits_of(child, windows), logits_of(extract_child(ordered, selection), windows))
        cut = resolve(ordered, selection)
        plain = child_state(ordered, cut)
        skewed = (skew(part, cut.architecture) for part in child_parts(ordered, cut, Corrections()))
        state = merged(balanced(skewed, cut.architecture))
        family = family_of(cut.architecture.family)
        touched = {parameter for parameter, _ in family.value.parameters} | {family.output.weight}
        assert all(
            torch.equal(weight, plain[name]) for name, weight in state.items() if not name.endswith(tuple(touched))
        )
        for position in range(len(cut.layers)):
            rows, columns = sizes(state, cut.architecture, position)
            ratios = (rows / columns)[(rows > 0) & (columns > 0)]
            assert 0.499 < ratios.min() <= ratios.max() < 2.001


@pytest.mark.usefixtures("teacher")
def test_the_paper_s_cuts_are_left_as_they_are(orders, windows):
    ordered, selection = orders["native", "rebuild"], SELECTIONS["uniform"]
    plain = extract_child(ordered, selection).state_dict()
    for name, weight in cut_out(ordered, selection, windows, None).assemble().state_dict().items():
        assert torch.equal(weight, plain[name])
