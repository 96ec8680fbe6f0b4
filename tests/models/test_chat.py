"""A card says whether a child still answers, whatever its teacher's template is like."""

import pytest
from teachers import tiny_teacher

from budwood.models.chat import MAX_TOKENS, QUESTION, ask_question
from budwood.models.teacher import byte_tokenizer

TEMPLATE = "{% for m in messages %}{{ m.content }}{% endfor %}"


def described(template):
    tokenizer = byte_tokenizer()
    tokenizer.chat_template = template
    return ask_question(tiny_teacher("llama", tied=True, vocab_size=257), tokenizer)


def test_without_a_template_there_is_nothing_to_say():
    asked = described(None)
    assert (asked.description, asked.num_tokens) == (None, 0)


def test_a_template_is_tried():
    asked = described(TEMPLATE)
    assert "ends its answer after" in asked.description or "does not end its answer" in asked.description
    assert len(QUESTION) < asked.num_tokens <= MAX_TOKENS


@pytest.mark.parametrize(
    ("template", "reason"),
    [
        ("{% for m in messages %}{{ m", "unexpected end of template"),
        ("{{ raise_exception('a system message is needed') }}", "a system message is needed"),
        ("{{ messages[7].content }}", "list object has no element 7"),
        ({"tools": TEMPLATE}, "multiple chat templates"),
    ],
)
def test_a_template_that_fails_is_described_and_stops_nothing(template, reason):
    asked = described(template)
    assert "does not format a question by itself: " in asked.description
    assert reason in asked.description
    assert asked.num_tokens == 0
