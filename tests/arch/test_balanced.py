"""Balanced members: inside the space and the bin, spread over depths, and what the rule suggests for SmolLM2."""

from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from strategies import SMOLLM2_135M, generators, spaces_with_bins

from budwood.arch.balanced import MOST_CHANNELS, TAPER, balanced_members
from budwood.arch.bins import ParameterBin
from budwood.arch.count import num_parameters
from budwood.arch.space import SearchSpace

SERVED = SearchSpace(teacher=SMOLLM2_135M, layerwise=False, alignment=32, servable=("vllm", "llama.cpp"))


@given(drawn=spaces_with_bins(), rng=generators)
@settings(deadline=None)
def test_members_lie_in_the_space_and_in_the_bin(
    drawn: tuple[SearchSpace, ParameterBin], rng: np.random.Generator
) -> None:
    space, parameter_bin = drawn
    members = balanced_members(space, parameter_bin, 4, rng)
    assert len(members) <= 4
    assert all(member in space for member in members)
    assert all(num_parameters(member.architecture(space.teacher)) in parameter_bin for member in members)
    depths = [len(member.layers) for member in members]
    assert depths == sorted(set(depths))
    assert len({len(member.hidden) for member in members}) <= 1
    for member, depth in zip(members[:1], depths, strict=False):
        channels = len(member.hidden) / space.teacher.hidden_size
        assert 1 <= channels / (depth / space.teacher.num_hidden_layers) <= MOST_CHANNELS


@pytest.mark.parametrize(
    ("fraction", "shallowest", "deepest"),
    [
        (0.75, (23, 576, 9, 1408), (30, 576, 6, 1120)),
        (0.5, (16, 576, 9, 992), (24, 576, 6, 672)),
        (0.25, (11, 416, 6, 704), (15, 416, 6, 448)),
    ],
)
def test_smollm2_keeps_its_channels(fraction: float, shallowest: tuple[int, ...], deepest: tuple[int, ...]) -> None:
    parameter_bin = ParameterBin.around(round(fraction * num_parameters(SMOLLM2_135M)), 0.05)
    members = balanced_members(SERVED, parameter_bin, 99, np.random.default_rng(0))
    sizes = [
        (len(member.layers), len(member.hidden), layer.num_attention_heads, layer.intermediate_size)
        for member in members
        for layer in {layer.spec for layer in member.layers}
    ]
    assert (sizes[0], sizes[-1]) == (shallowest, deepest)
    two = balanced_members(SERVED, parameter_bin, 2, np.random.default_rng(0))
    assert two == [members[0], members[-1]]


@pytest.mark.parametrize("fraction", [0.25, 0.5, 0.75])
def test_neurons_fall_by_rank_the_steeper_the_deeper(fraction: float) -> None:
    """Where layers may differ. All else, and the parameters, are those of equal layers."""
    parameter_bin = ParameterBin.around(round(fraction * num_parameters(SMOLLM2_135M)), 0.05)
    members = balanced_members(replace(SERVED, layerwise=True), parameter_bin, 99, np.random.default_rng(0))
    slopes = []
    for member in members:
        widths = [layer.spec.intermediate_size for layer in member.layers]
        assert widths == sorted(widths, reverse=True)
        assert len({replace(layer.spec, intermediate_size=32) for layer in member.layers}) == 1
        slopes.append((widths[0] - widths[-1]) / (widths[0] + widths[-1]))
    assert slopes[0] < 0.06  # a step of a layer or two
    # At three quarters the best layer has all the neurons there are, and the slope stops at that.
    assert slopes[-1] == pytest.approx(0.45 if fraction == 0.75 else TAPER, abs=0.03)
    assert all(later > earlier - 0.02 for earlier, later in pairwise(slopes))


def test_a_bin_at_the_edge_of_a_space_has_none() -> None:
    smallest, _ = SERVED.reach
    assert not balanced_members(SERVED, ParameterBin(smallest, smallest + 1), 4, np.random.default_rng(0))
