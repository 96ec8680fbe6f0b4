"""Publish an export on the Hugging Face Hub."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from huggingface_hub import HfApi, get_token
from huggingface_hub.errors import HfHubHTTPError

from budwood.models.export import CARD, CERTIFICATE
from budwood.models.fingerprint import fingerprint
from budwood.models.settings import PushSettings
from budwood.models.weights import read_object


@dataclass(frozen=True, slots=True, kw_only=True)
class Push:
    """What was uploaded, or would be."""

    repository: str
    private: bool
    files: Mapping[str, int]
    """Bytes by name."""
    url: str | None
    """None after a dry run."""

    def describe(self) -> str:
        """Return the upload in words, a line for every file."""
        kind = "private" if self.private else "public"
        done = (
            f"uploaded to {self.url}" if self.url else f"would be uploaded to {self.repository}, {kind}; dry_run is on"
        )
        lines = [f"{sum(self.files.values()) / 1e6:,.1f} MB {done}"]
        return "\n".join(lines + [f"  {name}: {size:,} bytes" for name, size in self.files.items()])


def push(folder: Path, settings: PushSettings) -> Push:
    """Upload an export, or find out what would be uploaded. Every file of the model is read and hashed before.

    Raises:
        ValueError: the folder is no export, or not what its certificate was written for; there is no access token, or
            the Hub refuses.
    """
    for name in (CARD, CERTIFICATE):
        if not (folder / name).is_file():
            raise ValueError(f"push: {folder} has no {name}, so it is no finished export; run the export first")
    certified, found = read_object(folder / CERTIFICATE).get("fingerprint"), fingerprint(folder, remembered=False)
    if found != certified:
        raise ValueError(
            f"push: {folder} has changed since it was certified: its fingerprint is {found}, {CERTIFICATE} has "
            f"{certified}; remove it and run the export again"
        )
    files = {
        path.relative_to(folder).as_posix(): path.stat().st_size
        for path in sorted(folder.rglob("*"))
        if path.is_file() and not any(part.startswith(".") for part in path.relative_to(folder).parts)
    }
    planned = Push(repository=settings.repository, private=settings.private, files=files, url=None)
    if settings.dry_run:
        return planned
    if get_token() is None:
        raise ValueError("push: there is no access token; set HF_TOKEN or run `hf auth login`")
    api = HfApi()
    try:
        api.create_repo(settings.repository, private=settings.private, exist_ok=True)
        if settings.revision is not None:
            api.create_branch(settings.repository, branch=settings.revision, exist_ok=True)
        done = api.upload_folder(
            repo_id=settings.repository,
            folder_path=folder,
            revision=settings.revision,
            allow_patterns=list(files),
            commit_message="Upload a sub-network cut by budwood",
        )
    except (HfHubHTTPError, OSError) as error:
        raise ValueError(f"push: the Hub did not take {settings.repository} ({error})") from error
    return replace(planned, url=str(done.commit_url))
