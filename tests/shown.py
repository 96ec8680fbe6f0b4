"""What the documentation shows to be run: fenced blocks, and commands in blocks and in the text."""

import re
from functools import cache
from pathlib import Path
from typing import NamedTuple

from projects import ROOT

DOCS = ROOT / "docs"
PAGES = sorted([*DOCS.rglob("*.md"), *ROOT.glob("*.md"), *(ROOT / ".github").rglob("*.md")])
TROUBLESHOOTING = DOCS / "guides/troubleshooting.md"
FENCE = re.compile(r"^```([^\n]*)\n(.*?)^```$\n?", re.MULTILINE | re.DOTALL)
INLINE = re.compile(r"``(.+?)``|(?<!`)`([^`]+)`(?!`)")
COMMAND = re.compile(r"([A-Z_]+=\S+ )*[\w.][\w./-]* (?![=+/] )\S")
"""A program and an argument, after variables of the environment; a formula has an operator there."""
NO_COMMANDS = {
    *("with search", "with selection", "with teacher", "whole study"),
    "The hidden size (228) is not a multiple of the number of attention heads (9).",
}
"""Other inline code that begins like one."""


class Block(NamedTuple):
    """A fenced block of a page."""

    page: Path
    language: str
    text: str

    @property
    def where(self) -> str:
        return f"{self.page.relative_to(ROOT)}: {self.text.splitlines()[0][:50]}"


def blocks(language: str) -> list[Block]:
    """Return the blocks of all pages in a language; those of `""` are commands."""
    found = [Block(page, *match) for page in PAGES for match in FENCE.findall(page.read_text(encoding="utf-8"))]
    return [block for block in found if block.language == language]


def messages() -> set[str]:
    """Return the messages that the troubleshooting explains: the first column of its tables."""
    rows = re.findall(r"^\| (.*?) \| ", TROUBLESHOOTING.read_text(encoding="utf-8"), re.MULTILINE)
    return {(quoted or plain).strip() for row in rows for quoted, plain in INLINE.findall(row)}


@cache
def commands() -> list[str]:
    """Return every command that a page shows.

    Those are the lines of blocks without a language, and all inline code that begins as a command does. The changelog
    is left out: what it names may be gone.
    """
    found: set[str] = set()
    for page in PAGES:
        text = page.read_text(encoding="utf-8") if page.name != "CHANGELOG.md" else ""
        found |= {line for language, block in FENCE.findall(text) if not language for line in _lines(block)}
        inline = {" ".join((quoted or plain).split()) for quoted, plain in INLINE.findall(FENCE.sub("", text))}
        found |= {code for code in inline if COMMAND.match(code)}
    return sorted(found - NO_COMMANDS - messages())


def _lines(text: str) -> list[str]:
    """Return the commands of a block, without comments."""
    return [line.partition("  #")[0].strip() for line in re.sub(r"\\\n\s*", "", text).splitlines()]
