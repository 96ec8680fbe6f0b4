"""Files and folders written whole or not at all."""

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


def write_atomically(file: Path, text: str) -> None:
    """Write a file whole or not at all; its folder is made where there is none."""
    file.parent.mkdir(parents=True, exist_ok=True)
    partial = file.with_name(f"{file.name}.partial")
    partial.write_text(text, encoding="utf-8")
    partial.replace(file)


@contextmanager
def write_folder_atomically(target: Path) -> Iterator[Path]:
    """Yield an empty folder to fill, and put it in the place of `target` at the end.

    An error leaves the old target. A kill leaves the old target or none, never a mixture; the next call removes what
    it left. Files get the permissions that the umask gives a new file: some libraries write theirs for the owner alone.
    """
    partial, replaced = (target.with_name(f"{target.name}.{state}") for state in ("partial", "replaced"))
    for left_over in (partial, replaced):
        shutil.rmtree(left_over, ignore_errors=True)
    partial.mkdir(parents=True)
    try:
        yield partial
        _follow_umask(partial)
        # Renamed before it is deleted: a half-deleted folder could still look whole.
        if target.exists():
            target.rename(replaced)
        partial.rename(target)
    except Exception:
        shutil.rmtree(partial, ignore_errors=True)
        raise
    shutil.rmtree(replaced, ignore_errors=True)


def _follow_umask(folder: Path) -> None:
    """Give all files the mode of a new one; asking the system for its umask would change it for other threads."""
    fresh = folder / ".mode"
    fresh.touch()
    mode = fresh.stat().st_mode
    fresh.unlink()
    for file in folder.rglob("*"):
        # A link leads to a file of somebody else's.
        if file.is_file() and not file.is_symlink() and file.stat().st_nlink == 1:
            file.chmod(mode)
