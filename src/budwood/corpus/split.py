"""Which split a text belongs to, decided by the text itself."""

import math
from collections.abc import Mapping
from hashlib import blake2b

SPLITS = ("train", "calibration", "selection", "choice", "validation")
"""`train` trains students, `calibration` scores importance, `selection` scores candidates during the search, `choice`
picks among the finalists, `validation` is only ever reported."""

_FRACTION_TOLERANCE = 1e-9
_DIGEST_BYTES = 8


def validate_fractions(fractions: Mapping[str, float]) -> None:
    """Refuse fractions that do not divide a source.

    Args:
        fractions: Share of each split, by its name in `SPLITS`; splits left out get nothing.

    Raises:
        ValueError: a name is no split, a share is negative or not finite, or the shares do not sum to 1 within 1e-9.
    """
    unknown = sorted(set(fractions) - set(SPLITS))
    if unknown:
        raise ValueError(f"splits names {unknown}; allowed are {list(SPLITS)}")
    if not all(math.isfinite(share) and share >= 0 for share in fractions.values()):
        raise ValueError(f"splits must hold shares of at least 0, got {dict(fractions)}")
    total = math.fsum(fractions.values())
    if abs(total - 1) > _FRACTION_TOLERANCE:
        raise ValueError(f"splits must sum to 1, got {total} from {dict(fractions)}")


def assign_split(text: str, fractions: Mapping[str, float], seed: int) -> str:
    """Draw the split of a text from a hash of the seed and the text.

    Equal texts land in the same split, wherever they stand and whatever surrounds them, so that a corpus can grow
    without moving a document that was there before.

    Args:
        text: The document.
        fractions: Share of each split, by its name in `SPLITS`.
        seed: Selects another, independent assignment.

    Returns:
        A name from `SPLITS` whose share is positive.

    Raises:
        ValueError: `fractions` does not divide a source (see `validate_fractions`).
    """
    validate_fractions(fractions)
    digest = blake2b(f"{seed}\0{text}".encode(), digest_size=_DIGEST_BYTES).digest()
    point = int.from_bytes(digest) / 256**_DIGEST_BYTES
    possible = [split for split in SPLITS if fractions.get(split, 0) > 0]
    edge = 0.0
    for split in possible[:-1]:
        edge += fractions[split]
        if point < edge:
            return split
    # The last one takes what rounding leaves between the summed shares and 1.
    return possible[-1]
