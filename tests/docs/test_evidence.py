"""The evidence: every table says what made it, and numbers in links are where the links lead."""

import re
from pathlib import Path

import pytest
from markdown.extensions.toc import slugify
from projects import ROOT
from shown import DOCS, FENCE, PAGES

INDEX = DOCS / "evidence/index.md"
MEASURED = sorted({*INDEX.parent.glob("*.md")} - {INDEX})
SOURCE = re.compile(r"<small>Measured: (.*)</small>", re.DOTALL)
NOT_KEPT = "a script that is not kept"
MAY_LACK_A_SCRIPT = {
    "tried.md",
    "search.md#what-its-parts-are-worth",
    "search.md#refit",
    "search.md#what-servable-costs",
    "speed.md#quantised-files",
}
ELSEWHERE = [page for page in PAGES if page.parent != INDEX.parent and page.name != "CHANGELOG.md"]
FIGURE = re.compile(r"\d nats\b|± [\d.]+(?![\d.]*%)")
"""What was measured. The width of a bin, `± 5%`, was not."""
NO_FIGURES = re.compile(
    r"at most 0\.001 nats (?:apart|ahead)|Differences up to 0\.001 nats are accepted|"
    r"guessing \(10\.8 nats for a vocabulary of 49,152\)"
)
"""Bounds, and what follows from a size."""
MEASURED_TABLE = re.compile(r"\b(measured|nats|off by)\b")
"""In the first row of a table."""
NAMED = re.compile(r"\]\([^)]*(evidence/\w+|quickstart)\.md[^)]*\)|published by commit")
LINK = re.compile(r"\[([^\]]+)\]\(([^)\s]*)\)")
NUMBER = re.compile(r"\d[\d.,]*\d|\d")


def machines() -> list[str]:
    """Return the words for machines that the index explains."""
    table = INDEX.read_text(encoding="utf-8").partition("| machine | is |\n")[2]
    return re.findall(r"^\| (.+?) \|", table, re.MULTILINE)


def slug(heading: str) -> str:
    return slugify(re.sub(r"[`*]", "", heading), "-")


def section(page: Path, anchor: str) -> str:
    """Return the text below a heading, with what its own headings have, or the whole page."""
    text = page.read_text(encoding="utf-8")
    if not anchor:
        return text
    for heading in re.finditer(r"^(#+) (.+)$", text, re.MULTILINE):
        if slug(heading[2]) == anchor:
            rest = text[heading.end() :]
            return re.split(rf"^#{{1,{len(heading[1])}}} ", rest, maxsplit=1, flags=re.MULTILINE)[0]
    pytest.fail(f"{page.name} has no heading #{anchor}")


def shown(page: Path) -> list[tuple[str, str]]:
    """Return the headings, figures, tables and sources of a page, each with the place where it is."""
    found, place = [], page.name
    for block in re.split(r"\n\s*\n", page.read_text(encoding="utf-8")):
        if block.startswith("#"):
            place = f"{page.name}#{slug(block.lstrip('# '))}"
        if block.startswith(("#", "![", "|", "<small>")):
            found.append((place, block))
    return found


def has_links(block: str) -> bool:
    """Whether every row of a table links to the table where its figures are."""
    return block.startswith("|") and all("](" in row for row in block.splitlines()[2:])


def unsourced(text: str) -> list[str]:
    """Return the paragraphs and rows with figures of a page outside the evidence that name no source.

    A table has its source below it, or in the paragraph above.
    """
    blocks = re.split(r"\n\s*\n", FENCE.sub("", text).strip())
    blocks = [NO_FIGURES.sub("", block if block.startswith("|") else " ".join(block.split())) for block in blocks]
    lacking = []
    for before, block, after in zip(["", *blocks], blocks, [*blocks[1:], ""], strict=False):
        table = block.startswith("|")
        if (table and (after.startswith("<small>") or NAMED.search(before))) or block.startswith("<small>"):
            continue
        parts = block.splitlines() if table else [block]
        lacking += [part for part in parts if FIGURE.search(part) and not NAMED.search(part)]
        if table and MEASURED_TABLE.search(parts[0]):
            lacking.append(parts[0])
    return lacking


@pytest.mark.parametrize("page", ELSEWHERE, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_figures_elsewhere_name_their_source(page: Path):
    assert not unsourced(page.read_text(encoding="utf-8"))


@pytest.mark.parametrize(
    ("text", "lacking"),
    [
        ("A half has 5.03 nats.", 1),
        ("A half has [5.03 nats](../evidence/search.md).", 0),
        ("It is 0.3 ± 0.1 ahead (2026-11-29, published by commit `0123abc`).", 0),
        ("A bin is ± 5% wide, or ± 12.5%.", 0),
        ("| loss |\n|---|\n| 1.0 ± 0.1 |\n| 1.1 ± 0.1 |", 2),
        ("| loss |\n|---|\n| 1.0 ± 0.1 |\n\n<small>Measured: so</small>", 0),
        ("[How](start/quickstart.md):\n\n| loss |\n|---|\n| 1.0 ± 0.1 |", 0),
        ("| stage | measured |\n|---|---|\n| all | 3 |", 1),
    ],
)
def test_a_figure_without_a_source_is_found(text: str, lacking: int):
    assert len(unsourced(text)) == lacking


@pytest.mark.parametrize("page", MEASURED, ids=lambda page: page.name)
def test_every_table_and_figure_is_followed_by_its_source(page: Path):
    blocks = shown(page)
    for (place, block), (_, following) in zip(blocks, [*blocks[1:], ("", "")], strict=True):
        if block.startswith("!["):
            assert following.startswith(("|", "<small>")), f"{place}: {block}"
        if block.startswith("|") and not has_links(block):
            assert following.startswith("<small>"), f"{place}: {block}"


@pytest.mark.parametrize("page", [page for page in PAGES if "<small>" in page.read_text()], ids=lambda page: page.name)
def test_a_source_is_a_script_with_date_commit_and_machine(page: Path):
    sources = [(place, block) for place, block in shown(page) if block.startswith("<small>")]
    for place, block in sources:
        source = " ".join(SOURCE.fullmatch(block.strip())[1].split())
        assert re.search(r"\b20\d\d-\d\d-\d\d\b", source), f"{place}: no date in {source}"
        assert re.search(r"`[0-9a-f]{7}`", source), f"{place}: no commit in {source}"
        assert any(machine in source for machine in machines()), f"{place}: no machine in {source}"
        scripts = re.findall(r"`(\w+\.py)\b", source)
        assert all((ROOT / "benchmarks" / script).exists() for script in scripts), f"{place}: {source}"
        if NOT_KEPT in source:
            assert {page.name, place} & MAY_LACK_A_SCRIPT, f"{place} needs a script that is kept"
        else:
            assert scripts or "`make run" in source, f"{place}: no script in {source}"


def test_numbers_in_links_are_where_the_links_lead():
    checked = 0
    for page in PAGES:
        for text, target in LINK.findall(page.read_text(encoding="utf-8")):
            path, _, anchor = target.partition("#")
            linked = (page.parent / path).resolve()
            if linked.parent == INDEX.parent:
                missing = set(NUMBER.findall(text)) - set(NUMBER.findall(section(linked, anchor)))
                assert not missing, f"{page.name}: [{text}]({target})"
                checked += 1
    assert checked


def test_every_claim_links_to_its_evidence():
    claims = INDEX.read_text(encoding="utf-8").partition("| question |")[2].partition("\n\n")[0]
    for row in claims.splitlines()[2:]:
        question, measured, _ = row.strip("| ").split(" | ")
        assert any(NUMBER.search(text) for text, _ in LINK.findall(measured)), question
