"""Hashes of files, computed once and remembered for as long as the files are not touched."""

import hashlib
import json
import time
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from budwood.records.files import write_atomically

MEMORY = ".fingerprint.json"
"""Where the hashes of a folder's files are remembered. Copies of the folder do without it."""
_SETTLING_NS = 2_000_000_000
"""The coarsest clock of a common file system (FAT). A younger file may change again without a change of its times."""


def hash_file(file: Path) -> str:
    """Return the SHA-256 of a file's content in hexadecimal."""
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def hash_files(files: Mapping[str, Path], memory: Path, *, remembered: bool = True) -> dict[str, str]:
    """Return the SHA-256 of every file by its name, and read only files that changed since they were last hashed.

    A file counts as unchanged while its size, modification time, change time and inode stay. A program can set the
    modification time back but not the change time. Damage below the file system moves neither: what is remembered must
    not answer then.

    Args:
        files: by names that stay the same when the files move.
        memory: where hashes are remembered. Where it cannot be written, everything is hashed again next time.
        remembered: whether the memory answers; without, every file is read and remembered again.
    """
    known = _recall(memory) if remembered else {}
    entries = {name: _entry(file, known.get(name)) for name, file in files.items()}
    settled = time.time_ns() - _SETTLING_NS
    kept = {name: entry for name, entry in entries.items() if max(entry["stat"][1:3]) < settled}
    if not kept.items() <= known.items():
        with suppress(OSError):  # a read-only place; the memory only saves time
            write_atomically(memory, json.dumps(known | kept, indent=1))
    return {name: entry["sha256"] for name, entry in entries.items()}


def _recall(memory: Path) -> dict[str, Any]:
    # A memory that cannot be read only costs time.
    with suppress(OSError, ValueError):
        known = json.loads(memory.read_text(encoding="utf-8"))
        return known if isinstance(known, dict) else {}
    return {}


def _entry(file: Path, known: Any) -> dict[str, Any]:
    found = file.stat()
    stat = [found.st_size, found.st_mtime_ns, found.st_ctime_ns, found.st_ino]
    if isinstance(known, dict) and known.get("stat") == stat and isinstance(known.get("sha256"), str):
        return known
    return {"stat": stat, "sha256": hash_file(file)}
