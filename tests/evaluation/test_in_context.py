"""Questions that only their context answers."""

from collections import Counter

import numpy as np
import pytest

from budwood.evaluation.in_context import in_context_questions
from budwood.evaluation.settings import COPIED_WORDS, COPY, RECALL, RECALLED_PAIRS, HeldOutSettings

WORDS = [f"{first}{second}word" for first in "abcdefgh" for second in "klmnop"]
FOXES = "The Quick 12 fox; jumped over lazy dogs while seven other foxes slept under trees whose leaves were falling"
TEXTS = {"one": [" ".join(WORDS)], "two": [FOXES]}


def asked(task: str, count: int = 200) -> list[dict]:
    return in_context_questions({"one": TEXTS["one"]}, HeldOutSettings(questions=count))[task]


def test_a_copy_goes_on_as_its_first_half_does() -> None:
    for row in asked(COPY):
        first, again = (line.split(" ") for line in row["context"].split("\n"))
        assert len(first) == len(set(first)) == COPIED_WORDS
        assert again == first[: len(again)]
        assert row["choices"][row["label"]] == first[len(again)]
        assert len(set(row["choices"])) == 4
        # No choice was given twice: that would tell it apart.
        assert not set(row["choices"]) & set(again)


def test_a_pair_is_recalled_by_its_first_word() -> None:
    for row in asked(RECALL):
        *pairs, key = row["context"].split("\n")
        values = dict(pair.split(": ") for pair in pairs)
        assert len(values) == RECALLED_PAIRS
        assert row["choices"][row["label"]] == values[key.removesuffix(":")]
        assert set(row["choices"]) <= set(values.values())
        assert len(set(row["choices"])) == 4


@pytest.mark.parametrize("task", [COPY, RECALL])
def test_neither_the_place_nor_the_word_gives_the_answer_away(task: str) -> None:
    """400 questions: a place is right 100 times, with a deviation of 8.7; the longest word no more often."""
    rows = asked(task, 400)
    assert all(abs(count - 100) < 35 for count in Counter(row["label"] for row in rows).values())
    first = np.mean([min(row["choices"]) == row["choices"][row["label"]] for row in rows])
    assert abs(first - 0.25) < 4 * 0.022


def test_words_are_of_the_source_and_long_enough() -> None:
    rows = in_context_questions(TEXTS, HeldOutSettings(questions=3))[COPY]
    assert [row["source"] for row in rows] == ["one"] * 3 + ["two"] * 3
    assert all(word in FOXES and len(word) >= 4 for row in rows[3:] for word in row["context"].split())


def test_vowel_signs_are_parts_of_words() -> None:
    words = {f"{first}ि{second}ालय" for first in "कखगघ" for second in "चछज"}
    (row,) = in_context_questions({"hindi": [" ".join(sorted(words))]}, HeldOutSettings(questions=1))[COPY]
    assert set(row["choices"]) <= words


def test_equal_arguments_give_equal_questions_and_another_seed_others() -> None:
    settings = HeldOutSettings(questions=5)
    assert in_context_questions(TEXTS, settings) == in_context_questions(TEXTS, settings)
    assert in_context_questions(TEXTS, settings) != in_context_questions(TEXTS, HeldOutSettings(questions=5, seed=1))


def test_too_few_words_are_refused() -> None:
    with pytest.raises(ValueError, match=r"source 'few': its held-out documents have 2 different words .* need 12"):
        in_context_questions({"few": ["only only these two to be"]}, HeldOutSettings(questions=1))
