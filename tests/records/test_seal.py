"""A seal breaks with any change of a sealed file, and with no other."""

import pytest

from budwood.records.seal import SEAL, damage, seal


@pytest.fixture
def folder(tmp_path):
    for name in ("weights.bin", "shards/one.bin", "log.txt"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(name.encode())
    return tmp_path


def flip_a_bit(file):
    content = bytearray(file.read_bytes())
    content[0] ^= 1
    file.write_bytes(content)


def cut(file):
    file.write_bytes(file.read_bytes()[:-1])


def empty(file):
    file.write_bytes(b"")


@pytest.mark.parametrize("remembered", [False, True])
@pytest.mark.parametrize("harm", [flip_a_bit, cut, empty])
@pytest.mark.parametrize("name", ["weights.bin", "shards/one.bin"])
def test_any_harm_to_any_file_is_found_and_named(folder, name, harm, remembered):
    seal(folder)
    assert damage(folder, remembered=remembered) is None
    harm(folder / name)
    assert damage(folder, remembered=remembered) == f"{name} changed since it was written"
    (folder / name).unlink()
    assert damage(folder, remembered=remembered) == f"{name} missing"


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"\xff"])
def test_a_damaged_seal_is_damage(folder, content):
    seal(folder)
    (folder / SEAL).write_bytes(content)
    assert damage(folder) == "seal.json is damaged"
    (folder / SEAL).unlink()
    assert damage(folder) == "seal.json is missing"


def test_what_is_not_sealed_may_change_and_a_folder_can_be_sealed_again(folder):
    seal(folder, "weights.bin", "shards")
    (folder / "log.txt").unlink()
    assert damage(folder) is None
    flip_a_bit(folder / "weights.bin")
    seal(folder)
    assert damage(folder) is None


def test_a_full_check_finds_a_change_that_the_file_system_does_not_show(folder, monkeypatch):
    """Hashes are remembered by size, times and inode; here these stay."""
    seal(folder)
    before = (folder / "weights.bin").stat()
    monkeypatch.setattr("budwood.records.hashes._SETTLING_NS", -(10**12))
    assert damage(folder, remembered=True) is None
    flip_a_bit(folder / "weights.bin")
    path, real = type(folder), type(folder).stat
    monkeypatch.setattr(path, "stat", lambda file, **how: before if file.name == "weights.bin" else real(file, **how))
    assert damage(folder, remembered=True) is None
    assert damage(folder) == "weights.bin changed since it was written"
