"""What a person may hand to the Python library by mistake is refused by the name of the argument."""

from pathlib import Path
from types import SimpleNamespace

import pytest

from budwood.study.arguments import as_checkpoint, named_bins
from budwood.study.door import open_study
from budwood.study.settings import BinSettings
from budwood.study.sizes import within


@pytest.mark.parametrize(
    ("size", "expected"),
    [
        (0.45, BinSettings(fraction=0.45)),
        (1, BinSettings(fraction=1)),
        (67_000_000, BinSettings(center=67_000_000)),
        (BinSettings(low=5, high=9), BinSettings(low=5, high=9)),
    ],
)
def test_a_bin_is_a_share_or_a_number_of_parameters(size, expected):
    assert named_bins({"half": size}) == {"half": expected}


@pytest.mark.parametrize("size", ["0.5", None, True, 0, -1, 1.5, float("nan"), float("inf")])
def test_anything_else_is_no_bin(size):
    number = isinstance(size, int | float) and size is not True
    with pytest.raises(
        ValueError if number else TypeError, match=r"bins\['half'\]=.* must be a share of the teacher's parameters"
    ):
        named_bins({"half": size})


@pytest.mark.parametrize("bins", [0.5, ["half"], None])
def test_bins_have_names(bins):
    with pytest.raises(TypeError, match=r"bins=.* must be sizes by name, such as \{'half': 0.5\}"):
        named_bins(bins)


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"teacher": None}, "teacher=None must be a hub id, a path, or TeacherSettings"),
        ({"texts": "a.txt"}, "texts='a.txt' must be texts by name, such as {'mine': 'texts/*.txt'}"),
        ({"texts": ["a.txt"]}, "texts=['a.txt'] must be texts by name"),
        ({"texts": {"mine": 3}}, "texts['mine']=3 must be a path or SourceSettings"),
        ({"folder": 3}, "folder=3 must be a path"),
        ({"measurement": {"length": 64}}, "measurement={'length': 64} must be MeasurementSettings(...)"),
        ({"engine": {}}, "engine={} must be Engine(...)"),
        ({"track": 3}, "track=3 must be a function of metrics and a step"),
    ],
)
def test_a_study_is_opened_with_paths(changes, expected, tmp_path):
    with pytest.raises(TypeError) as error:
        open_study(**{"teacher": tmp_path, "texts": {"mine": "a.txt"}, "folder": tmp_path / "study"} | changes)
    assert str(error.value).startswith(expected)
    assert not list(tmp_path.iterdir()), "before anything is written"


def test_the_ending_of_a_text_gives_its_format(tmp_path, monkeypatch):
    seen = {}
    monkeypatch.setattr("budwood.study.door.fetch_source", lambda *_: SimpleNamespace())

    def trim(_fetched, _size, corpus, *_rest):
        seen.update({source.name: source.format for source in corpus.sources.values()})
        raise StopIteration

    monkeypatch.setattr("budwood.study.door.trim", trim)
    texts = {"rows": Path("a.jsonl"), "packed": "b/*.jsonl.zst", "table": "c.parquet", "files": "d/*.txt", "all": "e"}
    texts |= {"upper": "f/*.JSONL", "lines": "g/*.jsonlines", "both": "h.Jsonl.GZ"}
    with pytest.raises(StopIteration):
        open_study(tmp_path, texts, folder=tmp_path)
    assert [name for name, found in seen.items() if found == "jsonl"] == ["rows", "packed", *list(texts)[-3:]]
    assert {name: found for name, found in seen.items() if found != "jsonl"} == {
        "table": "parquet",
        "files": "text",
        "all": "text",
    }


@pytest.mark.parametrize("size", [0.5, 255.5, "4", 0, 9])
def test_sizes_are_whole_numbers_that_the_teacher_has(size):
    with pytest.raises(ValueError, match=f"hidden_size={size} must be a whole number between 1 and 8"):
        within("hidden_size", size, 8)


def test_a_checkpoint_is_given_as_such_or_by_its_folder(tmp_path):
    with pytest.raises(TypeError, match="start=3 must be a Checkpoint or the folder of one"):
        as_checkpoint("start", 3)
    with pytest.raises(ValueError, match="is no checkpoint folder"):
        as_checkpoint("start", tmp_path)
