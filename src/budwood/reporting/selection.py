"""The selection of a space by its probes: losses -> a table, a figure and a section."""

from collections.abc import Mapping

import numpy as np
import pandas as pd
import plotly.graph_objects as go

from budwood.records.training import ProbeScore
from budwood.reporting import formats
from budwood.reporting.markup import markdown_table, means_and_errors
from budwood.reporting.style import QUANTITY_AXES, Quantity, color_of, legend_once, panels, shown
from budwood.reporting.tables import compared_to_best, lead
from budwood.search.choice import choose

SELECTION_COLUMNS = [
    *("bin", "space", "chosen", "num_parameters", "tokens", "flops", "loss", "standard_error"),
    *("difference", "difference_standard_error", "num_sequences"),
]


def select_space(bin_name: str, probes: Mapping[str, ProbeScore]) -> pd.DataFrame:
    """Return one row for every space of a bin, the best first.

    The best has the lowest mean loss. Differences are paired over sequences: the space minus the best.

    Returns:
        `SELECTION_COLUMNS`; `chosen` is true in the first row alone. Losses are nats per token, errors standard errors.

    Raises:
        ValueError: no probe has a finite loss.
    """
    try:
        best = list(probes)[choose([probe.losses for probe in probes.values()]).winner]
    except ValueError:
        raise ValueError(f"bin {bin_name}: none of the probes of {', '.join(probes)} has a finite loss") from None
    rows = []
    for space, probe in probes.items():
        own = {"bin": bin_name, "space": space, "chosen": space == best, "flops": probe.student_flops}
        sizes = {"num_parameters": probe.num_parameters, "tokens": probe.tokens}
        rows.append(own | sizes | compared_to_best(probe.losses, None if space == best else probes[best].losses))
    table = pd.DataFrame(rows, columns=SELECTION_COLUMNS)
    return table.sort_values(["chosen", "loss"], ascending=[False, True], kind="stable", ignore_index=True)


def probe_losses(curves: pd.DataFrame, selections: pd.DataFrame, y: Quantity = "loss") -> go.Figure:
    """Return the held-out loss of every probe while it trains, or its perplexity, a panel per bin.

    The chosen space has the thick line.

    Args:
        curves: columns `bin`, `space`, `tokens`, `heldout_loss` (nats per token, NaN where none was measured).
        selections: rows of `select_space` of all bins.
        y: what the vertical axis shows.
    """
    bins = [str(name) for name in dict.fromkeys(selections["bin"])]
    colors = {space: color_of(place) for place, space in enumerate(dict.fromkeys(curves["space"]))}
    chosen = {(row["bin"], row["space"]) for row in selections[selections["chosen"]].to_dict("records")}
    axes = ("training tokens", QUANTITY_AXES[y])
    figure, places = panels(f"Held-out {y} of the probes", bins, *axes, num_columns=len(bins), shared_yaxes=True)
    for place, bin_name in zip(places, bins, strict=True):
        for space, curve in curves[curves["bin"] == bin_name].groupby("space", sort=False):
            points = curve[np.isfinite(curve["heldout_loss"])].sort_values("step")
            line = {"color": colors[space], "width": 4 if (bin_name, space) in chosen else 1.5}
            look = {"name": str(space), "line": line, "mode": "lines+markers"}
            figure.add_scatter(x=points["tokens"], y=shown(points["heldout_loss"].to_numpy(float), y), **look, **place)
    return legend_once(figure).update_xaxes(exponentformat="B")


def selection_section(selections: pd.DataFrame) -> str:
    """Return the selected space of every bin, in a sentence and a table."""
    words = [_sentence(str(name), rows) for name, rows in selections.groupby("bin", sort=False)]
    note = (
        "The sub-network of every space was trained briefly (a probe) and scored on the text reserved for choices. "
        "Differences are paired over its sequences: the space minus the best. The best space of each bin was trained "
        "in full."
    )
    columns = {
        "bin": selections["bin"].tolist(),
        "space": selections["space"].tolist(),
        "chosen": ["yes" if chosen else "" for chosen in selections["chosen"]],
        "parameters": selections["num_parameters"].map(formats.count).tolist(),
        "probe tokens": selections["tokens"].map(formats.count).tolist(),
        "loss (nats)": means_and_errors(selections, "loss", "standard_error"),
        "minus the best (paired)": means_and_errors(selections, "difference", "difference_standard_error", signed=True),
        "probe cost": selections["flops"].map(formats.flops).tolist(),
    }
    return "\n\n".join([note, "\n".join(words), markdown_table(columns, 3)])


def _sentence(bin_name: str, rows: pd.DataFrame) -> str:
    best = rows.iloc[0]
    if len(rows) == 1:
        return f"- **{bin_name}**: `{best['space']}` is its only space."
    second = rows.iloc[1]
    gap = lead(second["difference"], second["difference_standard_error"], f"`{second['space']}`", " nats")
    return f"- **{bin_name}**: `{best['space']}` is best, {gap}."
