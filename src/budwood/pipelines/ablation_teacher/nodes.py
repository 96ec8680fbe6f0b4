"""Fetch the teachers that are neither the study's own nor sub-networks of it."""

from pathlib import Path

from budwood.parameters import AblationParameters
from budwood.pipelines.teacher.nodes import fetch_source


def fetch_teachers(ablations: AblationParameters, workspace: Path) -> tuple[Path, ...]:
    """Return the folders of all teachers with a source, in the order of their names in the parameters.

    Raises:
        ValueError: one cannot be fetched, or is of an unsupported family.
    """
    sources = (teacher.source for teacher in ablations.teachers.values())
    return tuple(fetch_source(source, workspace).folder for source in sources if source is not None)
