"""Hashes of files, computed once and remembered for as long as the files are not touched."""

import hashlib
import time
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

from pydantic import TypeAdapter

from budwood.records.files import write_atomically
from budwood.records.strict import Strict

MEMORY = ".fingerprint.json"
"""Where the hashes of a folder's files are remembered. Copies of the folder do without it."""
_SETTLING_NS = 2_000_000_000
"""The coarsest clock of a common file system (FAT). A younger file may change again without a change of its times."""


class _Known(Strict):
    """The hash of a file, and the state in which it was hashed."""

    stat: tuple[int, int, int, int]
    """Size, modification and change time in nanoseconds, inode."""
    sha256: str


_MEMORY = TypeAdapter(dict[str, _Known])


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
    found = {name: _look(file, known.get(name)) for name, file in files.items()}
    settled = time.time_ns() - _SETTLING_NS
    kept = known | {name: each for name, each in found.items() if max(each.stat[1:3]) < settled}
    if kept != known:
        with suppress(OSError):  # a read-only place; the memory only saves time
            write_atomically(memory, _MEMORY.dump_json(kept, indent=1).decode())
    return {name: each.sha256 for name, each in found.items()}


def fingerprint_folder(folder: Path, pattern: str) -> str:
    """Return what distinguishes the files of a folder whose names match a pattern from others."""
    hashes = hash_files({file.name: file for file in sorted(folder.glob(pattern))}, folder / MEMORY)
    return hashlib.sha256("".join(hashes.values()).encode()).hexdigest()[:16]


def _recall(memory: Path) -> dict[str, _Known]:
    # A memory that cannot be read only costs time.
    with suppress(OSError, ValueError):
        return _MEMORY.validate_json(memory.read_bytes())
    return {}


def _look(file: Path, known: _Known | None) -> _Known:
    found = file.stat()
    stat = (found.st_size, found.st_mtime_ns, found.st_ctime_ns, found.st_ino)
    return known if known and known.stat == stat else _Known(stat=stat, sha256=hash_file(file))
