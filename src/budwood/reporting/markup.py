"""Markdown from strings."""

import math
import re
from collections.abc import Mapping, Sequence

import pandas as pd

from budwood.records.names import Variant
from budwood.reporting import formats

NO_TRAINING, NO_SEARCH = "No arm was trained.", "Nothing was searched."


def markdown_table(columns: Mapping[str, list[str]], num_labels: int) -> str:
    """Return a markdown table of formatted strings; the first `num_labels` columns are text, the others numbers."""
    safe = {_cell(name): [_cell(value) for value in values] for name, values in columns.items()}
    align = ["left"] * num_labels + ["right"] * (len(safe) - num_labels)
    frame = pd.DataFrame(safe, dtype=object)
    return frame.to_markdown(index=False, disable_numparse=True, colalign=align if len(frame) else None)


def nested_list(values: Mapping[str, object], depth: int = 0) -> str:
    """Return a mapping as a markdown list, one level deeper for each mapping inside."""
    lines = []
    for name, value in values.items():
        inside = f"\n{nested_list(value, depth + 1)}" if isinstance(value, Mapping) and value else f" `{value}`"
        lines.append(f"{'  ' * depth}- {name}:{inside}")
    return "\n".join(lines)


def means_and_errors(frame: pd.DataFrame, mean: str, error: str, *, signed: bool = False) -> list[str]:
    """Return the means of a column with the errors of another."""
    pairs = zip(frame[mean], frame[error], strict=True)
    return [formats.plus_minus(value, standard_error, signed=signed) for value, standard_error in pairs]


def intervals(values: Sequence[float | None], bounds: Sequence[Sequence[float | None] | None]) -> list[str]:
    """Return values with the ends of their intervals in brackets; ends that are not known are n/a."""
    return [
        formats.MISSING if value is None else f"{value:.3f} {_interval(ends)}"
        for value, ends in zip(values, bounds, strict=True)
    ]


def _interval(ends: Sequence[float | None] | None) -> str:
    known = [end for end in ends or () if end is not None and math.isfinite(end)]
    return "[{:.3f}, {:.3f}]".format(*known) if len(known) == 2 else f"[{formats.MISSING}]"  # noqa: PLR2004


def variant_names(frame: pd.DataFrame) -> list[str]:
    """Return the variant of every row of a table."""
    return [str(Variant(bin_name, space)) for bin_name, space in zip(frame["bin"], frame["space"], strict=True)]


def once(values: list[str]) -> list[str]:
    """Return values with an empty string wherever one repeats the one above."""
    above = ["", *values]
    return ["" if value == before else value for value, before in zip(values, above, strict=False)]


def literal(text: str) -> str:
    """Return text as one line of markdown that shows it as it is, without any markup."""
    marked = re.sub(r"([\\`*_\[\]<>&~|#+={}-])", r"\\\1", " ".join(text.split()))
    return re.sub(r"^(\d+)([.)])", r"\1\\\2", marked)


def plural(number: int, noun: str) -> str:
    """Return a number with its noun."""
    return f"{number:,} {noun}{'' if number == 1 else 's'}"


def _cell(text: str) -> str:
    return " ".join(text.replace("|", "\\|").split())
