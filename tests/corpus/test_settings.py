"""Settings of text are checked before anything is read."""

from typing import get_args

import pytest

from budwood.corpus.files import SUFFIXES
from budwood.corpus.settings import CorpusSettings, Format, SourceSettings

ALL_TRAIN = {"train": 1.0}


def corpus(**sources):
    return CorpusSettings(sources={name: {"path": "x", "splits": ALL_TRAIN} | facts for name, facts in sources.items()})


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"dataset": "a/b"}, "source 's' needs exactly one of path and dataset"),
        ({"path": None}, "exactly one of path and dataset"),
        ({"path": []}, "exactly one of path and dataset"),
        ({"format": "docx"}, "Input should be 'text', 'lines', 'jsonl', 'csv', 'parquet' or 'json'"),
        ({"on_error": "ignore"}, "Input should be 'stop' or 'skip'"),
        ({"max_documents": 0}, "greater than 0"),
        ({"max_tokens": {"validation": 5}}, r"max_tokens=.*; allowed are numbers of at least 1 for \['train'\]"),
        ({"max_tokens": {"train": 0}}, r"max_tokens=\{'train': 0\}"),
        ({"weight": 0.0}, "greater than 0"),
        ({"weight": float("nan")}, "finite number"),
        ({"document_start": "("}, r"document_start='\(': missing \)"),
        ({"splits": {"train": 0.9}}, "sum to 1"),
    ],
)
def test_impossible_sources_are_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        corpus(s=changes)


def test_sources_have_the_names_of_their_keys_and_null_takes_one_away():
    settings = CorpusSettings(sources={"a": {"path": "x", "splits": ALL_TRAIN}, "b": None})
    assert [source.name for source in settings.sources.values()] == ["a"]
    renamed = CorpusSettings(sources={"c": settings.sources["a"]})
    assert renamed.sources["c"].name == "c"
    with pytest.raises(ValueError, match="at least 1 item"):
        CorpusSettings(sources={"b": None})


def test_one_path_is_a_list_of_one():
    assert SourceSettings(path="x", splits=ALL_TRAIN) == SourceSettings(path=["x"], splits=ALL_TRAIN)
    assert SourceSettings(path=["x", "y"], splits=ALL_TRAIN).path == ("x", "y")


def test_all_sources_have_a_weight_or_none():
    assert corpus(a={"weight": 1}, b={"weight": 3}).weights == {"a": 1.0, "b": 3.0}
    with pytest.raises(ValueError, match=r"without one are \['b'\]"):
        corpus(a={"weight": 1}, b={})


def test_every_format_has_suffixes():
    assert set(SUFFIXES) == set(get_args(Format))
