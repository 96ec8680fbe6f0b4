"""What training forgets is measured on foreign text alone, before and after."""

from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
from corpora import tokenize_and_pack

from budwood.corpus.packing import PackedCorpus
from budwood.corpus.settings import CorpusSettings, SourceSettings
from budwood.evaluation.heldout import heldout_questions, read_texts
from budwood.evaluation.in_context import in_context_questions
from budwood.evaluation.settings import EvaluationSettings, HeldOutSettings
from budwood.models.teacher import byte_tokenizer
from budwood.records.teacher import SourceLoss
from budwood.study.evaluation import ScoreRun, build_questions, warn_of_guessing
from budwood.study.export import text_sources
from budwood.study.settings import MeasurementSettings
from budwood.study.stage import Workspace
from budwood.study.text import require_measured

SPLITS = ("train", "calibration", "selection", "choice", "validation")
MEASUREMENT = MeasurementSettings(length=8, calibration=1, selection=1, choice=1, validation=3, heldout=1)


def packed(folder, *foreign: str) -> PackedCorpus:
    """Return text of one source, and of others that are only measured."""
    rng = np.random.default_rng(0)
    where = [*((split, "one") for split in SPLITS), *(("foreign", name) for name in foreign)]
    rows = [(*place, "".join(rng.choice(list("abcde "), 90))) for place in where for _ in range(2)]
    documents = pd.DataFrame(rows, columns=["split", "source", "text"])
    return tokenize_and_pack(documents, byte_tokenizer(), seed=0, folder=folder, progress=False)


@pytest.fixture
def score(materials, stages, tmp_path) -> ScoreRun:
    """Return the score of a run on a made-up foreign source."""
    (found,) = [stage for stage in stages if isinstance(stage, ScoreRun)]
    tokens = packed(tmp_path / "tokens", "made_up")
    return replace(found, tokens=tokens, validation=3, start=materials.teacher)


def test_foreign_text_is_scored_before_and_after(score: ScoreRun, tmp_path) -> None:
    """The model is its own start here, so nothing is forgotten; each of three readings is charged."""
    found = Workspace(folder=tmp_path).finish(score)
    assert set(found.score.losses) == {"one"}, "the loss that arms are compared by is that of the study's text"
    assert found.score.foreign == found.score.foreign_before
    assert {name: len(losses) for name, losses in found.score.foreign.items()} == {"made_up": 3}
    assert found.costs[0].tokens == 3 * 3 * 8
    random = Workspace(folder=tmp_path).finish(replace(score, start=None))
    assert random.score.foreign == found.score.foreign
    assert random.score.foreign_before == {}
    assert random.costs[0].tokens == 2 * 3 * 8


def test_a_study_without_foreign_text_measures_none(score: ScoreRun, tmp_path) -> None:
    tokens = packed(tmp_path / "plain")
    require_measured(tokens, MEASUREMENT)
    found = Workspace(folder=tmp_path).finish(replace(score, tokens=tokens)).score
    assert found.foreign == found.foreign_before == {}


def test_too_little_foreign_text_is_refused(tmp_path) -> None:
    tokens = packed(tmp_path / "tokens", "made_up")
    require_measured(tokens, MEASUREMENT)
    *others, last = tokens.segments
    short = replace(tokens, segments=(*others, replace(last, start=last.stop - 9)))
    with pytest.raises(ValueError, match="'foreign'"):
        require_measured(short, MEASUREMENT)


def test_a_foreign_source_needs_no_weight_and_is_no_origin_of_a_model() -> None:
    own = SourceSettings(path="own.txt", splits=dict.fromkeys(SPLITS, 0.2), weight=2.0, license="MIT")
    foreign = SourceSettings(path="foreign.txt", splits={"foreign": 1.0, "train": 0.0}, license="none")
    corpus = CorpusSettings(sources={"own": own, "foreign": foreign})
    assert [source.name for source in text_sources(corpus)] == ["own"]
    assert foreign.is_foreign
    assert not own.is_foreign


@pytest.mark.parametrize(("loss", "warns"), [(4.15, False), (4.16, True), (float("nan"), True)])
def test_a_teacher_that_only_guesses_is_warned_of(caplog, loss, warns):
    """The logarithm of 64 is 4.1589; foreign text does not count."""
    row = SourceLoss(
        split="validation",
        source="mine",
        tokens=1,
        perplexity=1.0,
        loss=loss,
        standard_error=0.0,
        bits_per_byte=1.0,
        bits_per_byte_standard_error=0.0,
    )
    warn_of_guessing([row.model_copy(update={"split": "foreign", "loss": 0.1}), row], 64)
    assert ("4.159" in caplog.text) == warns


def test_the_first_questions_are_of_all_sources(tmp_path) -> None:
    """Each task has as many questions of every source as without turns, in the same order."""
    words = [f"{first}{second}word" for first in "abcdefgh" for second in "klmnop"]
    rows = [
        ("validation", name, " ".join([name, *words[place:], *words[:place]]))
        for name in ("first", "second", "third")
        for place in range(6)
    ]
    documents = pd.DataFrame(rows, columns=["split", "source", "text"])
    tokens = tokenize_and_pack(documents, byte_tokenizer(), seed=0, folder=tmp_path / "tokens", progress=False)
    settings = HeldOutSettings(questions=4, context_words=5, continuation_words=3)
    evaluation = EvaluationSettings(tasks=("heldout", "in_context"), heldout=settings)
    teacher = SimpleNamespace(load_tokenizer=byte_tokenizer)
    found = build_questions(tokens, teacher, evaluation)
    texts = read_texts(tokens, byte_tokenizer(), "validation")
    expected = heldout_questions(texts, settings) | in_context_questions(texts, settings)
    assert found.keys() == expected.keys()
    for task, questions in found.items():
        assert [row["source"] for row in questions] == ["first", "second", "third"] * 4
        assert sorted(questions, key=lambda row: row["source"]) == expected[task]
