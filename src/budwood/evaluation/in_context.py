"""Questions whose answers are in their context alone: copying and associative recall, in words of held-out text."""

import re
from collections.abc import Mapping, Sequence

import numpy as np

from budwood.corpus.marks import letter_pattern
from budwood.evaluation.heldout import Question, Questions, require_spaces
from budwood.evaluation.settings import COPIED_WORDS, COPY, NUM_CHOICES, RECALL, RECALLED_PAIRS, HeldOutSettings


def in_context_questions(texts: Mapping[str, Sequence[str]], settings: HeldOutSettings) -> Questions:
    """Return the questions of both tasks, as many from every source; equal arguments give equal questions.

    `heldout_copy` gives words in random order, then the first of them again, and asks which comes next.
    `heldout_recall` gives pairs of words, then the first word of one pair, and asks for the second (Olsson et al.,
    2022; Arora et al., 2023). All four choices are words that the context has once, so a model that does not look them
    up is right once in four, however well it knows the language.

    Returns:
        `source`, `context`, `choices` and `label`, the place of the true one.

    Raises:
        ValueError: a source has too few different words, or text without spaces between them.
    """
    questions: Questions = {COPY: [], RECALL: []}
    for source, documents in texts.items():
        found = {word for text in documents for word in re.findall(rf"{letter_pattern(text)}{{4,}}", text)}
        words = np.array(sorted(found))
        if len(words) < max(COPIED_WORDS, 2 * RECALLED_PAIRS):
            require_spaces(source, documents)
            raise ValueError(
                f"source {source!r}: its held-out documents have {len(words)} different words of four letters or more, "
                f"and {COPY} and {RECALL} need {max(COPIED_WORDS, 2 * RECALLED_PAIRS)}; hold out more text"
            )
        rng = np.random.default_rng(settings.seed)
        for task, ask in ((COPY, _copy), (RECALL, _recall)):
            questions[task] += [{"source": source} | ask(words, rng) for _ in range(settings.questions)]
    return questions


def _copy(words: np.ndarray, rng: np.random.Generator) -> Question:
    drawn = [str(word) for word in rng.choice(words, COPIED_WORDS, replace=False)]
    # As many choices are left that were not given twice.
    given = int(rng.integers(2, COPIED_WORDS - NUM_CHOICES + 1))
    others = rng.choice(drawn[given + 1 :], NUM_CHOICES - 1, replace=False).tolist()
    return _question(f"{' '.join(drawn)}\n{' '.join(drawn[:given])}", drawn[given], others, rng)


def _recall(words: np.ndarray, rng: np.random.Generator) -> Question:
    drawn = [str(word) for word in rng.choice(words, 2 * RECALLED_PAIRS, replace=False)]
    keys, values = drawn[:RECALLED_PAIRS], drawn[RECALLED_PAIRS:]
    asked = int(rng.integers(RECALLED_PAIRS))
    lines = [f"{key}: {value}" for key, value in zip(keys, values, strict=True)]
    others = rng.choice([*values[:asked], *values[asked + 1 :]], NUM_CHOICES - 1, replace=False).tolist()
    return _question("\n".join([*lines, f"{keys[asked]}:"]), values[asked], others, rng)


def _question(context: str, true: str, others: Sequence[str], rng: np.random.Generator) -> Question:
    label = int(rng.integers(NUM_CHOICES))
    return {"context": context, "choices": [*others[:label], true, *others[label:]], "label": label}
