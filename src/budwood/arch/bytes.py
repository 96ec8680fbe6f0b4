"""Amounts of memory in words."""

import math

_PREFIXES = ("", "Ki", "Mi", "Gi", "Ti", "Pi")


def spell_bytes(amount: float, digits: int = 3) -> str:
    """Return an amount of memory: 812 B, 4.20 MiB, 23.6 GiB; with four digits 4.200 MiB.

    Args:
        amount: in bytes.
        digits: that are significant; whole numbers are not cut.
    """
    if not math.isfinite(amount):
        return "n/a"
    power = min(len(_PREFIXES) - 1, max(0, math.floor(math.log2(amount) / 10))) if amount >= 1 else 0
    scaled = amount / 1024**power
    decimals = max(0, digits - len(str(int(scaled)))) if power else 0
    return f"{scaled:,.{decimals}f} {_PREFIXES[power]}B"
