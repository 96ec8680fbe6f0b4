"""Questions made from held-out text, for where no benchmark can be downloaded."""

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import zip_longest
from statistics import fmean

import numpy as np
from transformers import PreTrainedTokenizerBase

from budwood.corpus.marks import letter_pattern
from budwood.corpus.packing import PackedCorpus
from budwood.evaluation.settings import CONTINUATION, LAST_WORD, NUM_CHOICES, HeldOutSettings

_MOST_TOKENS = 2**20
_LONGEST_WORD = 15
"""Characters of the words of a language on average, at most."""
# Passages among which those of other documents are looked for.
_NUM_DRAWS = 64

Question = dict[str, str | int | list[str]]
Questions = dict[str, list[Question]]
"""By task."""


@dataclass(frozen=True, slots=True)
class _Passage:
    document: int
    context: str
    continuation: str


def read_texts(corpus: PackedCorpus, tokenizer: PreTrainedTokenizerBase, split: str) -> dict[str, list[str]]:
    """Return the documents of a split by source; of a long source its first million tokens."""
    texts = {}
    for source in corpus.sources(split):
        tokens = corpus.text(split, source)[:-1][:_MOST_TOKENS]
        documents = np.split(tokens, np.flatnonzero(tokens == corpus.eos_token_id) + 1)
        texts[source] = [str(tokenizer.decode(ids, skip_special_tokens=True)) for ids in documents]
    return texts


def require_spaces(source: str, documents: Sequence[str]) -> None:
    """Check that a source has words to ask for.

    Raises:
        ValueError: its language has no spaces between words.
    """
    words = [word for text in documents for word in text.split()]
    if words and fmean(map(len, words)) > _LONGEST_WORD:
        raise ValueError(
            f"source {source!r}: its text has no spaces between words, for which heldout and in_context ask; name "
            "other tasks in evaluation.tasks, or [] for none"
        )


def heldout_questions(texts: Mapping[str, Sequence[str]], settings: HeldOutSettings) -> Questions:
    """Return the questions of both tasks, as many from every source; equal arguments give equal questions.

    `heldout_last_word` asks for the last word of a passage, as LAMBADA does (Paperno et al., 2016).
    `heldout_continuation` asks which of four texts continues a context, as HellaSwag does (Zellers et al., 2019);
    the wrong ones are how passages of other documents of the same source go on. All four are drawn alike, so a model
    that does not read the context is right once in four.

    Returns:
        For `heldout_last_word`: `source`, `context`, `target`; for `heldout_continuation`: `source`, `context`,
        `choices` and `label`, the place of the true one.

    Raises:
        ValueError: a source has too little text, or text without spaces between words.
    """
    questions: Questions = {LAST_WORD: [], CONTINUATION: []}
    for source, documents in texts.items():
        rng = np.random.default_rng(settings.seed)
        passages = _passages(documents, settings, rng)
        drawn = {
            LAST_WORD: [row for row in map(_last_word, passages) if row],
            CONTINUATION: [row for passage in passages if (row := _continuation(passage, passages, rng))],
        }
        for task, rows in drawn.items():
            if len(rows) < settings.questions:
                require_spaces(source, documents)
                raise ValueError(
                    f"source {source!r}: {len(documents)} held-out documents give {len(rows)} questions for {task}, "
                    f"asked for questions={settings.questions}; ask for fewer or shorter ones "
                    f"(context_words={settings.context_words}, continuation_words={settings.continuation_words}), or "
                    "hold out more text"
                )
            questions[task] += [{"source": source} | row for row in rows[: settings.questions]]
    return questions


def _passages(documents: Sequence[str], settings: HeldOutSettings, rng: np.random.Generator) -> list[_Passage]:
    """Cut documents into passages and shuffle them, with one of every document before the second of any."""
    cut = [list(_cut(number, text, settings)) for number, text in enumerate(documents)]
    for own in cut:
        rng.shuffle(own)
    rounds = [[passage for passage in passages if passage] for passages in zip_longest(*cut)]
    return [passages[index] for passages in rounds for index in rng.permutation(len(passages))]


def _cut(document: int, text: str, settings: HeldOutSettings) -> Iterator[_Passage]:
    words = list(re.finditer(r"\S+", text))
    length = settings.context_words + settings.continuation_words
    for first in range(0, len(words) - length + 1, length):
        begin, middle, end = first, first + settings.context_words, first + length
        context = text[words[begin].start() : words[middle - 1].end()]
        yield _Passage(document, context, text[words[middle].start() : words[end - 1].end()])


def _last_word(passage: _Passage) -> Question | None:
    """Return the question for the last word of a passage that can be asked for; None where there is none."""
    text = f"{passage.context} {passage.continuation}"
    # A whole word of letters between single spaces: what ends the passages of LAMBADA, without the function words.
    last_word = re.compile(rf"(?<=\S) {letter_pattern(text)}{{4,}}(?=[\s.,;:!?।]|$)")
    found = list(last_word.finditer(text, len(passage.context)))
    return {"context": text[: found[-1].start()], "target": found[-1].group()} if found else None


def _continuation(passage: _Passage, passages: Sequence[_Passage], rng: np.random.Generator) -> Question | None:
    """Return the question of how a passage continues; None where no three other continuations are found."""
    drawn = [passages[index] for index in rng.choice(len(passages), min(len(passages), _NUM_DRAWS), replace=False)]
    others = [
        other.continuation
        for other in drawn
        if other.document != passage.document and other.continuation != passage.continuation
    ]
    if len(others) < NUM_CHOICES - 1:
        return None
    label = int(rng.integers(NUM_CHOICES))
    choices = [*others[:label], passage.continuation, *others[label : NUM_CHOICES - 1]]
    return {"context": passage.context, "choices": choices, "label": label}
