"""A teacher in small has its proportions."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from strategies import SMOLLM2_135M, architectures, pythia

from budwood.arch.count import num_parameters
from budwood.arch.proportions import in_small

PYTHIA_69B = pythia(50432, 32, 4096, 32)


@given(architectures(uniform=True), st.floats(0.2, 1.0))
@settings(max_examples=40, deadline=None)
def test_a_teacher_in_small_comes_near_and_never_grows(teacher, share: float) -> None:
    small = in_small(teacher, share * num_parameters(teacher))
    assert num_parameters(small) <= num_parameters(teacher)
    assert small.family == teacher.family
    assert small.layers[0].heads_per_group == teacher.layers[0].heads_per_group


@pytest.mark.parametrize("size", [405_334_016, 1_011_781_632, 2_775_208_960])
def test_pythia_in_small_has_the_size_that_was_asked_for(size: int) -> None:
    assert num_parameters(in_small(PYTHIA_69B, size)) == pytest.approx(size, rel=0.03)
    assert in_small(SMOLLM2_135M, num_parameters(SMOLLM2_135M)) == SMOLLM2_135M
