"""Which split a text belongs to, decided by the text itself."""

import math
import re
import unicodedata
from collections.abc import Mapping
from functools import lru_cache
from hashlib import blake2b
from itertools import takewhile

from budwood.corpus.marks import is_mark

FOREIGN = "foreign"
SPLITS = ("train", "calibration", "selection", "choice", "validation", FOREIGN)
"""`train` trains students, `calibration` scores importance, `selection` scores candidates during the search, `choice`
picks among the finalists, `validation` is only ever reported, `foreign` too: what training text lacks, to see what is
forgotten."""

_FRACTION_TOLERANCE = 1e-9
_DIGEST_BYTES = 8
_NOT_WORDS = re.compile(r"[\W_]+")


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
        raise ValueError(f"splits must be shares of at least 0, got {dict(fractions)}")
    total = math.fsum(fractions.values())
    if abs(total - 1) > _FRACTION_TOLERANCE:
        raise ValueError(f"splits must sum to 1, got {total} from {dict(fractions)}")


def text_digest(text: str, seed: int) -> int:
    """Hash a seed and a text to 64 bits, which give the text its split and its place, and identify equal texts.

    Among n distinct texts about n² / 2^65 pairs share a digest: 3e-6 pairs for ten million texts.
    """
    return int.from_bytes(blake2b(f"{seed}\0{text}".encode(errors="surrogatepass"), digest_size=_DIGEST_BYTES).digest())


def normalise(text: str) -> str:
    """Return a text without what near-duplicates differ in: case, spacing, punctuation, and compatible characters.

    Letters, digits and their marks are left, with nothing between them: so "well-known", "well known", and the same
    word divided at the end of a line are equal. A text without any of them stays as it is.
    """
    folded = unicodedata.normalize("NFKC", text).casefold()
    return _NOT_WORDS.sub(lambda found: _marks_of(found[0]), folded) or text


@lru_cache(10_000)
def _marks_of(found: str) -> str:
    """Return what is left of characters that are neither letters nor digits: the marks of the word before them."""
    return "".join(takewhile(is_mark, found))


def near_digest(text: str) -> int:
    """Hash what a text has in common with its near-duplicates to 64 bits."""
    return text_digest(normalise(text), 0)


def assign_split(digest: int, fractions: Mapping[str, float]) -> str:
    """Return the split in whose share of all digests one falls.

    Equal texts land in the same split, wherever they are and whatever surrounds them, so that a corpus can grow
    without moving a document that was there before.

    Args:
        digest: Of the document (`text_digest`).
        fractions: Share of each split, by its name in `SPLITS`; they divide a source (`validate_fractions`).

    Returns:
        A name from `SPLITS` whose share is positive.
    """
    point = digest / 256**_DIGEST_BYTES
    possible = [split for split in SPLITS if fractions.get(split, 0) > 0]
    edge = 0.0
    for split in possible[:-1]:
        edge += fractions[split]
        if point < edge:
            return split
    # The last one takes what rounding leaves between the summed shares and 1.
    return possible[-1]
