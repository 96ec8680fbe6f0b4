"""Numbers as people read them."""

import math

MISSING = "n/a"
_SECONDS_PER_MINUTE, _SECONDS_PER_HOUR, _SECONDS_PER_DAY = 60, 3600, 86400
_DAYS_IN_HOURS = 3
"""Days up to which a time is given in hours."""
_COUNT_PREFIXES = ("", "k", "M", "B", "T")
_FLOP_PREFIXES = ("", "k", "M", "G", "T", "P", "E", "Z")


def significant(value: float, digits: int = 3) -> str:
    """Return a number with a few significant digits and no exponent: 0.0123, 1.80, 12.3, 1,230."""
    if not math.isfinite(value):
        return MISSING if math.isnan(value) else str(value)
    if value == 0:
        return "0"
    rounded = float(f"{value:.{digits - 1}e}")
    decimals = max(0, digits - 1 - math.floor(math.log10(abs(rounded))))
    return f"{rounded:,.{decimals}f}"


def count(value: float, digits: int = 4) -> str:
    """Return a count with a prefix: 812, 20.48k, 134.5M, 6.857B. Small counts are exact."""
    return f"{round(value):,}" if abs(value) < 10**digits else _scaled(value, _COUNT_PREFIXES, digits)


def flops(value: float) -> str:
    """Return an amount of floating-point operations: 12.3 TFLOP."""
    if not math.isfinite(value):
        return MISSING
    number = _scaled(value, _FLOP_PREFIXES, 3)
    return f"{number} FLOP" if number[-1].isdigit() else f"{number[:-1]} {number[-1]}FLOP"


def duration(seconds: float) -> str:
    """Return a time: 41.0 ms, 4.20 s, 12 min 5 s, 3 h 20 min, 12.4 days."""
    if not math.isfinite(seconds):
        return MISSING
    if 0 < seconds < 1:
        return f"{significant(1000 * seconds)} ms"
    if seconds < _SECONDS_PER_MINUTE:
        return f"{significant(seconds)} s"
    whole = round(seconds)
    if whole < _SECONDS_PER_HOUR:
        return f"{whole // _SECONDS_PER_MINUTE} min {whole % _SECONDS_PER_MINUTE} s"
    if whole > _DAYS_IN_HOURS * _SECONDS_PER_DAY:
        return f"{significant(whole / _SECONDS_PER_DAY)} days"
    return f"{whole // _SECONDS_PER_HOUR} h {whole % _SECONDS_PER_HOUR // _SECONDS_PER_MINUTE} min"


def plus_minus(mean: float, standard_error: float, *, signed: bool = False) -> str:
    """Return a mean with its standard error, both to the error's second significant digit: 4.431 ± 0.052."""
    if math.isnan(mean):
        return MISSING
    sign = "+" if signed else ""
    if not (math.isfinite(standard_error) and standard_error > 0):
        return f"{mean:{sign}.3f} ± {significant(standard_error)}"
    decimals = max(0, 1 - math.floor(math.log10(standard_error)))
    return f"{mean:{sign}.{decimals}f} ± {standard_error:.{decimals}f}"


def _scaled(value: float, prefixes: tuple[str, ...], digits: int) -> str:
    """Return a value with the prefix that leaves one to three digits before the point."""
    if not math.isfinite(value):
        return MISSING
    rounded = float(f"{value:.{digits - 1}e}")
    power = min(len(prefixes) - 1, max(0, math.floor(math.log10(abs(rounded)) / 3))) if rounded else 0
    return significant(rounded / 1000**power, digits) + prefixes[power]
