"""A file in parts is joined once, or refused in one sentence."""

import hashlib

import pytest

from budwood.models import parts as module
from budwood.models.parts import join_parts
from budwood.models.settings import TeacherSettings
from budwood.models.teacher import describe_teacher

WHOLE = b"GGUF" + bytes(range(200))
SHA256 = hashlib.sha256(WHOLE).hexdigest()


@pytest.fixture
def places(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    for number, piece in enumerate((WHOLE[:90], WHOLE[90:150], WHOLE[150:])):
        (tmp_path / f"tiny.gguf.part{number:02}").write_bytes(piece)
    return [f"tiny.gguf.part{number:02}" for number in range(3)]


def test_parts_are_joined_in_order_and_once(places, tmp_path, monkeypatch):
    whole = join_parts(places, SHA256, tmp_path)
    assert (whole.name, whole.read_bytes()) == ("tiny.gguf", WHOLE)
    monkeypatch.setattr(module, "_part", lambda *_: pytest.fail("parts are read again"))
    assert join_parts(places, SHA256, tmp_path) == whole


def test_a_damaged_whole_is_joined_again(places, tmp_path):
    whole = join_parts(places, SHA256, tmp_path)
    whole.write_bytes(WHOLE[::-1])
    assert join_parts(places, SHA256, tmp_path).read_bytes() == WHOLE


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda names: names[::-1], "joined in this order they have the SHA-256 [0-9a-f]{64} and not teacher.sha256="),
        (lambda names: names[:2], "joined in this order they have the SHA-256"),
        (lambda names: [*names[:2], "tiny.gguf.part09"], r"^teacher.parts: no file at .*tiny.gguf.part09$"),
        (
            lambda names: [*names[:2], "package://nothing_of_that_name/x.gguf.part02"],
            "^teacher.parts: .* needs the package 'nothing_of_that_name', which is not installed; try: pip install",
        ),
    ],
    ids=["order", "number", "file", "package"],
)
def test_other_parts_are_refused(places, tmp_path, change, message):
    settings = TeacherSettings(parts=change(places), sha256=SHA256)
    with pytest.raises(ValueError, match=message):
        describe_teacher(settings, tmp_path)
    assert not list(tmp_path.rglob("*.partial"))


@pytest.mark.parametrize("given", [{"parts": ["a"]}, {"model": "a/b", "sha256": SHA256}])
def test_parts_and_their_hash_go_together(given):
    with pytest.raises(ValueError, match="`parts` and `sha256` go together"):
        TeacherSettings(**given)
