"""What is published, and that nothing is by mistake."""

import json
import os
from types import SimpleNamespace

import pytest

from budwood.models import hub
from budwood.models.fingerprint import fingerprint
from budwood.models.hub import push
from budwood.models.settings import PushSettings
from budwood.records import hashes

DRY = PushSettings(repository="forest/tree")
WET = DRY.model_copy(update={"dry_run": False})


@pytest.fixture
def export(tmp_path, monkeypatch):
    folder, memory = tmp_path / "export", tmp_path / "cache"
    folder.mkdir()
    monkeypatch.setenv("XDG_CACHE_HOME", str(memory))
    monkeypatch.setattr(hashes, "_SETTLING_NS", -(10**12))  # files of any age are remembered
    for name in ("README.md", "model.safetensors", ".budwood.json"):
        (folder / name).write_text("12345")
    (folder / "config.json").write_text("{}")
    (folder / "certificate.json").write_text(json.dumps({"fingerprint": fingerprint(folder)}))
    return folder


@pytest.fixture
def calls(monkeypatch):
    """Return what a Hub that takes everything is asked."""
    asked = []

    class Api:
        def create_repo(self, repository, **settings):
            asked.append((repository, settings))

        def upload_folder(self, **settings):
            asked.append(settings)
            return SimpleNamespace(commit_url="https://hub/forest/tree/commit/1")

    monkeypatch.setattr(hub, "HfApi", Api)
    return asked


def test_a_dry_run_says_what_would_go_and_asks_nobody(export, calls):
    planned = push(export, DRY)
    sizes = {"README.md": 5, "certificate.json": 35, "config.json": 2, "model.safetensors": 5}
    assert dict(planned.files) == sizes
    assert "would be uploaded to forest/tree, private; dry_run is on\n  README.md: 5 bytes" in planned.describe()
    assert not calls


def test_a_push_is_private_and_holds_the_files_of_the_dry_run(export, calls, monkeypatch):
    monkeypatch.setattr(hub, "get_token", lambda: "token")
    done = push(export, WET)
    assert calls[0] == ("forest/tree", {"private": True, "exist_ok": True})
    assert calls[1]["allow_patterns"] == list(push(export, DRY).files)
    assert "uploaded to https://hub/forest/tree/commit/1" in done.describe()


def test_without_a_token_nothing_is_tried(export, calls, monkeypatch):
    monkeypatch.setattr(hub, "get_token", lambda: None)
    with pytest.raises(ValueError, match="push: there is no access token; set HF_TOKEN or run"):
        push(export, WET)
    assert not calls


def test_a_byte_that_changed_below_the_file_system_is_noticed(export, calls, tmp_path):
    """Size, all times and the inode are what is remembered: only reading everything again can say."""
    certified = fingerprint(export)
    (file,) = (tmp_path / "cache").rglob("*.json")
    memory, weights = json.loads(file.read_text()), export / "model.safetensors"
    times = weights.stat()
    with weights.open("r+b") as stream:
        stream.write(b"0")
    os.utime(weights, ns=(times.st_atime_ns, times.st_mtime_ns))
    found = weights.stat()
    assert [found.st_size, found.st_mtime_ns] == [times.st_size, times.st_mtime_ns]
    # The change time alone cannot be set back.
    memory["model.safetensors"]["stat"] = [found.st_size, found.st_mtime_ns, found.st_ctime_ns, found.st_ino]
    file.write_text(json.dumps(memory))
    assert fingerprint(export) == certified
    with pytest.raises(ValueError, match=f"has changed since it was certified: its fingerprint is .* has {certified}"):
        push(export, DRY)
    assert fingerprint(export) != certified, "what is remembered of a damaged file does not answer again"
    assert not calls


def test_a_folder_without_certificate_is_no_export(export):
    (export / "certificate.json").unlink()
    with pytest.raises(ValueError, match=r"has no certificate\.json, so it is no finished export"):
        push(export, DRY)
