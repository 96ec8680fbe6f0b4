"""Reports of made-up studies, written once for equal content: many tests ask for parts of one."""

import pickle
import re
from collections.abc import Callable
from typing import Any, TypeVar

from budwood.reporting.findings import Findings
from budwood.reporting.report import Report, write_report

Made = TypeVar("Made")

_MADE: dict[tuple[str, bytes], Any] = {}


def once(what: str, given: object, make: Callable[[], Made]) -> Made:
    """Return what is made of something, once for equal content."""
    key = (what, pickle.dumps(given))
    if key not in _MADE:
        _MADE[key] = make()
    made: Made = _MADE[key]
    return made


def report_on(findings: Findings) -> Report:
    """Return the report."""
    return once("report", findings, lambda: write_report(findings))


def section(findings: Findings, title: str) -> str:
    """Return the text of a section, without the padding of its tables."""
    (found,) = [part.body for part in report_on(findings).sections if part.title == title]
    return re.sub(" +", " ", found)
