"""Folders are placed whole or not at all."""

import os
import shutil
from pathlib import Path

import pytest

from budwood.datasets.folder import place_folder


@pytest.fixture
def source(tmp_path):
    folder = tmp_path / "source"
    (folder / "nested").mkdir(parents=True)
    (folder / "a").write_text("a")
    (folder / "nested" / "b.bin").write_text("b")
    return folder


def contents(folder):
    return {path.relative_to(folder).as_posix(): path.read_text() for path in folder.rglob("*") if path.is_file()}


def test_large_files_are_hard_links_and_configurations_are_not(source, tmp_path):
    place_folder(source, tmp_path / "deep" / "target")
    assert contents(tmp_path / "deep" / "target") == {"a": "a", "nested/b.bin": "b"}
    assert (tmp_path / "deep" / "target" / "nested" / "b.bin").samefile(source / "nested" / "b.bin")
    (source / "a").write_text("rewritten in place")
    assert contents(tmp_path / "deep" / "target") == {"a": "a", "nested/b.bin": "b"}


def test_files_are_copied_where_links_are_impossible(source, tmp_path, monkeypatch):
    def refuse(*_):
        raise OSError(18, "Invalid cross-device link")

    monkeypatch.setattr(os, "link", refuse)
    place_folder(source, tmp_path / "target")
    assert contents(tmp_path / "target") == contents(source)
    assert not (tmp_path / "target" / "nested" / "b.bin").samefile(source / "nested" / "b.bin")


def test_symbolic_links_are_followed(source, tmp_path):
    """A snapshot of the hub links into its blobs."""
    snapshot = tmp_path / "snapshot"
    snapshot.mkdir()
    (snapshot / "a").symlink_to(Path("..") / "source" / "a")
    (snapshot / "nested").symlink_to(source / "nested")
    place_folder(snapshot, tmp_path / "target")
    assert contents(tmp_path / "target") == {"a": "a", "nested/b.bin": "b"}
    assert not any(path.is_symlink() for path in (tmp_path / "target").rglob("*"))


def test_the_old_folder_and_what_a_kill_left_are_replaced(source, tmp_path):
    for name in ("target", "target.partial", "target.replaced"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "old").touch()
    place_folder(source, tmp_path / "target")
    assert contents(tmp_path / "target") == contents(source)
    assert {path.name for path in tmp_path.iterdir()} == {"source", "target"}


def test_a_failure_leaves_the_old_folder(source, tmp_path):
    place_folder(source, tmp_path / "target")
    (source / "broken").symlink_to("nowhere")
    with pytest.raises(shutil.Error, match="broken"):
        place_folder(source, tmp_path / "target")
    assert contents(tmp_path / "target") == {"a": "a", "nested/b.bin": "b"}


@pytest.mark.parametrize("step", ["rename", "rmtree"])
def test_a_kill_never_leaves_a_mixture(source, tmp_path, monkeypatch, step):
    """Stop at the first rename after the copy, or at the first deletion after the swap."""
    target = tmp_path / "target"
    place_folder(source, target)
    (source / "a").write_text("new")
    old, new = contents(target), contents(source)

    def kill(path, *_, **__):
        if Path(path).exists():
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(Path if step == "rename" else shutil, step, kill)
        with pytest.raises(KeyboardInterrupt):
            place_folder(source, target)
    assert contents(target) == (old if step == "rename" else new)
    place_folder(source, target)
    assert contents(target) == new


def test_placing_a_folder_onto_itself_changes_nothing(source, tmp_path):
    (tmp_path / "alias").symlink_to(source)
    place_folder(tmp_path / "alias", source)
    assert contents(source) == {"a": "a", "nested/b.bin": "b"}


def test_impossible_places_are_refused(source, tmp_path):
    with pytest.raises(ValueError, match="must not lie inside"):
        place_folder(source, source / "nested" / "target")
    with pytest.raises(NotADirectoryError, match="not a folder"):
        place_folder(tmp_path / "missing", tmp_path / "target")


def test_a_folder_may_take_the_place_of_its_parent(source):
    place_folder(source / "nested", source)
    assert contents(source) == {"b.bin": "b"}
