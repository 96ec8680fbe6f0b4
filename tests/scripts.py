"""The benchmarks, imported as scripts import each other, and their quickstart on a random teacher and short text."""

import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from projects import ROOT

import budwood

FOLDER = ROOT / "benchmarks"
SPLITS = {"train": 0.4, "calibration": 0.15, "selection": 0.15, "choice": 0.15, "validation": 0.15}


@contextmanager
def beside_scripts(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Import what scripts share as they do, and forget it afterwards."""
    monkeypatch.syspath_prepend(FOLDER)
    before = set(sys.modules)
    yield
    for name in set(sys.modules) - before:
        if Path(getattr(sys.modules[name], "__file__", None) or "").parent == FOLDER:
            del sys.modules[name]


def small_quickstart(
    monkeypatch: pytest.MonkeyPatch, random: Mapping[str, Any], splits: Mapping[str, float] = SPLITS
) -> None:
    """Put a random teacher and short text in place of the quickstart's."""
    import quickstart

    text = budwood.SourceSettings(path=("package://encodings/cp*.py",), splits=dict(splits))
    counts = {"length": 32, "calibration": 4, "elimination": 1, "selection": 3, "choice": 2, "validation": 2}
    monkeypatch.setattr(quickstart, "LENGTH", 32)
    monkeypatch.setattr(quickstart, "TEACHER", budwood.TeacherSettings(random=dict(random)))
    monkeypatch.setattr(quickstart, "WIKIPEDIA", text)
    monkeypatch.setattr(quickstart, "MEASUREMENT", budwood.MeasurementSettings(**counts, heldout=1))
