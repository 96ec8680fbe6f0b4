"""Choose the best space of a bin."""

import logging

import pandas as pd

from budwood.models.checkpoint import Checkpoint
from budwood.pipelines.tracking import track
from budwood.records.names import Variant
from budwood.records.training import ProbeScore
from budwood.reporting.selection import select_space

logger = logging.getLogger(__name__)


def choose_space(*parts: ProbeScore | Checkpoint, bin_name: str, spaces: list[str]) -> tuple[pd.DataFrame, Checkpoint]:
    """Return how the spaces of a bin compare, the best first, and the sub-network of the best.

    Args:
        parts: the probes of all spaces, then their sub-networks.
        bin_name: the bin.
        spaces: in the order of the parts.

    Raises:
        ValueError: no probe has a finite loss.
    """
    probes = {space: part for space, part in zip(spaces, parts, strict=False) if isinstance(part, ProbeScore)}
    subnets = dict(zip(spaces, parts[len(spaces) :], strict=True))
    table = select_space(bin_name, probes)
    best = str(table["space"].iloc[0])
    logger.info("Bin %s continues with space %s", bin_name, best)
    track({"selected.choice_loss": float(table["loss"].iloc[0])}, 0)
    subnet = subnets[best]
    assert isinstance(subnet, Checkpoint), "the second half of the parts are sub-networks"
    return table, subnet


def gather_selections(*parts: pd.DataFrame, variants: list[Variant]) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Return how all spaces of all bins compare, and the curves of their probes.

    Args:
        parts: the curves of all probes, then the selections of all bins.
        variants: of the probes.
    """
    selections = pd.concat(parts[len(variants) :], ignore_index=True)
    curves = [
        curve.assign(bin=variant.bin, space=variant.space) for curve, variant in zip(parts, variants, strict=False)
    ]
    return selections, pd.concat(curves, ignore_index=True)
