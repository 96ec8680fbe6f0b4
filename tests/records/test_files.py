"""Files and folders are written whole or not at all; JSON lines survive kills, and damage is named."""

import os
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from budwood.records.files import (
    append_json_lines,
    check_links,
    read_json,
    read_json_lines,
    write_atomically,
    write_file_atomically,
    write_folder_atomically,
    write_json,
    write_json_lines,
)

ROWS = [{"step": step, "name": "\N{LATIN SMALL LETTER U WITH DIAERESIS}\n", "loss": [0.1, None]} for step in range(3)]


@given(st.data())
@settings(max_examples=60)
def test_a_file_torn_anywhere_keeps_its_complete_lines_and_grows_on(data):
    with TemporaryDirectory() as folder:
        file = Path(folder) / "rows.jsonl"
        append_json_lines(file, ROWS)
        whole = file.read_bytes()
        torn = whole[: data.draw(st.integers(0, len(whole)))]
        file.write_bytes(torn)
        complete = torn.count(b"\n")
        assert read_json_lines(file) == ROWS[:complete]
        assert file.read_bytes() == torn, "reading changes nothing"
        append_json_lines(file, ROWS[complete:])
        assert file.read_bytes() == whole


def test_a_file_is_replaced_whole_or_stays(tmp_path):
    file = tmp_path / "new/folder/value.bin"
    with write_file_atomically(file) as partial:
        partial.write_bytes(b"first")
        assert not file.exists()

    def fail() -> None:
        with write_file_atomically(file) as partial:
            partial.write_bytes(b"half of the")
            raise ArithmeticError

    with pytest.raises(ArithmeticError):
        fail()
    assert list(file.parent.iterdir()) == [file]
    assert file.read_bytes() == b"first"


def test_several_processes_can_write_a_file_at_once(tmp_path, monkeypatch):
    file = tmp_path / "value.bin"
    with write_file_atomically(file, shared=True) as one:
        one.write_bytes(b"one")
        monkeypatch.setattr(os, "getpid", lambda: 1)
        with write_file_atomically(file, shared=True) as other:
            other.write_bytes(b"other")
        assert (one.read_bytes(), file.read_bytes()) == (b"one", b"other")
    assert file.read_bytes() == b"one"
    assert list(tmp_path.iterdir()) == [file]


def test_no_file_has_no_rows(tmp_path):
    assert read_json_lines(tmp_path / "absent.jsonl") == []


@pytest.mark.parametrize("line", ["no JSON", "[1]", '{"a": ', "", "\xff"])
def test_damage_is_named(line, tmp_path):
    file = tmp_path / "rows.jsonl"
    write_json_lines(file, ROWS[:2])
    first, second = file.read_text().splitlines()
    file.write_text(f"{first}\n{line}\n{second}\n", encoding="latin-1")
    with pytest.raises(ValueError, match=r"rows\.jsonl, line 2, is damaged .*remove the file to start again"):
        read_json_lines(file)


@pytest.mark.parametrize(("before", "after"), [("0.1", "0.2"), ('"step": 1', '"step": 7'), ("sha256", "sha265")])
def test_a_value_that_was_altered_is_noticed(before, after, tmp_path):
    file = tmp_path / "rows.jsonl"
    append_json_lines(file, ROWS)
    lines = file.read_text().splitlines()
    file.write_text("\n".join([lines[0], lines[1].replace(before, after), lines[2], ""]))
    with pytest.raises(ValueError, match=r"line 2, is damaged \(it has changed since it was written\)"):
        read_json_lines(file)
    write_json(tmp_path / "value.json", ROWS)
    assert read_json(tmp_path / "value.json") == ROWS
    content = (tmp_path / "value.json").read_text()
    (tmp_path / "value.json").write_text(content.replace(before, after))
    with pytest.raises(ValueError, match=r"value\.json is damaged \(it has changed since it was written\): remove it"):
        read_json(tmp_path / "value.json")


def test_a_line_for_which_there_is_no_room_is_an_error(tmp_path, monkeypatch):
    file = tmp_path / "rows.jsonl"
    append_json_lines(file, ROWS[:1])

    def full(_descriptor):
        raise OSError(28, os.strerror(28))

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match=r"cannot write .*rows\.jsonl: No space left.*run again to continue"):
        append_json_lines(file, ROWS[1:])


def test_a_file_and_its_folder_are_written(tmp_path):
    for text in ("one", "twö"):
        write_atomically(tmp_path / "deep" / "file", text)
        assert (tmp_path / "deep" / "file").read_text(encoding="utf-8") == text
    assert [path.name for path in (tmp_path / "deep").iterdir()] == ["file"]


def test_a_file_is_replaced_whole_or_stays_as_it_was(tmp_path, monkeypatch):
    file = tmp_path / "new folder" / "file.json"
    write_atomically(file, "old")
    assert [path.name for path in file.parent.iterdir()] == ["file.json"]

    def torn(self, text, encoding):
        with self.open("w", encoding=encoding) as stream:
            stream.write(text[:1])
        raise OSError("no space left")

    with monkeypatch.context() as patch:
        patch.setattr(Path, "write_text", torn)
        with pytest.raises(OSError, match="no space left"):
            write_atomically(file, "new")
    assert file.read_text() == "old"
    write_atomically(file, "née")
    assert file.read_text(encoding="utf-8") == "née"


def test_a_folder_replaces_another(tmp_path):
    for name in ("one", "two"):
        with write_folder_atomically(tmp_path / "target") as folder:
            (folder / name).touch()
            assert not (tmp_path / "target" / name).exists()
    assert [path.name for path in tmp_path.rglob("*")] == ["target", "two"]


def test_an_error_leaves_the_old_folder(tmp_path):
    with write_folder_atomically(tmp_path / "target") as folder:
        (folder / "old").touch()
    with pytest.raises(FileNotFoundError), write_folder_atomically(tmp_path / "target") as folder:
        (folder / "new").rename(folder / "none")
    assert [path.name for path in tmp_path.rglob("*")] == ["target", "old"]


@pytest.mark.parametrize(("umask", "mode"), [(0o022, 0o644), (0o077, 0o600), (0o002, 0o664)])
def test_files_follow_the_umask(tmp_path, umask, mode):
    before = os.umask(umask)
    try:
        with write_folder_atomically(tmp_path / "target") as folder:
            os.close(os.open(folder / "private", os.O_CREAT | os.O_WRONLY, 0o600))
    finally:
        os.umask(before)
    assert (tmp_path / "target" / "private").stat().st_mode & 0o777 == mode


def test_links_inside_a_folder_and_folders_behind_links_are_allowed(tmp_path):
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "a").touch()
    (tmp_path / "folder" / "b").symlink_to("a")
    (tmp_path / "alias").symlink_to("folder")
    check_links(tmp_path / "alias")


def test_links_into_homes_that_are_named_and_hidden_ones_are_allowed(tmp_path):
    (tmp_path / "folder" / ".cache").mkdir(parents=True)
    (tmp_path / "folder" / ".cache" / "a").symlink_to("/etc/hostname")
    (tmp_path / "folder" / "b").symlink_to(tmp_path / "store" / "b")
    check_links(tmp_path / "folder", [tmp_path / "store"])


@pytest.mark.parametrize("place", ["../outside", "/etc/hostname", "../blobs/x"])
def test_links_that_lead_out_are_refused(tmp_path, place):
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "a").symlink_to(place)
    with pytest.raises(ValueError, match="out of its folder: copy the file there"):
        check_links(tmp_path / "folder")


@pytest.mark.parametrize("content", ["", "{", '{"a": 1', "\x00"])
def test_a_damaged_json_file_is_named_with_what_to_do(tmp_path, content):
    file = tmp_path / "state.json"
    file.write_text(content)
    with pytest.raises(ValueError, match=rf"{file} is damaged \(.*\): remove it and run again to rebuild it"):
        read_json(file)
    write_json(file, {"a": 1})
    assert read_json(file) == {"a": 1}
