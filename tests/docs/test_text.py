"""The text of the documentation: what it names exists, its words are usual, and its links lead somewhere."""

import re

import reference
from projects import ROOT
from shown import DOCS, FENCE, PAGES

README_LINES = 150
LANGUAGES = {"", "python", "yaml", "text"}
"""Of blocks: commands, what tests run and validate, and what is only read."""
OUTDATED = re.compile(
    r"\b((fore|un)?told|whoever|shall|anew|(no|some)body|likewise|besides|hence|lest|goes on|holds?(?! out)"
    r"|lies at hand|st(ood|ands?)(?! for)|tells? (what|how|which|an?|the|every|nothing|one|whether))\b",
    re.IGNORECASE,
)
"""Words of a manner that readers stumble over."""
SPOKEN = [
    *(page for page in PAGES if page.name != "CHANGELOG.md"),
    *(ROOT / "Makefile", ROOT / "pyproject.toml", ROOT / "mkdocs.yml", ROOT / "CITATION.cff"),
    *(*(ROOT / "conf").rglob("*.yml"), *(ROOT / ".github").rglob("*.yml"), ROOT / ".ci/run", ROOT / ".ci/release.py"),
    *(*(ROOT / "notebooks").glob("*.ipynb"), *ROOT.glob("requirements-*.txt"), *(ROOT / "tests").rglob("*.sh")),
    *(file for folder in ("benchmarks", "docs", "src") for file in (ROOT / folder).rglob("*.py")),
]
"""Files that people read."""


def test_scripts_exist():
    for page in PAGES:
        for name in re.findall(r"(?<![\w/])(?:benchmarks|docs|notebooks|tests)/[\w/]+\.\w+", page.read_text()):
            assert (ROOT / name).exists() or name.endswith(("_cache.json",)), f"{page.name} names {name}"


def test_every_block_has_a_language_that_a_test_reads():
    for page in PAGES:
        text = page.read_text(encoding="utf-8")
        assert {language for language, _ in FENCE.findall(text)} <= LANGUAGES, page
        assert text.count("```") == 2 * len(FENCE.findall(text)), f"{page}: a block is indented or has no end"


def test_no_page_message_or_docstring_has_the_old_manner():
    for page in SPOKEN:
        for number, line in enumerate(page.read_text().splitlines(), 1):
            assert not OUTDATED.search(line), f"{page.name}:{number}: {line}"


def test_percentages_are_written_as_in_english():
    for page in PAGES:
        found = re.search(r"\d %.*", page.read_text(encoding="utf-8"))
        assert not found, f"{page.name}: {found and found[0]}"


def test_the_readme_is_short_and_its_links_lead_somewhere():
    text = (ROOT / "README.md").read_text()
    assert len(text.splitlines()) <= README_LINES
    for page in PAGES:
        for link in re.findall(r"\]\(([^)#\s]+)[^)]*\)|(?:src|srcset)=\"([^\"]+)\"", page.read_text()):
            target = link[0] or link[1]
            if "://" not in target:
                assert (page.parent / target).resolve().exists(), f"{page.name} links to {target}"


def test_generated_pages_have_a_file_that_says_how_they_are_made():
    for path in reference.PAGES:
        assert f"site/{path.removesuffix('.md')}.html" in (DOCS / path).read_text()


def test_the_tree_in_the_readme_is_the_tree():
    tree = (ROOT / "README.md").read_text().partition("## The tree")[2]
    named = set(re.findall(r"^  (\w+)/ ", tree, re.MULTILINE))
    assert named == {path.name for path in (ROOT / "src/budwood").iterdir() if (path / "__init__.py").is_file()}
