"""Files written whole or not at all, and files that grow line by line."""

import errno
import json
import os
from collections.abc import Mapping, Sequence
from io import FileIO
from pathlib import Path
from typing import Any


def write_atomically(file: Path, text: str) -> None:
    """Write a file whole or not at all; its folder is made where there is none."""
    file.parent.mkdir(parents=True, exist_ok=True)
    partial = file.with_name(f"{file.name}.partial")
    partial.write_text(text, encoding="utf-8")
    partial.replace(file)


def append_json_lines(file: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    """Append rows to a file of JSON lines and wait until they are on the disk.

    A last line that a kill has torn is cut off first. Without rows this only checks that the file can be written.

    Raises:
        OSError: the file cannot be written; complete lines stay valid.
    """
    lines = "".join(json.dumps(row) + "\n" for row in rows).encode()
    try:
        with file.open("a+b", buffering=0) as opened:
            _cut_torn_line(opened)
            if opened.write(lines) != len(lines):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))  # noqa: TRY301 - named below
            os.fsync(opened.fileno())
    except OSError as error:
        raise OSError(
            error.errno,
            f"cannot write {file}: {error.strerror}. All complete lines are kept; make room or grant the right to "
            "write there, and run again to continue",
        ) from error


def read_json_lines(file: Path) -> list[dict[str, Any]]:
    """Return the rows of a file of JSON lines; none where there is no file. A torn last line does not count.

    The file is not changed, since another process may be writing it.

    Raises:
        ValueError: a complete line is damaged; the message gives the file and the line.
    """
    if not file.exists():
        return []
    text = file.read_bytes()
    lines = text[: text.rfind(b"\n") + 1].splitlines()
    return [_parse(file, number, line) for number, line in enumerate(lines, start=1)]


def _parse(file: Path, number: int, line: bytes) -> dict[str, Any]:
    try:
        row = json.loads(line)
        if not isinstance(row, dict):
            raise ValueError("no JSON object")  # noqa: TRY301, TRY004 - named below
    except ValueError as error:
        raise ValueError(f"{file}, line {number}, is damaged ({error}); remove the file to start again") from None
    return row


def _cut_torn_line(opened: FileIO) -> None:
    size = opened.seek(0, os.SEEK_END)
    if not size:
        return
    opened.seek(size - 1)
    if opened.read(1) != b"\n":
        opened.seek(0)
        opened.truncate(opened.read().rfind(b"\n") + 1)
