"""A tokenizer of many words, and portions of few documents."""

import pytest
from corpora import NUM_WORDS, SMALL
from transformers import PreTrainedTokenizerFast
from words import make_tokenizer


@pytest.fixture(scope="session")
def word_tokenizer() -> PreTrainedTokenizerFast:
    return make_tokenizer(NUM_WORDS)


@pytest.fixture
def small_portions(monkeypatch: pytest.MonkeyPatch) -> None:
    for module, name, value in SMALL:
        monkeypatch.setattr(module, name, value)
