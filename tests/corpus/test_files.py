"""Files are found wherever they are, and none that is meant is passed over."""

import gzip
import json
import os
import re
from functools import partial
from http.server import SimpleHTTPRequestHandler
from unittest.mock import patch

import fsspec
import pytest
from documents import NOWHERE, changed, read, source, texts, write_jsonl
from fsspec.implementations.memory import MemoryFileSystem
from servers import serving

from budwood.corpus.documents import SourceReader


def test_links_to_folders_are_followed_once(tmp_path):
    inside, outside = tmp_path / "inside", tmp_path / "outside"
    for folder in (inside / "a", outside / "deep"):
        folder.mkdir(parents=True)
        (folder / "x.txt").write_text(folder.name)
    (inside / "loop").symlink_to(inside)
    (inside / "a" / "up").symlink_to(inside)
    (inside / "link").symlink_to(outside)
    (inside / "twice").symlink_to(outside)
    (inside / "y.txt").symlink_to(outside / "deep" / "x.txt")
    for path in (inside, inside / "**" / "*.txt"):
        assert [document.id for document in read(source(path=str(path)))] == ["a/x.txt", "link/deep/x.txt", "y.txt"]
    assert texts(source(path=str(inside / "*" / "x.txt"))) == ["a"]
    assert texts(source(path=str(inside / "link" / "*" / "*"))) == ["deep"]


def test_endings_are_compared_in_either_case(tmp_path):
    lines = [json.dumps({"text": name}).encode() for name in ("one", "two", "three", "four")]
    (tmp_path / "a.jsonl").write_bytes(lines[0])
    (tmp_path / "B.JSONL").write_bytes(lines[1])
    (tmp_path / "c.jsonl.GZ").write_bytes(gzip.compress(lines[2]))
    (tmp_path / "d.jsonLines").write_bytes(lines[3])
    (tmp_path / "e.TSV").write_bytes(b"id\ttext\n1\tfive, six\n")
    assert sorted(texts(source(path=str(tmp_path), format="jsonl"))) == ["four", "one", "three", "two"]
    assert texts(source(path=str(tmp_path), format="csv")) == ["five, six"]


def test_a_folder_that_may_not_be_read_is_an_error(tmp_path, monkeypatch):
    (tmp_path / "locked").mkdir()
    (tmp_path / "a.txt").write_text("one")
    scan = os.scandir

    def refuse(path):
        if str(path).endswith("locked"):
            raise PermissionError(13, "Permission denied", str(path))
        return scan(path)

    monkeypatch.setattr(os, "scandir", refuse)
    for path in (tmp_path, tmp_path / "**" / "*.txt", tmp_path / "locked" / "b.txt"):
        with pytest.raises(
            ValueError, match=rf"path='{re.escape(str(path))}' cannot be read: .*Permission denied: '{tmp_path}/lo"
        ):
            texts(source(path=str(path)))
    assert texts(source(path=str(tmp_path / "*.txt"))) == ["one"], "and none where it is not looked into"


def test_what_is_no_file_is_refused_before_it_is_opened(tmp_path):
    os.mkfifo(tmp_path / "pipe.txt")  # opening it would wait for ever
    for path in (tmp_path, tmp_path / "*.txt"):
        with pytest.raises(ValueError, match=f"{tmp_path}/pipe.txt is no file"):
            texts(source(path=str(path)))
    (tmp_path / "pipe.txt").unlink()
    (tmp_path / "a.txt").mkdir()
    (tmp_path / "a.txt" / "b.txt").write_text("one")
    assert texts(source(path=str(tmp_path))) == texts(source(path=str(tmp_path / "a.txt"))) == ["one"]
    with pytest.raises(ValueError, match="no file is found at"):
        texts(source(path=str(tmp_path / "*.txt")))
    (tmp_path / "c.txt").symlink_to(tmp_path / "absent")
    with pytest.raises(ValueError, match=r"No such file or directory: .*c\.txt"):
        texts(source(path=str(tmp_path)))


def test_a_file_that_changes_while_it_is_read_is_an_error(tmp_path):
    path = write_jsonl(tmp_path / "a.jsonl", [{"text": "one"}, {"text": "two"}])
    documents = iter(SourceReader(source(path=path, format="jsonl"), NOWHERE))
    next(documents)
    write_jsonl(tmp_path / "a.jsonl", [{"text": "one"}, {"text": "six"}])
    os.utime(path, (0, 0))  # two changes at once would have one date
    with pytest.raises(ValueError, match=r"a.jsonl:\d cannot be read as format='jsonl': it changed while it was read"):
        list(documents)


def test_paths_here_and_urls_may_be_mixed(tmp_path):
    (tmp_path / "a.txt").write_text("one")
    (tmp_path / "ab").mkdir()
    (tmp_path / "ab" / "a.txt").write_bytes(b"\xff")
    fsspec.filesystem("memory").pipe("/mixed/b.txt", b"two")
    try:
        of = source(path=[str(tmp_path / "a.txt"), "memory://mixed", f"file://{tmp_path}/ab"], on_error="skip")
        reader = SourceReader(of, NOWHERE)
        assert [document.text for document in reader] == ["one", "two"]
        assert reader.faults[0].startswith(f"{tmp_path}/ab/a.txt cannot be read as format='text': 'utf-8'")
        assert len({document.id for document in read(of)}) == 2
    finally:
        fsspec.filesystem("memory").rm("/mixed", recursive=True)


def test_names_begin_below_the_folder_that_all_files_share(tmp_path):
    for name in ("ab", "ac"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "x.tsv").write_text(f"n\ttext\n1\t{name}, or so\n")
    documents = read(source(path=[str(tmp_path / name) for name in ("ab", "ac")], format="csv"))
    assert [(document.id, document.text) for document in documents] == [
        ("ab/x.tsv:2", "ab, or so"),
        ("ac/x.tsv:2", "ac, or so"),
    ]


def test_files_and_folders_of_a_server_are_told_apart(tmp_path):
    """Its answer for a folder, a page with links, could be read as a file."""
    write_jsonl(tmp_path / "a.jsonl", [{"text": "<a href='b.jsonl'>one</a>"}])
    (tmp_path / "b.jsonl").write_text('{"text": "two"}\n{"te')
    handler = partial(SimpleHTTPRequestHandler, directory=str(tmp_path))
    with patch.object(SimpleHTTPRequestHandler, "log_message"), serving(handler) as address:
        of = source(path=f"{address}/a.jsonl", format="jsonl")
        assert texts(of) == ["<a href='b.jsonl'>one</a>"]
        for path in ("/", "/*.jsonl"):
            assert len(texts(changed(of, path=address + path, on_error="skip"))) == 2
        with pytest.raises(ValueError, match=f"source 's': {address}/b.jsonl:2 cannot be read"):
            texts(changed(of, path=f"{address}/b.jsonl"))
        with pytest.raises(ValueError, match=f"no file is found at {address}/c.jsonl"):
            texts(changed(of, path=f"{address}/c.jsonl"))


@pytest.mark.parametrize("method", ["isfile", "find", "info", "open"])
def test_whatever_a_file_system_raises_is_an_error_with_its_source(monkeypatch, method):
    memory = fsspec.filesystem("memory")
    memory.pipe("/faulty/b.txt", b"two")

    def fail(*_arguments, **_options):
        raise RuntimeError("credentials expired")

    monkeypatch.setattr(MemoryFileSystem, method, fail)
    try:
        with pytest.raises(ValueError, match=r"source 's': .*memory:/.*faulty.* cannot be read.*: credentials expired"):
            texts(source(path="memory://faulty"))
    finally:
        monkeypatch.undo()
        memory.rm("/faulty", recursive=True)
