"""Folders are placed whole or not at all."""

import os
import shutil
from pathlib import Path

import pytest

from budwood.datasets.folder import place_folder
from budwood.records.runs import WORKSPACE


@pytest.fixture
def source(tmp_path):
    folder = tmp_path / "source"
    (folder / "nested").mkdir(parents=True)
    (folder / "a").write_text("a")
    (folder / "nested" / "b.bin").write_text("b")
    return folder


def contents(folder):
    return {path.relative_to(folder).as_posix(): path.read_text() for path in folder.rglob("*") if path.is_file()}


def test_everything_is_copied(source, tmp_path):
    """The user's files stay the user's: damage of the copy reaches none of them."""
    place_folder(source, tmp_path / "deep" / "target")
    assert contents(tmp_path / "deep" / "target") == {"a": "a", "nested/b.bin": "b"}
    (tmp_path / "deep" / "target" / "nested" / "b.bin").write_text("damage")
    assert contents(source) == {"a": "a", "nested/b.bin": "b"}


@pytest.fixture
def own(source, tmp_path):
    """Return the folder in the workspace of a study."""
    folder = tmp_path / "data" / WORKSPACE / "packing-1" / "source"
    shutil.copytree(source, folder)
    return folder


def test_large_files_of_the_workspace_are_linked_in_its_own_data_folder(own, tmp_path):
    (own / "c.safetensors").write_text("c")
    place_folder(own, tmp_path / "data" / "06_models" / "target")
    place_folder(own, tmp_path / "other" / "06_models" / "target")
    for name, linked in (("nested/b.bin", True), ("c.safetensors", True), ("a", False)):
        assert (tmp_path / "data" / "06_models" / "target" / name).samefile(own / name) == linked
        assert not (tmp_path / "other" / "06_models" / "target" / name).samefile(own / name)


def test_what_a_link_of_the_workspace_leads_to_is_copied(own, tmp_path):
    """It is the user's."""
    store = tmp_path / "store"
    store.mkdir()
    (store / "123").write_text("weights")
    (own / "c.safetensors").symlink_to(store / "123")
    place_folder(own, tmp_path / "data" / "target", homes=[store])
    assert not (tmp_path / "data" / "target" / "c.safetensors").samefile(store / "123")
    assert (tmp_path / "data" / "target" / "c.safetensors").read_text() == "weights"


def test_files_are_copied_where_links_are_impossible(own, tmp_path, monkeypatch):
    def refuse(*_):
        raise OSError(18, "Invalid cross-device link")

    monkeypatch.setattr(os, "link", refuse)
    place_folder(own, tmp_path / "data" / "target")
    assert contents(tmp_path / "data" / "target") == contents(own)
    assert not (tmp_path / "data" / "target" / "nested" / "b.bin").samefile(own / "nested" / "b.bin")


def test_hidden_files_and_what_is_left_out_stay_where_they_are(source, tmp_path):
    (source / ".git").mkdir()
    (source / ".git" / "b").touch()
    (source / "optimizer.pt").touch()
    place_folder(source, tmp_path / "target", leave_out=["*.pt"])
    assert contents(tmp_path / "target") == {"a": "a", "nested/b.bin": "b"}


def test_links_of_a_snapshot_are_followed(tmp_path):
    """A snapshot of the hub links into its blobs."""
    model = tmp_path / "models--a--b"
    (model / "blobs").mkdir(parents=True)
    (model / "blobs" / "123").write_text("weights")
    snapshot = model / "snapshots" / "commit"
    snapshot.mkdir(parents=True)
    (snapshot / "a").symlink_to(Path("..") / ".." / "blobs" / "123")
    place_folder(snapshot, tmp_path / "target", homes=[model / "blobs"])
    assert contents(tmp_path / "target") == {"a": "weights"}
    assert not (tmp_path / "target" / "a").is_symlink()


def test_links_that_lead_elsewhere_are_refused(source, tmp_path):
    (tmp_path / "private").write_text("secret")
    (source / "nested" / "c").symlink_to(tmp_path / "private")
    with pytest.raises(ValueError, match=r"c links to .*private, out of its folder: copy the file there"):
        place_folder(source, tmp_path / "target")
    assert not (tmp_path / "target").exists()


def test_files_follow_the_umask(source, tmp_path):
    (source / "a").chmod(0o600)
    before = os.umask(0o027)
    try:
        place_folder(source, tmp_path / "target")
    finally:
        os.umask(before)
    assert {path.stat().st_mode & 0o777 for path in (tmp_path / "target").rglob("*") if path.is_file()} == {0o640}


def test_the_old_folder_and_what_a_kill_left_are_replaced(source, tmp_path):
    for name in ("target", "target.partial", "target.replaced"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "old").touch()
    place_folder(source, tmp_path / "target")
    assert contents(tmp_path / "target") == contents(source)
    assert {path.name for path in tmp_path.iterdir()} == {"source", "target"}


def test_a_failure_leaves_the_old_folder(source, tmp_path, monkeypatch):
    place_folder(source, tmp_path / "target")

    def fail(*_, **__):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(shutil, "copytree", fail)
    with pytest.raises(OSError, match="No space left"):
        place_folder(source, tmp_path / "target")
    assert contents(tmp_path / "target") == {"a": "a", "nested/b.bin": "b"}
    assert {path.name for path in tmp_path.iterdir()} == {"source", "target"}


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
