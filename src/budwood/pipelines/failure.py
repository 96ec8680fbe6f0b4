"""What a user sees of a run that fails."""

import sys
import traceback
from pathlib import Path
from types import TracebackType

import kedro

_PACKAGE = Path(__file__).parents[1]
_ARGUMENTS = tuple(Path(kedro.__file__).parent / part for part in ("framework/session", "pipeline"))
"""Where Kedro refuses names of pipelines, nodes, tags and namespaces that are not there."""


def show(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    """Print an uncaught error: what is refused as its message alone, and a bug with its traceback.

    This is a `sys.excepthook`, so it changes what is printed and nothing else.
    """
    # Kedro wraps what a dataset refuses.
    refused = next((each for each in (error, error.__cause__) if each is not None and is_refusal(each)), None)
    if refused is None:
        sys.__excepthook__(kind, error, trace)
    else:
        sys.stderr.write(f"\nError: {refused}\n")


def is_refusal(error: BaseException) -> bool:
    """Return whether this package refused something by `raise`, or Kedro an argument of the command line.

    Assertions and other errors of libraries are bugs.
    """
    frames = traceback.extract_tb(error.__traceback__)
    refusing = (_PACKAGE, *_ARGUMENTS) if isinstance(error, ValueError) else (_PACKAGE,)
    return (
        bool(frames)
        and any(Path(frames[-1].filename).is_relative_to(folder) for folder in refusing)
        and str(frames[-1].line).startswith("raise ")
    )
