"""Paths as people write them in settings."""

from pathlib import Path


def resolve_path(path: str, root: Path) -> str:
    """Return an absolute path: `~` is the home folder, and a relative path begins at `root`. URLs stay as they are."""
    return path if "://" in path else str(root.absolute() / Path(path).expanduser())
