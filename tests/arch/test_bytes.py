"""Amounts of memory in words."""

import math

import pytest

from budwood.arch.bytes import spell_bytes


@pytest.mark.parametrize(
    ("amount", "words", "exact"),
    [
        (0, "0 B", "0 B"),
        (5, "5 B", "5 B"),
        (812, "812 B", "812 B"),
        (46_080, "45.0 KiB", "45.00 KiB"),
        (1_048_063, "1,023 KiB", "1,023 KiB"),
        (119_537_664, "114 MiB", "114.0 MiB"),
        (1.234e9, "1.15 GiB", "1.149 GiB"),
        (3e18, "2,665 PiB", "2,665 PiB"),
        (math.nan, "n/a", "n/a"),
    ],
)
def test_bytes_are_spelt(amount: float, words: str, exact: str) -> None:
    assert (spell_bytes(amount), spell_bytes(amount, digits=4)) == (words, exact)
