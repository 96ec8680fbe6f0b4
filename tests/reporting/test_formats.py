"""Numbers for people."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from budwood.reporting import formats


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (0.012345, "0.0123"),
        (1.7951, "1.80"),
        (12.34, "12.3"),
        (1234.0, "1,230"),
        (0.0, "0"),
        (-2.5, "-2.50"),
        (999.9, "1,000"),
    ],
)
def test_significant(value: float, expected: str) -> None:
    assert formats.significant(value) == expected


@given(st.floats(1e-6, 1e12))
def test_significant_is_true_to_half_a_unit_of_its_last_digit(value: float) -> None:
    assert float(formats.significant(value).replace(",", "")) == pytest.approx(value, rel=0.0051)


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (134_515_008, "134.5M"),
        (20_480, "20.48k"),
        (812, "812"),
        (6_857_302_016, "6.857B"),
        (999_999, "1.000M"),
        (0, "0"),
    ],
)
def test_count(value: float, expected: str) -> None:
    assert formats.count(value) == expected


@pytest.mark.parametrize(
    ("value", "expected"), [(1.23e13, "12.3 TFLOP"), (2.349e18, "2.35 EFLOP"), (0.0, "0 FLOP"), (37.0, "37.0 FLOP")]
)
def test_flops(value: float, expected: str) -> None:
    assert formats.flops(value) == expected


@pytest.mark.parametrize(
    ("seconds", "expected"),
    [
        (0.0412, "41.2 ms"),
        (4.2, "4.20 s"),
        (59.99, "60.0 s"),
        (725, "12 min 5 s"),
        (3599.8, "1 h 0 min"),
        (12_000, "3 h 20 min"),
    ],
)
def test_duration(seconds: float, expected: str) -> None:
    assert formats.duration(seconds) == expected


@pytest.mark.parametrize(
    ("mean", "error", "expected"),
    [
        (4.43123, 0.0523, "4.431 ± 0.052"),
        (-3.3, 0.00042, "-3.30000 ± 0.00042"),
        (12.0, 23.4, "12 ± 23"),
        (1.5, math.nan, "1.500 ± n/a"),
        (1.5, 0.0, "1.500 ± 0"),
        (math.nan, 0.1, "n/a"),
    ],
)
def test_plus_minus(mean: float, error: float, expected: str) -> None:
    assert formats.plus_minus(mean, error) == expected


@pytest.mark.parametrize("number", [formats.significant, formats.count, formats.flops, formats.duration])
def test_what_is_missing_shows_as_such(number) -> None:
    assert number(math.nan) == "n/a"
