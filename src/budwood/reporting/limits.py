"""What chosen sub-networks take of what their bins limit."""

from collections.abc import Sequence

from budwood.arch.limits import in_words
from budwood.records.names import Variant
from budwood.records.search import Winner
from budwood.reporting.markup import markdown_table, once


def limited(found: Sequence[Winner]) -> str:
    """Return what the sub-networks take of what their bins limit; empty where there are no limits."""
    rows = [(winner, taken) for winner in found for taken in winner.taken]
    if not rows:
        return ""
    columns = {
        "variant": once([str(Variant(winner.bin, winner.space)) for winner, _ in rows]),
        "limited": [taken.limit for _, taken in rows],
        "at most": [in_words(taken.limit, taken.most) for _, taken in rows],
        "takes": [in_words(taken.limit, taken.amount) for _, taken in rows],
        "share": [f"{taken.amount / taken.most:.0%}" for _, taken in rows],
    }
    return f"\n\n### What bins limit\n\nOf the sub-networks that were chosen.\n\n{markdown_table(columns, 2)}"
