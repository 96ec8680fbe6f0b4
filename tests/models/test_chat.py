"""A card says whether a child still answers, whatever its teacher's template is like."""

import pytest
from teachers import tiny_teacher

from budwood.models.chat import describe_chat
from budwood.models.teacher import byte_tokenizer

TEMPLATE = "{% for m in messages %}{{ m.content }}{% endfor %}"


def described(template):
    tokenizer = byte_tokenizer()
    tokenizer.chat_template = template
    return describe_chat(tiny_teacher("llama", tied=True, vocab_size=257), tokenizer)


def test_without_a_template_there_is_nothing_to_say():
    assert described(None) is None


def test_a_template_is_tried():
    assert "ends its answer after" in described(TEMPLATE) or "does not end its answer" in described(TEMPLATE)


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
    assert "does not format a question by itself: " in described(template)
    assert reason in described(template)
