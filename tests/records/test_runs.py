"""Which runs have used a workspace."""

from datetime import UTC, datetime

import pytest

from budwood.records.runs import RUNS, WORKSPACE, newest_whole_run, note_run

FIRST, SECOND, THIRD = (datetime(2026, 1, day, tzinfo=UTC) for day in (1, 2, 3))


def test_the_newest_whole_run_counts(tmp_path):
    assert newest_whole_run(tmp_path) is None
    note_run(tmp_path, THIRD, whole=False)
    assert newest_whole_run(tmp_path) is None
    for began in (SECOND, FIRST):
        note_run(tmp_path, began, whole=True)
    assert newest_whole_run(tmp_path) == SECOND


def test_a_damaged_file_is_reported(tmp_path):
    note_run(tmp_path, FIRST, whole=True)
    with (tmp_path / WORKSPACE / RUNS).open("a") as file:
        file.write("{\n")
    with pytest.raises(ValueError, match=r"runs\.jsonl, line 2, is damaged"):
        newest_whole_run(tmp_path)
