"""Signs that are written with the letter before them, such as the vowels of Hindi and Thai."""

import unicodedata

_VARIANTS = range(0xFE00, 0xFE10)
"""Marks that say how the sign before them is drawn, which may be a picture."""


def is_mark(character: str) -> bool:
    r"""Whether a character is such a sign; `\w` of a regular expression has none of them."""
    return unicodedata.category(character) in ("Mn", "Mc") and ord(character) not in _VARIANTS


def letter_pattern(text: str) -> str:
    """Return a regular expression for a letter, or a mark, of a text."""
    marks = "".join(sorted(filter(is_mark, set(text))))
    return rf"(?:[^\W\d_]|[{marks}])" if marks else r"[^\W\d_]"
