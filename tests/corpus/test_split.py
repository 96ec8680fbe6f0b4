"""Splits are a function of the text."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from budwood.corpus.split import SPLITS, assign_split, normalise, text_digest, validate_fractions

QUARTERS = {"train": 0.5, "calibration": 0.25, "validation": 0.25}
shares = st.lists(st.integers(0, 100), min_size=len(SPLITS), max_size=len(SPLITS)).filter(any)


def split_of(text, fractions, seed):
    return assign_split(text_digest(text, seed), fractions)


@given(text=st.text(), seed=st.integers(), weights=shares)
def test_only_splits_with_a_share_are_drawn(text, seed, weights):
    fractions = {split: weight / sum(weights) for split, weight in zip(SPLITS, weights, strict=True)}
    assert fractions[split_of(text, fractions, seed)] > 0


@given(text=st.text(), seed=st.integers())
def test_the_order_of_the_fractions_does_not_matter(text, seed):
    assert split_of(text, QUARTERS, seed) == split_of(text, dict(reversed(QUARTERS.items())), seed)


def test_shares_approach_the_fractions():
    drawn = [split_of(f"text {number}", QUARTERS, seed=0) for number in range(4000)]
    for split, fraction in QUARTERS.items():
        # Five standard deviations of a binomial share.
        tolerance = 5 * math.sqrt(fraction * (1 - fraction) / len(drawn))
        assert drawn.count(split) / len(drawn) == pytest.approx(fraction, abs=tolerance)


def test_another_seed_draws_independently():
    """Two fair halves agree on half of the texts."""
    halves = {"train": 0.5, "validation": 0.5}
    texts = [f"text {number}" for number in range(4000)]
    agree = sum(split_of(text, halves, 0) == split_of(text, halves, 1) for text in texts)
    assert agree / len(texts) == pytest.approx(0.5, abs=0.04)


def test_assignments_survive_releases():
    """A corpus packed by one version must not leak into the validation split of the next.

    First bytes of `printf '0\\0<text>' | b2sum -l 64`: 0x39, 0x6f, 0x8a, 0xbd, 0xf1; the edges are 0x80 and 0xc0.
    """
    drawn = [split_of(text, QUARTERS, seed=0) for text in ("omega", "alpha", "beta", "délta", "epsilon")]
    assert drawn == ["train", "train", "calibration", "calibration", "validation"]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("  The CAT,\tsat\u00a0on—the mat!\n", "thecatsatonthemat"),
        ("Straße ﬁne \uff38", "strassefinex"),
        ("naïve cafe\u0301", "naïvecafé"),
        ("東京、です。", "東京です"),
        ("नमस्ते, दुनिया।", "नमस्तेदुनिया"),
        ("สวัสดี", "สวัสดี"),
        ("red \u2764\ufe0f, blue", "redblue"),
        ("don\u2019t, well-known in the U.S.", "dontwellknownintheus"),
        ("exam-\nple, ex\u00adample", "exampleexample"),
        ("*** --- ***", "*** --- ***"),
        ("", ""),
    ],
)
def test_near_duplicates_have_the_same_letters(text, expected):
    assert normalise(text) == expected


@given(
    words=st.lists(st.text("abcxyzäø東019", min_size=1), min_size=1),
    separators=st.lists(st.text(" \t\n.,;:!?'\"()_-—*#", min_size=1), min_size=1),
)
def test_case_and_what_is_between_letters_do_not_matter(words, separators):
    spelled = "".join(word.upper() + separators[place % len(separators)] for place, word in enumerate(words))
    inside = "".join("-\n".join(word) for word in words)
    assert normalise(spelled) == normalise(inside) == normalise(" ".join(words)) == "".join(words)


@pytest.mark.parametrize(
    ("fractions", "message"),
    [
        ({"train": 0.5, "test": 0.5}, r"\['test'\]; allowed are \['train', 'calibration'"),
        ({"train": 1.5, "validation": -0.5}, "at least 0"),
        ({"train": math.nan}, "at least 0"),
        ({"train": 0.5, "validation": 0.5 + 1e-8}, "sum to 1, got 1.00000001"),
        ({}, "sum to 1, got 0"),
    ],
)
def test_impossible_fractions_are_refused(fractions, message):
    with pytest.raises(ValueError, match=message):
        validate_fractions(fractions)


@pytest.mark.parametrize(
    "fractions",
    [dict.fromkeys(("train", "selection", "choice"), 1 / 3), dict.fromkeys(SPLITS[1:4], 0.1) | {"train": 0.7}],
)
def test_thirds_and_tenths_are_accepted_and_what_is_more_than_rounding_is_not(fractions):
    validate_fractions(fractions)
    with pytest.raises(ValueError, match="sum to 1"):
        validate_fractions(fractions | {"train": fractions["train"] + 2e-9})
