"""Folders that one process at a time may write to."""

import json
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path

from filelock import FileLock, Timeout

LOCK, HOLDER = ".lock", ".lock.json"


class FolderInUseError(RuntimeError):
    """Another live process is using a folder."""


@contextmanager
def holding(folder: Path, purpose: str) -> Iterator[None]:
    """Lock a folder for this process; the lock of a process that has died is taken over.

    Args:
        folder: made where there is none.
        purpose: what is done there, for the message that another process gets.

    Raises:
        FolderInUseError: a live process has locked it; the message gives its host, pid and start.
        OSError: the folder cannot be made or written to.
    """
    lock = FileLock(folder / LOCK, timeout=0)  # the system releases it with the process, however that ends
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock.acquire()
    except Timeout:
        raise FolderInUseError(
            f"{folder.resolve()} is in use: {_holder(folder)}. Wait until it has ended, or give this run a data folder "
            "of its own"
        ) from None
    except OSError as error:
        raise OSError(
            f"{folder.resolve()} cannot be written to: {error.strerror}. Make room or grant the right to write there, "
            "or give this run a data folder elsewhere"
        ) from error
    try:
        about = {"purpose": purpose, "host": socket.gethostname(), "pid": os.getpid()}
        started = datetime.now(UTC).isoformat(timespec="seconds")
        (folder / HOLDER).write_text(json.dumps(about | {"started": started}), encoding="utf-8")
        yield
    finally:
        lock.release()


def _holder(folder: Path) -> str:
    try:
        about = json.loads((folder / HOLDER).read_text(encoding="utf-8"))
        return f"{about['purpose']} by process {about['pid']} on {about['host']} since {about['started']}"
    except (OSError, ValueError, KeyError):
        return "by a process that has just begun"
