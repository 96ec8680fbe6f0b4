"""What a study asks of its text."""

import logging

import pandas as pd
import pytest
from corpora import tokenize_and_pack

from budwood.corpus.ingestion import tokenize_sources
from budwood.corpus.settings import CorpusSettings, SourceSettings
from budwood.models.teacher import byte_tokenizer
from budwood.study.settings import MeasurementSettings
from budwood.study.text import require_measured, require_sources, require_text
from budwood.training.settings import Schedule

MEASURED = MeasurementSettings(length=8, calibration=1, elimination=1, selection=1, choice=1, validation=1, heldout=1)


def test_a_refit_needs_text_of_the_calibration_split(tmp_path):
    """Two sequences of eight tokens are there."""
    rows = [
        {"source": "one", "split": split, "text": split + "y" * 8}
        for split in ("train", "calibration", "selection", "choice", "validation")
    ]
    corpus = tokenize_and_pack(pd.DataFrame(rows), byte_tokenizer(), seed=0, folder=tmp_path, progress=False)
    require_measured(corpus, MEASURED.changed({"refit": 2}))
    with pytest.raises(ValueError, match="calibration"):
        require_measured(corpus, MEASURED.changed({"refit": 3}))


@pytest.mark.parametrize(
    ("tokens", "expected"),
    [(16 * 8 * 4, None), (16 * 8 * 4 + 8, "4 times"), (16 * 80, "10 times"), (16 * 8 * 10**12, "1000000000000 times")],
)
def test_training_that_reads_its_text_often_is_warned_of(tokens, expected, tmp_path, caplog):
    """Sixteen sequences of eight tokens: text that is read up to four times is almost as good as new.

    No order of all readings is drawn for that.
    """
    texts = {"train": "x" * (16 * 8 - len("train"))} | dict.fromkeys(
        ("calibration", "selection", "choice", "validation"), "y" * 40
    )
    rows = [{"source": "one", "split": split, "text": split + text} for split, text in texts.items()]
    corpus = tokenize_and_pack(pd.DataFrame(rows), byte_tokenizer(), seed=0, folder=tmp_path, progress=False)
    schedule = Schedule(tokens=tokens, sequence_length=8, global_batch=1, micro_batch=1, peak_learning_rate=1e-3)
    with caplog.at_level(logging.WARNING):
        require_text(corpus, MEASURED, schedule)
    assert [expected in text for text in caplog.messages] == ([] if expected is None else [True])


@pytest.mark.parametrize("names", [("news", "held"), ("held", "news")])
def test_a_source_whose_texts_are_all_in_one_before_it_is_named(names, tmp_path):
    """Text that only measures would be missing from every table; named first, it is taken from the training text."""
    splits = {"news": {"train": 1.0}, "held": {"validation": 1.0}}
    texts = {"news": "one\ntwo\nthree\n", "held": "two\nthree\n"}
    sources = {}
    for name in names:
        (tmp_path / f"{name}.txt").write_text(texts[name])
        sources[name] = SourceSettings(path=(f"{name}.txt",), format="lines", splits=splits[name])
    corpus = CorpusSettings(sources=sources)
    tokens = tokenize_sources(corpus, byte_tokenizer(), folder=tmp_path / "tokens", root=tmp_path, progress=False)
    if names[0] == "held":
        require_sources(tokens, corpus.sources)
        assert [(part.split, part.documents) for part in tokens.segments] == [("train", 1), ("validation", 2)]
        return
    with pytest.raises(
        ValueError, match=r"corpus\.sources: all texts of held are in other sources too, which keep them"
    ):
        require_sources(tokens, corpus.sources)
