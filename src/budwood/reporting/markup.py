"""Markdown from ready strings."""

from collections.abc import Mapping

import pandas as pd

from budwood.reporting import formats


def markdown_table(columns: Mapping[str, list[str]], num_labels: int) -> str:
    """Return a markdown table of ready strings; the first `num_labels` columns are text, the others numbers."""
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


def once(values: list[str]) -> list[str]:
    """Leave out what only repeats the line above."""
    above = ["", *values]
    return ["" if value == before else value for value, before in zip(values, above, strict=False)]


def plural(number: int, noun: str) -> str:
    """Return a number with its noun."""
    return f"{number:,} {noun}{'' if number == 1 else 's'}"


def _cell(text: str) -> str:
    return " ".join(text.replace("|", "\\|").split())
