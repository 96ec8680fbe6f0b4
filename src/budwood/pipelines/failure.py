"""What a user sees of a run that fails."""

import sys
from pathlib import Path
from types import TracebackType

import kedro

from budwood.records.refusal import is_refusal

_ARGUMENTS = tuple(Path(kedro.__file__).parent / part for part in ("framework/session", "pipeline"))
"""Where Kedro refuses names of pipelines, nodes, tags and namespaces that are not there."""


def show(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    """Print an uncaught error: what is refused as its message alone, and a bug with its traceback.

    This is a `sys.excepthook`, so it changes what is printed and nothing else.
    """
    # Kedro wraps what a dataset refuses.
    shown = [each for each in (error, error.__cause__) if each is not None]
    refused = next((each for each in shown if is_refusal(each, _ARGUMENTS)), None)
    if refused is None:
        sys.__excepthook__(kind, error, trace)
    else:
        sys.stderr.write(f"\nError: {refused}\n")
