"""What is published, and that nothing is by mistake."""

from types import SimpleNamespace

import pytest

from budwood.models import hub
from budwood.models.hub import push
from budwood.models.settings import PushSettings

DRY = PushSettings(repository="forest/tree")
WET = DRY.model_copy(update={"dry_run": False})


@pytest.fixture
def export(tmp_path):
    for name in ("README.md", "certificate.json", "model.safetensors", ".budwood.json"):
        (tmp_path / name).write_text("12345")
    return tmp_path


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
    assert dict(planned.files) == {"README.md": 5, "certificate.json": 5, "model.safetensors": 5}
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


def test_a_folder_without_certificate_is_no_export(export):
    (export / "certificate.json").unlink()
    with pytest.raises(ValueError, match=r"has no certificate\.json, so it is no finished export"):
        push(export, DRY)
