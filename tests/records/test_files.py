"""JSON lines survive kills, and damage is named."""

import json
import os
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from budwood.records.files import append_json_lines, read_json_lines

ROWS = [{"step": step, "name": "\N{LATIN SMALL LETTER U WITH DIAERESIS}\n", "loss": [0.1, None]} for step in range(3)]


@given(st.data())
@settings(max_examples=60, deadline=None)
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


def test_no_file_has_no_rows(tmp_path):
    assert read_json_lines(tmp_path / "absent.jsonl") == []


@pytest.mark.parametrize("line", ["no JSON", "[1]", '{"a": ', "", "\xff"])
def test_damage_is_named(line, tmp_path):
    file = tmp_path / "rows.jsonl"
    file.write_text(json.dumps(ROWS[0]) + f"\n{line}\n" + json.dumps(ROWS[1]) + "\n", encoding="latin-1")
    with pytest.raises(ValueError, match=r"rows\.jsonl, line 2, is damaged .*remove the file to start again"):
        read_json_lines(file)


def test_a_line_for_which_there_is_no_room_is_an_error(tmp_path, monkeypatch):
    file = tmp_path / "rows.jsonl"
    append_json_lines(file, ROWS[:1])

    def full(_descriptor):
        raise OSError(28, os.strerror(28))

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match=r"cannot write .*rows\.jsonl: No space left.*run again to continue"):
        append_json_lines(file, ROWS[1:])
