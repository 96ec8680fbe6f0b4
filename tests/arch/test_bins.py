"""The paper's bins, and what a bin refuses."""

from contextlib import nullcontext

import pytest
from hypothesis import given
from hypothesis import strategies as st

from budwood.arch.bins import ParameterBin, require_disjoint


@pytest.mark.parametrize(
    ("reference", "printed"),
    [  # section 4.2: Pythia-410M, 1B and 2.8B with both embeddings
        (405_334_016, "385.07M-425.60M"),
        (1_011_781_632, "961.19M-1,062.37M"),
        (2_775_208_960, "2,636.45M-2,913.97M"),
    ],
)
def test_the_papers_bins(reference: int, printed: str) -> None:
    paper = ParameterBin.around(reference)
    assert str(paper) == printed
    assert abs(paper.low - 0.95 * reference) <= 0.5
    assert abs(paper.high - 1.05 * reference) <= 0.5


@given(st.integers(100, 10**12), st.floats(0.02, 0.9))
def test_a_bin_around_a_count_holds_it_in_the_middle(center: int, tolerance: float) -> None:
    drawn = ParameterBin.around(center, tolerance)
    assert center in drawn
    assert abs((drawn.low + drawn.high) / 2 - center) <= 1


@given(st.integers(1, 10**9), st.integers(1, 10**9))
def test_bounds_belong_to_the_bin(low: int, width: int) -> None:
    drawn = ParameterBin(low, low + width)
    assert low in drawn
    assert low + width in drawn
    assert low - 1 not in drawn
    assert low + width + 1 not in drawn


@pytest.mark.parametrize(("low", "high"), [(0, 5), (-3, 5), (5, 5), (6, 5)])
def test_empty_bins_are_refused(low: int, high: int) -> None:
    with pytest.raises(ValueError, match=f"0 < low < high, got low={low} and high={high}"):
        ParameterBin(low, high)


@given(st.lists(st.tuples(st.integers(1, 40), st.integers(1, 10)), max_size=4))
def test_bins_are_refused_exactly_where_two_share_a_count(drawn: list[tuple[int, int]]) -> None:
    bins = {str(place): ParameterBin(low, low + width) for place, (low, width) in enumerate(drawn)}
    shared = any(sum(count in each for each in bins.values()) > 1 for count in range(1, 51))
    with pytest.raises(ValueError, match="overlap") if shared else nullcontext():
        require_disjoint(bins)


@pytest.mark.parametrize("high", [10_000_000, 15_000_000, 99_000_000])
def test_bins_that_share_a_count_are_refused_by_name(high: int) -> None:
    bins = {"second": ParameterBin(10_000_000, 20_000_000), "first": ParameterBin(1_000_000, high)}
    with pytest.raises(ValueError, match=r"bins 'first' \(1.00M-.*\) and 'second' \(10.00M-20.00M\) overlap"):
        require_disjoint(bins)
