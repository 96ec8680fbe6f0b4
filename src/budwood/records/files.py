"""Files written whole or not at all."""

from pathlib import Path


def write_atomically(file: Path, text: str) -> None:
    """Write a file whole or not at all; its folder is made where there is none."""
    file.parent.mkdir(parents=True, exist_ok=True)
    partial = file.with_name(f"{file.name}.partial")
    partial.write_text(text, encoding="utf-8")
    partial.replace(file)
