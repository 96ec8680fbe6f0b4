"""What a user sees of a run that fails."""

import errno
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType

import kedro

from budwood.records.refusal import is_refusal

_ARGUMENTS = tuple(Path(kedro.__file__).parent / part for part in ("framework/session", "pipeline"))
"""Where Kedro refuses names of pipelines, nodes, tags and namespaces that are not there."""
_FULL = os.strerror(errno.ENOSPC)
"""In the words of Python's errors and of safetensors'."""


def show(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    """Print an uncaught error: what is refused as its message alone, so a full disk, and a bug with its traceback.

    This is a `sys.excepthook`, so it changes what is printed and nothing else.
    """
    # Kedro wraps what a dataset refuses.
    shown = [each for each in (error, error.__cause__) if each is not None]
    refused = next((each for each in shown if is_refusal(each, _ARGUMENTS)), None)
    full = next((each for each in _causes(error) if _FULL in str(each)), None)
    if refused is not None:
        sys.stderr.write(f"\nError: {refused}\n")
    elif full is not None:
        where = " ".join(str(full).split())
        sys.stderr.write(f"\nError: the disk is full: make room, and the same command continues ({where})\n")
    else:
        sys.__excepthook__(kind, error, trace)


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    """Yield an error and its causes, the outermost first."""
    while error is not None:
        yield error
        error = error.__cause__
