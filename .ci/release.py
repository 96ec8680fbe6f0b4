"""Check that a version can be released, and print its section of the changelog: `python .ci/release.py v0.2.0`."""

import re
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]
PLACES = {
    "src/budwood/__init__.py": re.compile(r'^__version__ = "(.+)"$', re.MULTILINE),
    "CITATION.cff": re.compile(r"^version: (.+)$", re.MULTILINE),
}
"""Where the version is written."""
SECTION = re.compile(r"^## (?P<version>\S+) - (?P<date>.+)\n(?P<text>(?:(?!## ).*\n)*)", re.MULTILINE)


def notes(root: Path, version: str) -> str:
    """Return the section of a version, without its heading.

    Raises:
        ValueError: another version is written somewhere, or the changelog has no dated section of it on top.
    """
    for place, pattern in PLACES.items():
        (found,) = pattern.findall((root / place).read_text(encoding="utf-8"))
        if found != version:
            raise ValueError(f"{place} has version {found}, and {version} is to be released")
    newest = SECTION.search((root / "CHANGELOG.md").read_text(encoding="utf-8"))
    if newest is None or newest["version"] != version:
        raise ValueError(f"CHANGELOG.md: the newest section must be `## {version} - <date>`")
    if not re.fullmatch(r"\d{4}-\d{2}-\d{2}", newest["date"]):
        raise ValueError(
            f"CHANGELOG.md: {version} needs the day of its release, such as 2026-12-01, got {newest['date']}"
        )
    return newest["text"].strip()


if __name__ == "__main__":
    try:
        print(notes(ROOT, sys.argv[1].removeprefix("v")))
    except ValueError as error:
        sys.exit(str(error))
