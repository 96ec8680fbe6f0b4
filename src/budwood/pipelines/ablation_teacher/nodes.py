"""Fetch the teachers that are neither the study's own nor sub-networks of it."""

from pathlib import Path

from budwood.parameters import AblationParameters
from budwood.pipelines.work import claim
from budwood.subnet.teacher import fetch_teacher


def fetch_teachers(ablations: AblationParameters, workspace: Path) -> tuple[Path, ...]:
    """Return the folders of all teachers with a source, in the order of their names in the parameters.

    Raises:
        ValueError: one cannot be fetched, or is of an unsupported family.
    """
    folders = []
    for teacher in ablations.teachers.values():
        if teacher.source is not None:
            facts = {"teacher": teacher.source.model_dump(exclude={"architecture"})}
            folders.append(fetch_teacher(teacher.source.source(), claim(workspace, "teacher", facts)).folder)
    return tuple(folders)
