"""What a user sees of a run that fails."""

import sys
import traceback
from pathlib import Path
from types import TracebackType

_PACKAGE = Path(__file__).parents[1]


def show(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    """Print an uncaught error: what budwood itself refuses as its message alone, and a bug with its traceback.

    This is a `sys.excepthook`, so it changes what is printed and nothing else.
    """
    # Kedro wraps what a dataset refuses.
    refused = next((each for each in (error, error.__cause__) if each is not None and is_refusal(each)), None)
    if refused is None:
        sys.__excepthook__(kind, error, trace)
    else:
        sys.stderr.write(f"\nError: {refused}\n")


def is_refusal(error: BaseException) -> bool:
    """Return whether a `raise` of this package made the error; assertions and errors of libraries are bugs."""
    frames = traceback.extract_tb(error.__traceback__)
    return (
        bool(frames)
        and Path(frames[-1].filename).is_relative_to(_PACKAGE)
        and str(frames[-1].line).startswith("raise ")
    )
