"""Whether an error is a message for the user, or a bug."""

import traceback
from collections.abc import Sequence
from pathlib import Path

_PACKAGE = Path(__file__).parents[1]


def is_refusal(error: BaseException, elsewhere: Sequence[Path] = ()) -> bool:
    """Return whether this package refused something by `raise`: its message then says all.

    Assertions and errors that libraries raise are bugs, and need their traceback.

    Args:
        error: with the traceback that it was raised with; what was pickled has lost it.
        elsewhere: folders of other packages whose own `ValueError`s are refusals too.
    """
    frames = traceback.extract_tb(error.__traceback__)
    refusing = (_PACKAGE, *elsewhere) if isinstance(error, ValueError) else (_PACKAGE,)
    return (
        bool(frames)
        and any(Path(frames[-1].filename).is_relative_to(folder) for folder in refusing)
        and str(frames[-1].line).startswith("raise ")
    )
