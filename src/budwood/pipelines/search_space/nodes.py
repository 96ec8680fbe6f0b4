"""Enumerate what can be searched."""

from typing import Any

import numpy as np
import pandas as pd
import plotly.graph_objects as go

from budwood.arch.bins import require_disjoint
from budwood.arch.count import num_parameters, population_parameters
from budwood.arch.sampling import draw_many, sample
from budwood.arch.spec import Architecture
from budwood.parameters import BinParameters, Bins, Grid, Spaces
from budwood.reporting.search_figures import parameter_spread
from budwood.search.settings import SearchSettings

NUM_SAMPLES = 2000
"""Uniform draws behind the figure of a space's spread."""


def enumerate_spaces(
    teacher_record: dict[str, Any], bins: dict[str, Any], spaces: dict[str, Any], grid: Grid
) -> pd.DataFrame:
    """Return one row per variant: bin, size of the space, smallest and largest member.

    Kedro types one bin and one space at a time; the dictionaries of all of them are typed here.

    Raises:
        ValueError: a bin cannot be reached, or two overlap; nothing expensive has run yet.
    """
    teacher = Architecture.from_dict(teacher_record["architecture"])
    rows = []
    ranges = {
        name: bin_.parameter_bin(num_parameters(teacher))
        for name, bin_ in Bins.model_validate(bins).root.items()
        if name in grid.root
    }
    require_disjoint(ranges)
    _check_references({name: Bins.model_validate(bins).root[name] for name in ranges}, teacher_record)
    for bin_name, space_name in grid.variants():
        parameter_bin = ranges[bin_name]
        settings = Spaces.model_validate(spaces).root[space_name]
        space = settings.search_space(teacher)
        try:
            space.require_reachable(parameter_bin)
            sample(space, parameter_bin, np.random.default_rng(0))
        except ValueError as error:
            raise ValueError(f"bins.{bin_name} in spaces.{space_name}: {error}") from None
        rows.append(
            {
                "bin": bin_name,
                "space": space_name,
                "low": parameter_bin.low,
                "high": parameter_bin.high,
                "smallest": num_parameters(space.smallest()),
                "largest": num_parameters(space.largest()),
                "log10_members": space.log10_size(),
                "log10_members_paper": space.log10_size("paper"),
                "reachable": True,
            }
        )
    return pd.DataFrame(rows)


def _check_references(bins: dict[str, BinParameters], teacher_record: dict[str, Any]) -> None:
    """Check that the reference of every bin can be trained as the sub-networks are."""
    family = teacher_record["architecture"]["family"]
    for name, bin_ in bins.items():
        if bin_.reference is None:
            continue
        if bin_.reference.model_type != family:
            raise ValueError(
                f"bins.{name}.reference: model_type {bin_.reference.model_type!r} cannot be trained beside a teacher "
                f"of the family {family!r}, whose settings it takes; name an architecture of that family"
            )
        if bin_.reference.vocab_size < teacher_record["num_token_ids"]:
            raise ValueError(
                f"bins.{name}.reference: vocab_size={bin_.reference.vocab_size} must hold the "
                f"{teacher_record['num_token_ids']} tokens of the teacher's tokenizer"
            )


def spread_spaces(
    teacher_record: dict[str, Any], search_spaces: pd.DataFrame, spaces: dict[str, Any], search: SearchSettings
) -> tuple[pd.DataFrame, go.Figure]:
    """Return the parameter counts of uniform draws from every space, and their figure with the bins."""
    teacher = Architecture.from_dict(teacher_record["architecture"])
    samples = pd.concat(
        pd.DataFrame(
            {
                "space": name,
                "num_parameters": _uniform_counts(Spaces.model_validate(spaces), name, teacher, search.seed),
            }
        )
        for name in search_spaces["space"].unique()
    )
    bins = {row["bin"]: (row["low"], row["high"]) for row in search_spaces.to_dict("records")}
    return samples, parameter_spread(samples, bins)


def _uniform_counts(spaces: Spaces, name: str, teacher: Architecture, seed: int) -> list[int]:
    space, rng = spaces.root[name].search_space(teacher), np.random.default_rng(seed)
    counts: list[int] = population_parameters(draw_many(space, NUM_SAMPLES, rng).population, teacher).tolist()
    return counts
