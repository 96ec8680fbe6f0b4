"""Questions from held-out text: about other documents, of the right size, and unbiased."""

from collections import Counter

import pandas as pd
import pytest
from corpora import tokenize_and_pack

from budwood.evaluation.heldout import heldout_questions, read_texts
from budwood.evaluation.in_context import in_context_questions
from budwood.evaluation.settings import CONTINUATION, LAST_WORD, HeldOutSettings
from budwood.models.teacher import byte_tokenizer

SMALL = HeldOutSettings(questions=8, context_words=4, continuation_words=3)
NAMES = ("alpha", "beta", "gamma", "delta", "epsilon", "zeta")


def document(name: str, num_words: int = 28) -> str:
    """Return words that tell their document and place: alphaa alphab ..."""
    return " ".join(f"{name}{chr(97 + place)}" for place in range(num_words))


TEXTS = {"greek": [document(name) for name in NAMES], "latin": [document(name.upper()) for name in NAMES]}


def owner(text: str) -> str:
    """Return the document that all words of a text are of."""
    (name,) = {word[:-1] for word in text.split()}
    return name


def test_a_passage_by_hand():
    """One passage: the context is its first four words, its last word is asked for."""
    texts = {"one": [f"a b c d, e f g{number}. The end" for number in range(4)]}
    settings = HeldOutSettings(questions=1, context_words=4, continuation_words=5)
    question = heldout_questions(texts | {"one": ["a b c d, e f gold. The end"] * 1 + texts["one"]}, settings)
    (row,) = question[CONTINUATION]
    assert row["context"] == "a b c d,"
    assert all(choice.startswith("e f g") and choice.endswith("The end") for choice in row["choices"])
    alone = HeldOutSettings(questions=1, context_words=2, continuation_words=5)
    words = {"one": [f"One two, {number} four gold; the end" for number in range(4)]}
    (row,) = heldout_questions(words, alone)[LAST_WORD]
    # "the" and "end" have too few letters, "gold" has four.
    assert (row["context"][:8], row["context"][-5:], row["target"]) == ("One two,", " four", " gold")


def test_the_true_continuation_goes_on_and_the_others_are_of_other_documents_of_the_source():
    rows = heldout_questions(TEXTS, SMALL)[CONTINUATION]
    assert Counter(row["source"] for row in rows) == {"greek": 8, "latin": 8}
    for row in rows:
        true = row["choices"][row["label"]]
        (text,) = [text for texts in TEXTS.values() for text in texts if f"{row['context']} {true}" in text]
        assert len(row["context"].split()) == 4
        owners = [owner(choice) for choice in row["choices"]]
        assert owners.count(owner(true)) == 1
        assert all(name.isupper() == (row["source"] == "latin") for name in owners)
        assert owner(true) == owner(text)


def test_every_document_is_asked_about_once_before_any_is_asked_about_twice():
    rows = heldout_questions(TEXTS, SMALL)[CONTINUATION][:8]
    assert sorted(Counter(owner(row["context"]) for row in rows).values()) == [1, 1, 1, 1, 2, 2]


def test_the_place_of_the_true_one_is_drawn_evenly():
    """200 draws among four: 50 each, within four deviations of 6.1."""
    texts = {"many": [f"{document(f'{number}x', 6)} ending" for number in range(200)]}
    rows = heldout_questions(texts, HeldOutSettings(questions=200, context_words=4, continuation_words=3))[CONTINUATION]
    assert all(abs(count - 50) < 25 for count in Counter(row["label"] for row in rows).values())
    assert len({choice for row in rows for choice in row["choices"]}) > 150


def test_equal_arguments_give_equal_questions_and_another_seed_others():
    assert heldout_questions(TEXTS, SMALL) == heldout_questions(TEXTS, SMALL)
    other = HeldOutSettings(questions=8, context_words=4, continuation_words=3, seed=1)
    assert heldout_questions(TEXTS, SMALL) != heldout_questions(TEXTS, other)


@pytest.mark.parametrize(
    ("texts", "expected"),
    [
        (["too short"] * 9, "9 held-out documents give 0 questions for heldout_last_word"),
        ([document("alpha") + " ending"], "1 held-out documents give 0 questions for heldout_continuation"),
        ([document("alpha") + " ending"] * 9, "9 held-out documents give 0 questions for heldout_continuation"),
    ],
)
def test_too_little_text_is_refused(texts: list[str], expected: str):
    settings = HeldOutSettings(questions=1, context_words=20, continuation_words=9)
    with pytest.raises(ValueError, match=f"source 'few': {expected}") as error:
        heldout_questions({"few": texts}, settings)
    assert "asked for questions=1; ask for fewer or shorter ones (context_words=20" in str(error.value)


HINDI = "यह किताब भाषाएँ सिखाती है और विद्यार्थी उसे पुस्तकालय में पढ़ते हैं जहाँ अनेक पुस्तकें मिलती हैं।"


def test_vowel_signs_are_parts_of_words():
    """The last word with four letters or more; its signs are no letters of a word of their own."""
    texts = {"hindi": [HINDI.replace("अनेक", word) for word in ("अनेक", "नई", "सब", "कुछ")]}
    settings = HeldOutSettings(questions=4, context_words=10, continuation_words=7)
    assert {row["target"] for row in heldout_questions(texts, settings)[LAST_WORD]} == {" मिलती"}


@pytest.mark.parametrize("make", [heldout_questions, in_context_questions])
def test_a_language_without_spaces_is_named(make):
    texts = {"chinese": ["中国是世界上人口最多的国家之一。历史悠久。"] * 9}
    with pytest.raises(ValueError, match=r"'chinese': its text has no spaces .* other tasks in evaluation.tasks"):
        make(texts, HeldOutSettings(questions=1))


def test_settings_must_be_positive():
    with pytest.raises(ValueError, match="context_words\n  Input should be greater than 0"):
        HeldOutSettings(context_words=0)


def test_texts_come_back_from_the_packed_corpus(tmp_path):
    texts = ["naïve café", "the cat", "東京 and a dog"]
    rows = [("validation", "one", text) for text in texts] + [("train", "one", "unseen"), ("validation", "two", "b")]
    documents = pd.DataFrame(rows, columns=["split", "source", "text"])
    corpus = tokenize_and_pack(documents, byte_tokenizer(), seed=0, folder=tmp_path / "corpus", progress=False)
    read = read_texts(corpus, byte_tokenizer(), "validation")
    assert sorted(read["one"]) == sorted(texts)
    assert read["two"] == ["b"]
