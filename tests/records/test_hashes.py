"""Hashes are computed once, and again for files that moved in any way."""

import hashlib
import os
import time

import pytest

from budwood.records import hashes as module
from budwood.records.hashes import hash_file, hash_files


@pytest.fixture
def files(tmp_path):
    (tmp_path / "a").write_text("a")
    (tmp_path / "b").write_text("b")
    return {"a": tmp_path / "a", "b": tmp_path / "b"}


@pytest.fixture
def read(monkeypatch):
    """Return the names of files that were read; files settle at once."""
    monkeypatch.setattr(module, "_SETTLING_NS", 0)
    names = []

    def hash_and_note(file):
        names.append(file.name)
        return hash_file(file)

    monkeypatch.setattr(module, "hash_file", hash_and_note)
    return names


def settle():
    time.sleep(0.02)  # longer than a tick of the kernel's file clock


def test_hashes_are_those_of_the_standard_library(files, tmp_path):
    expected = {name: hashlib.sha256(name.encode()).hexdigest() for name in "ab"}
    assert hash_files(files, tmp_path / "memory") == expected


def test_unchanged_files_are_read_once(files, read, tmp_path):
    settle()
    first = hash_files(files, tmp_path / "memory")
    assert read == ["a", "b"]
    assert hash_files(files, tmp_path / "memory") == first
    assert read == ["a", "b"]


def test_a_file_edited_in_place_is_read_again_even_where_its_time_was_set_back(files, read, tmp_path):
    settle()
    first = hash_files(files, tmp_path / "memory")
    before = files["a"].stat()
    files["a"].write_text("c")
    os.utime(files["a"], ns=(before.st_atime_ns, before.st_mtime_ns))
    again = hash_files(files, tmp_path / "memory")
    assert again["a"] == hashlib.sha256(b"c").hexdigest() != first["a"]
    assert again["b"] == first["b"]
    assert read == ["a", "b", "a"]


def test_a_file_that_just_changed_is_not_remembered(files, read, tmp_path, monkeypatch):
    """A second change in the same tick of the clock would go unnoticed."""
    monkeypatch.setattr(module, "_SETTLING_NS", 10**12)
    for _ in range(2):
        hash_files(files, tmp_path / "memory")
    assert read == ["a", "b", "a", "b"]


@pytest.mark.parametrize("memory", ["", "[]", '{"a": 1}', '{"a": {"stat": 3}}'])
def test_a_damaged_memory_only_costs_time(files, tmp_path, memory):
    (tmp_path / "memory").write_text(memory)
    assert hash_files(files, tmp_path / "memory")["a"] == hashlib.sha256(b"a").hexdigest()


def test_a_memory_that_cannot_be_written_only_costs_time(files, tmp_path):
    assert hash_files(files, tmp_path / "a" / "memory")["a"] == hashlib.sha256(b"a").hexdigest()
