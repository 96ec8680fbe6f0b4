"""Files and folders are written whole or not at all."""

import os

import pytest

from budwood.records.files import check_links, write_atomically, write_folder_atomically


def test_a_file_and_its_folder_are_written(tmp_path):
    for text in ("one", "twö"):
        write_atomically(tmp_path / "deep" / "file", text)
        assert (tmp_path / "deep" / "file").read_text(encoding="utf-8") == text
    assert [path.name for path in (tmp_path / "deep").iterdir()] == ["file"]


def test_a_folder_replaces_another(tmp_path):
    for name in ("one", "two"):
        with write_folder_atomically(tmp_path / "target") as folder:
            (folder / name).touch()
            assert not (tmp_path / "target" / name).exists()
    assert [path.name for path in tmp_path.rglob("*")] == ["target", "two"]


def test_an_error_leaves_the_old_folder(tmp_path):
    with write_folder_atomically(tmp_path / "target") as folder:
        (folder / "old").touch()
    with pytest.raises(ZeroDivisionError), write_folder_atomically(tmp_path / "target") as folder:
        (folder / "new").touch()
        raise ZeroDivisionError
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


@pytest.mark.parametrize("place", ["../outside", "/etc/hostname", "../blobs/x"])
def test_links_that_lead_out_are_refused(tmp_path, place):
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "a").symlink_to(place)
    with pytest.raises(ValueError, match="out of its folder: copy the file there"):
        check_links(tmp_path / "folder")
