"""Files and folders written whole or not at all, and files that grow line by line."""

import errno
import hashlib
import json
import os
import shutil
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from io import FileIO
from pathlib import Path
from typing import Any, TypeVar

_Made = TypeVar("_Made")

_LARGE = (".bin", ".parquet", ".safetensors")
"""Endings of large files."""


@contextmanager
def write_file_atomically(target: Path, *, shared: bool = False) -> Iterator[Path]:
    """Yield where to write a file, and put it in the place of `target` at the end.

    An error leaves the old target and nothing else. A kill leaves the old target; the next call overwrites what else it
    left.

    Args:
        target: its folder is made where there is none.
        shared: several processes may write this file at once, so that each writes at a place of its own, and what a
            kill left there stays.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    partial = target.with_name(f"{target.name}.{os.getpid()}.partial" if shared else f"{target.name}.partial")
    try:
        yield partial
        partial.replace(target)
    finally:
        partial.unlink(missing_ok=True)


def write_atomically(file: Path, text: str, *, shared: bool = False) -> None:
    """Write a file whole or not at all; see `write_file_atomically`."""
    with write_file_atomically(file, shared=shared) as partial:
        partial.write_text(text, encoding="utf-8")


SUM = "sha256"
"""Of what else a line or a file has."""


def write_json(file: Path, value: Any) -> None:
    """Write a value in JSON form with its hash, whole or not at all."""
    write_atomically(file, json.dumps({"value": value, SUM: _sum(value)}))


def read_json(file: Path) -> Any:
    """Return what `write_json` wrote.

    Raises:
        ValueError: the file is damaged; the message gives it and what to do.
    """
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
        if not isinstance(content, dict) or content.get(SUM) != _sum(content.get("value")):
            raise ValueError("it has changed since it was written")  # noqa: TRY301 - named below
        return content["value"]
    except ValueError as error:
        raise ValueError(f"{file.resolve()} is damaged ({error}): remove it and run again to rebuild it") from None


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


def link_or_copy(source: str | Path, target: str | Path) -> None:
    """Give a file a second name, which takes no space, or copy it where the file system allows none.

    Only for files that budwood wrote and never writes again: damage reaches both names.
    """
    try:
        os.link(Path(source).resolve(), target)
    except OSError:  # another file system
        shutil.copyfile(source, target)


def link_large(source: str, target: str) -> None:
    """Copy a file, or link it (see `link_or_copy`) where it has tokens, weights, genes or what a teacher has said."""
    large = Path(source).suffix in _LARGE and not Path(source).is_symlink()
    (link_or_copy if large else shutil.copyfile)(source, target)


def check_links(folder: Path, homes: Collection[Path] = ()) -> None:
    """Check that a folder has its files itself and no links, so that copies of it bring nothing from elsewhere.

    Args:
        folder: hidden files and folders in it are not looked at.
        homes: folders that it may link into.

    Raises:
        ValueError: a file is a link that leads elsewhere.
    """
    home = folder.resolve()
    for file in sorted(home.rglob("*")):
        within, place = file.relative_to(home), file.resolve()
        if not file.is_symlink() or any(part.startswith(".") for part in within.parts):
            continue
        if not any(place.is_relative_to(inside) for inside in (home, *homes)):
            raise ValueError(f"{folder / within} links to {place}, out of its folder: copy the file there")


def _follow_umask(folder: Path) -> None:
    """Give all files the mode of a new one; asking the system for its umask would change it for other threads."""
    fresh = folder / ".mode"
    fresh.touch()
    mode = fresh.stat().st_mode
    fresh.unlink()
    for file in folder.rglob("*"):
        # A link leads to a file that belongs to something else.
        if file.is_file() and not file.is_symlink() and file.stat().st_nlink == 1:
            file.chmod(mode)


def write_json_lines(file: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    """Write rows, each with its hash, as a file of JSON lines, whole or not at all."""
    write_atomically(file, _lines(rows))


def append_json_lines(file: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    """Append rows, each with its hash, to a file of JSON lines and wait until they are on the disk.

    A last line that a kill has torn is cut off first. Without rows this only checks that the file can be written.

    Raises:
        OSError: the file cannot be written; complete lines stay valid.
    """
    lines = _lines(rows).encode()
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
    """Return the rows of a file of JSON lines without their hashes; none where there is no file.

    A torn last line does not count.

    The file is not changed, since another process may be writing it.

    Raises:
        ValueError: a complete line is damaged; the message gives the file and the line.
    """
    if not file.exists():
        return []
    text = file.read_bytes()
    lines = text[: text.rfind(b"\n") + 1].splitlines()
    return [_parse(file, number, line) for number, line in enumerate(lines, start=1)]


def restore_rows(file: Path, make: Callable[[dict[str, Any]], _Made]) -> list[_Made]:
    """Return what is made of the rows of `read_json_lines`.

    Raises:
        ValueError: nothing can be made of a row, which another version has written.
    """
    try:
        return [make(row) for row in read_json_lines(file)]
    except (KeyError, TypeError) as error:
        raise ValueError(
            f"{file} was written by another version of budwood ({error}); remove the file to start again"
        ) from None


def _parse(file: Path, number: int, line: bytes) -> dict[str, Any]:
    try:
        row = json.loads(line)
        if not isinstance(row, dict):
            raise ValueError("no JSON object")  # noqa: TRY301, TRY004 - named below
        if row.pop(SUM, None) != _sum(row):
            raise ValueError("it has changed since it was written")  # noqa: TRY301 - named below
    except ValueError as error:
        raise ValueError(f"{file}, line {number}, is damaged ({error}); remove the file to start again") from None
    return row


def _lines(rows: Sequence[Mapping[str, Any]]) -> str:
    return "".join(json.dumps({**row, SUM: _sum(row)}) + "\n" for row in rows)


def _sum(value: Any) -> str:
    return hashlib.sha256(json.dumps(value).encode()).hexdigest()[:16]


def _cut_torn_line(opened: FileIO) -> None:
    size = opened.seek(0, os.SEEK_END)
    if not size:
        return
    opened.seek(size - 1)
    if opened.read(1) != b"\n":
        opened.seek(0)
        opened.truncate(opened.read().rfind(b"\n") + 1)
