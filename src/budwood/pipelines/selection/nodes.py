"""Choose the best space of a bin."""

import logging
from pathlib import Path
from typing import Any

import pandas as pd

from budwood.pipelines.tracking import track
from budwood.reporting.selection import select_space

logger = logging.getLogger(__name__)


def choose_space(**parts: Any) -> tuple[pd.DataFrame, Path]:
    """Return how the spaces of a bin compare, the best first, and the sub-network of the best.

    Args:
        parts: `<bin>__<space>__probe_scores` and `<bin>__<space>__subnet` for every space of one bin.

    Raises:
        ValueError: no probe has a finite loss.
    """
    (bin_name,) = {key.split("__")[0] for key in parts}
    spaces = {key.split("__")[1]: key.removesuffix("__subnet") for key in parts if key.endswith("__subnet")}
    table = select_space(bin_name, {space: parts[f"{key}__probe_scores"] for space, key in spaces.items()})
    best = str(table["space"].iloc[0])
    logger.info("Bin %s goes on with space %s", bin_name, best)
    track({"selected.choice_loss": float(table["loss"].iloc[0])}, 0)
    subnet: Path = parts[f"{spaces[best]}__subnet"]
    return table, subnet


def gather_selections(**parts: pd.DataFrame) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Return how all spaces of all bins compare, and the curves of their probes.

    Args:
        parts: `<bin>__selected__selection` of every bin and `<bin>__<space>__probe_curve` of every variant.
    """
    selections = pd.concat([part for key, part in parts.items() if key.endswith("__selection")], ignore_index=True)
    curves = []
    for key, part in parts.items():
        bin_name, space, kind = key.split("__")
        if kind == "probe_curve":
            curves.append(part.assign(bin=bin_name, space=space))
    return selections, pd.concat(curves, ignore_index=True)
