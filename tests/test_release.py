"""A version is released whole: the same everywhere, with a dated section in the changelog."""

import re
import runpy
import shutil

import pytest
from projects import ROOT

import budwood

notes = runpy.run_path(str(ROOT / ".ci/release.py"))["notes"]


@pytest.fixture
def root(tmp_path):
    """Return the files that have a version, with a section of that version."""
    (tmp_path / "src/budwood").mkdir(parents=True)
    for name in ("src/budwood/__init__.py", "CITATION.cff"):
        shutil.copy(ROOT / name, tmp_path / name)
    section = f"## {budwood.__version__} - 2026-12-01\n\n### Added\n\n- One.\n\n"
    (tmp_path / "CHANGELOG.md").write_text(f"# Changelog\n\n## Unreleased\n\n{section}## 0.0.1 - 2026-01-01\n")
    return tmp_path


def test_the_notes_are_the_section_of_the_version(root):
    assert notes(root, budwood.__version__) == "### Added\n\n- One."


@pytest.mark.parametrize(
    ("file", "before", "after", "expected"),
    [
        ("CITATION.cff", "\nversion: ", "\nversion: 9", "CITATION.cff has version 9"),
        ("src/budwood/__init__.py", '__version__ = "', '__version__ = "9', "__init__.py has version 9"),
        ("CHANGELOG.md", "- 2026-12-01", "- unreleased", "needs the day of its release"),
        ("CHANGELOG.md", f"## {budwood.__version__} -", "## 9 -", "the newest section must be"),
    ],
)
def test_what_is_not_ready_is_refused(root, file, before, after, expected):
    text = (root / file).read_text()
    assert text.count(before) == 1
    (root / file).write_text(text.replace(before, after))
    with pytest.raises(ValueError, match=re.escape(expected)):
        notes(root, budwood.__version__)


def test_the_version_is_the_same_everywhere():
    """Only the date may be missing until the day of the release."""
    try:
        assert notes(ROOT, budwood.__version__)
    except ValueError as error:
        assert "needs the day of its release" in str(error)  # noqa: PT017 - either is right
