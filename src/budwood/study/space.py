"""What can be searched, before anything expensive."""

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd

from budwood.arch.bins import ParameterBin, require_disjoint
from budwood.arch.count import num_parameters, population_parameters
from budwood.arch.sampling import draw_many, sample
from budwood.arch.spec import Architecture
from budwood.records.names import Variant
from budwood.records.strict import naming
from budwood.records.teacher import TeacherRecord
from budwood.search.settings import SearchSettings
from budwood.study.forecast import draw_members
from budwood.study.settings import BinSettings
from budwood.subnet.settings import SpaceSettings

NUM_SAMPLES = 2000
"""Uniform draws behind the figure of a space's spread."""


def enumerate_spaces(
    teacher: TeacherRecord,
    bins: Mapping[str, BinSettings],
    spaces: Mapping[str, SpaceSettings],
    grid: Mapping[str, Sequence[str]],
) -> pd.DataFrame:
    """Return one row per variant: bin, size of the space, smallest and largest member.

    The bounds of a bin of limits alone are those of members that were drawn.

    Raises:
        ValueError: a bin cannot be reached, or two overlap; nothing expensive has run yet.
    """
    rows, variants = [], [Variant(bin_name, space) for bin_name, names in grid.items() for space in names]
    ranges = check_bins({name: bins[name] for name in grid}, teacher.architecture, teacher.num_token_ids)
    for variant in variants:
        parameter_bin, space = ranges[variant.bin], spaces[variant.space].search_space(teacher.architecture)
        with naming(f"bins.{variant.bin} in spaces.{variant.space}"):
            require_members(teacher.architecture, parameter_bin, spaces[variant.space])
        low, high = parameter_bin.low, parameter_bin.high
        if parameter_bin.least_load:
            counts = [num_parameters(member) for member in draw_members(space, parameter_bin)[0]]
            low, high = min(counts), max(counts)
        sizes = {"smallest": num_parameters(space.smallest()), "largest": num_parameters(space.largest())}
        members = {"log10_members": space.log10_size(), "log10_members_paper": space.log10_size("paper")}
        bounds = {"low": low, "high": high, "limits": ", ".join(map(str, parameter_bin.limits))}
        rows.append(variant._asdict() | bounds | sizes | members)
    return pd.DataFrame(rows)


def require_members(teacher: Architecture, parameter_bin: ParameterBin, space: SpaceSettings) -> None:
    """Check that a space has members in a bin, by drawing one.

    Raises:
        ValueError: none is found; the message gives the reachable range.
    """
    sample(space.search_space(teacher), parameter_bin, np.random.default_rng(0))


def sample_spaces(
    record: TeacherRecord, search_spaces: pd.DataFrame, spaces: Mapping[str, SpaceSettings], search: SearchSettings
) -> pd.DataFrame:
    """Return the parameter counts of uniform draws from all spaces, as columns `space` and `num_parameters`."""
    tables, teacher = [], record.architecture
    for name in search_spaces["space"].unique().tolist():
        draws = draw_many(spaces[name].search_space(teacher), NUM_SAMPLES, np.random.default_rng(search.seed))
        counts = population_parameters(draws.population, teacher).tolist()
        tables.append(pd.DataFrame({"space": name, "num_parameters": counts}))
    return pd.concat(tables)


def check_bins(
    bins: Mapping[str, BinSettings], teacher: Architecture, num_token_ids: int | None
) -> dict[str, ParameterBin]:
    """Return the bins for a teacher.

    Args:
        bins: those that are searched, by name.
        teacher: what is cut.
        num_token_ids: of the teacher's tokenizer; None where they are not known yet.

    Raises:
        ValueError: two overlap, or the reference of one cannot be trained as the sub-networks are.
    """
    found = {name: bin_.parameter_bin(teacher) for name, bin_ in bins.items()}
    require_disjoint(found)
    for name, bin_ in bins.items():
        _check_reference(name, bin_, teacher.family, num_token_ids)
    return found


def _check_reference(name: str, bin_: BinSettings, family: str, num_token_ids: int | None) -> None:
    reference = bin_.reference
    if reference is None:
        return
    if (own := reference.architecture().family) != family:
        raise ValueError(
            f"bins.{name}.reference: an architecture of the family {own!r} cannot be trained beside a teacher of the "
            f"family {family!r}, whose settings it takes; name an architecture of that family"
        )
    if num_token_ids is not None and reference.vocab_size < num_token_ids:
        raise ValueError(
            f"bins.{name}.reference: vocab_size={reference.vocab_size} must have the {num_token_ids} tokens of "
            "the teacher's tokenizer"
        )
