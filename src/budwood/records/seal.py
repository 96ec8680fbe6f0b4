"""Folders that carry the hashes of their files, so that damage is found before anything is made of them."""

import json
from pathlib import Path

from budwood.records.files import write_atomically
from budwood.records.hashes import MEMORY, hash_file, hash_files

SEAL = "seal.json"
"""Hashes of a folder's files by name; written last, so that a folder with a seal is complete."""


def seal(folder: Path, *parts: str) -> None:
    """Write the hashes of some files and sub-folders of a folder, or of everything in it."""
    roots = [folder / part for part in parts] or [folder]
    found = [file for root in roots for file in ([root] if root.is_file() else root.rglob("*"))]
    files = sorted(file for file in found if file.is_file() and file != folder / SEAL)
    hashes = {file.relative_to(folder).as_posix(): hash_file(file) for file in files}
    write_atomically(folder / SEAL, json.dumps(hashes, indent=1))


def damage(folder: Path, *, remembered: bool = False) -> str | None:
    """Return what is wrong with a sealed folder, or nothing where every file is as it was.

    Args:
        folder: passed to `seal` before.
        remembered: whether hashes of untouched files need not be computed again (see `hash_files`).
    """
    try:
        sealed = json.loads((folder / SEAL).read_text(encoding="utf-8"))
        files = {name: folder / name for name in sealed.keys()}  # noqa: SIM118 - a list has none
    except FileNotFoundError:
        return f"{SEAL} is missing"
    except (OSError, ValueError, AttributeError):
        return f"{SEAL} is damaged"
    missing = [name for name, file in files.items() if not file.is_file()]
    if missing:
        return f"{', '.join(missing)} missing"
    if remembered:
        found = hash_files(files, folder / MEMORY)
    else:
        found = {name: hash_file(file) for name, file in files.items()}
    changed = [name for name in files if found[name] != sealed[name]]
    return f"{', '.join(changed)} changed since it was written" if changed else None
