"""Enumerate what can be searched."""

import pandas as pd

from budwood.records.names import Variant
from budwood.records.teacher import TeacherRecord
from budwood.search.settings import SearchSettings
from budwood.study import space
from budwood.study.settings import BinSettings
from budwood.subnet.settings import SpaceSettings


def enumerate_spaces(
    teacher_record: TeacherRecord,
    bins: dict[str, BinSettings],
    spaces: dict[str, SpaceSettings],
    grid: dict[str, tuple[str, ...]],
) -> pd.DataFrame:
    """Return one row per variant: bin, size of the space, smallest and largest member.

    Raises:
        ValueError: a bin cannot be reached, or two overlap; nothing expensive has run yet.
    """
    variants = [Variant(bin_name, name) for bin_name, names in grid.items() for name in names]
    return space.enumerate_spaces(teacher_record, bins, spaces, variants)


def sample_spaces(
    teacher_record: TeacherRecord, search_spaces: pd.DataFrame, spaces: dict[str, SpaceSettings], search: SearchSettings
) -> pd.DataFrame:
    """Return the parameter counts of uniform draws from every space."""
    return space.sample_spaces(
        teacher_record.architecture, spaces, search_spaces["space"].unique().tolist(), search.seed
    )
