"""Source files that a test writes, as a new process finds them."""

import importlib
import os
from pathlib import Path

from budwood.study import source


def forget() -> None:
    """Forget what was read of files, as a new process has not read any."""
    for each in (source.code_hash, source._imports, source._read, source._home, source._file_of, source._versions):
        each.cache_clear()
    importlib.invalidate_caches()


def write_source(file: Path, text: str) -> None:
    """Write a file as if it had been there before this process began."""
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(text)
    os.utime(file, (1e9, 1e9))
    forget()
