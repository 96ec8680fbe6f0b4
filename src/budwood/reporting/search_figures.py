"""Drawings of what searches found: histories -> plotly figures."""

from collections.abc import Sequence

import numpy as np
import pandas as pd
import plotly.graph_objects as go
from numpy.typing import NDArray

from budwood.arch.spec import Architecture
from budwood.records.names import BASELINE, Variant
from budwood.records.search import Winner
from budwood.records.teacher import TeacherRecord
from budwood.reporting import formats, style
from budwood.reporting.markup import NO_SEARCH
from budwood.search.candidate import LAYER_SIZES

NUM_ELITES = 5
"""Candidates that are shown as the best of a search."""

_ORIGINS = {
    "initial": (style.GREY, "circle"),
    "random": (style.SERIES[1], "square"),
    "mutation": (style.SERIES[0], "diamond"),
    "crossover": (style.SERIES[2], "cross"),
}
_FITNESS_AXES = {
    "perplexity": "loss (nats per token)",
    "kl": "divergence from the teacher (nats per token)",
    "importance": "importance of what is kept, negated",
    "magnitude": "magnitude of what is kept, negated",
}
_NUM_HISTOGRAM_BARS = 60
# Height of the axis over the highest bar, so that the bins' labels are above the bars.
_LABEL_ROOM = 1.6
_SHARES = ("layers", "channels", "query heads", "key/value heads", "head size", "neurons")


def search_trajectory(histories: pd.DataFrame) -> go.Figure:
    """Return the best loss so far (line) and every candidate (faint points) over evaluations, a panel per variant.

    Candidates that a race dropped are open points, at their loss on the text that they read; they cannot win. Faint
    lines separate generations.

    Args:
        histories: columns `bin`, `space`, `evaluation`, `epoch`, `origin`, `num_parameters`, `finished`, `loss` and,
            where it is not nats per token on the text, `fitness`: its name.
    """
    title, axes = "Search: loss of the candidates", ("evaluation", _loss_axis(histories))
    figure, panels = style.by_variant(title, histories, *axes, NO_SEARCH)
    for place, history in panels:
        run = history.sort_values("evaluation")
        figure.add_scatter(**_dots(run, run["evaluation"]), **place)
        best = run["loss"].where(run["finished"]).cummin().ffill()
        line = {"color": style.ARM_COLORS["subnet_init"], "shape": "hv", "width": 3}
        figure.add_scatter(x=run["evaluation"], y=best, mode="lines", line=line, name="best so far", **place)
        for start in run.groupby("epoch")["evaluation"].min().iloc[1:]:
            figure.add_vline(start - 0.5, line={"color": style.FAINT, "width": 1}, layer="below", **place)
    return style.legend_once(figure)


def search_sizes(histories: pd.DataFrame, search_spaces: pd.DataFrame) -> go.Figure:
    """Return the loss of every candidate against its parameters, by origin, a panel per variant with the bin shaded.

    Args:
        histories: as of `search_trajectory`.
        search_spaces: columns `bin`, `space`, `low`, `high`: the bounds of the bins.
    """
    title, axes = "Search: loss over parameters", ("parameters", _loss_axis(histories))
    figure, panels = style.by_variant(title, histories, *axes, NO_SEARCH)
    bounds = search_spaces.set_index(["bin", "space"])[["low", "high"]]
    for place, run in panels:
        low, high = bounds.loc[(run["bin"].iloc[0], run["space"].iloc[0])]
        for origin, (color, symbol) in _ORIGINS.items():
            rows = run[run["origin"] == origin]
            if len(rows):
                marks = rows["finished"].map({True: symbol, False: f"{symbol}-open"})
                marker = {"color": color, "symbol": marks, "size": 7, "opacity": 0.8}
                look = {"name": origin, "mode": "markers", "marker": marker}
                figure.add_scatter(x=rows["num_parameters"], y=rows["loss"], **look, **place)
        shade = {"fillcolor": style.ARM_COLORS[BASELINE], "opacity": 0.12, "line_width": 0, "layer": "below"}
        figure.add_vrect(low, high, **shade, **place)
    return style.legend_once(figure).update_xaxes(exponentformat="B")


def elite_sizes(histories: pd.DataFrame, teacher_record: TeacherRecord) -> go.Figure:
    """Return what the best candidates keep of each axis of the teacher, a panel per variant.

    The best of all is the thick line; the bars are the range over all candidates. Where layers differ, heads, head size
    and neurons are means over the kept layers.

    Args:
        histories: columns `bin`, `space`, `loss`, `finished`, and the sizes of `SearchRecord`.
        teacher_record: its `architecture` is 100%.
    """
    title, axes = "Search: what the best candidates keep", ("axis of the teacher", "kept (%)")
    figure, panels = style.by_variant(title, histories, *axes, NO_SEARCH)
    for place, run in panels:
        shares = _shares(run, teacher_record.architecture)
        low, high = shares.min(0), shares.max(0)
        figure.add_bar(x=_SHARES, y=high - low, base=low, marker={"color": style.FAINT}, name="all candidates", **place)
        for rank, index in reversed(list(enumerate(_best(run)))):
            name = "the best" if rank == 0 else f"the next {NUM_ELITES - 1}"
            line = {"color": style.ARM_COLORS["subnet_init"], "width": 1 if rank else 3}
            look = {"name": name, "line": line, "opacity": 0.5 if rank else 1, "mode": "lines+markers"}
            figure.add_scatter(x=_SHARES, y=shares[index], **look, **place)
    return style.legend_once(figure).update_yaxes(rangemode="tozero")


def winner_layers(winners: Sequence[Winner], teacher_record: TeacherRecord) -> go.Figure:
    """Return how much every winner keeps of each layer of the teacher, a panel per variant; gaps are dropped layers.

    Args:
        winners: of all searches.
        teacher_record: the largest layer of its `architecture` is 100%.
    """
    title = "Winners: what they keep of every layer"
    if not winners:
        return style.nothing(title, NO_SEARCH)
    teacher = teacher_record.architecture
    names = [str(Variant(winner.bin, winner.space)) for winner in winners]
    figure, places = style.panels(title, names, "layer of the teacher, by rank", "kept (%)")
    for place, winner in zip(places, winners, strict=True):
        kept = {layer.layer: layer.spec for layer in winner.selection.layers}
        ranks = list(range(teacher.num_hidden_layers))
        for name, field, color, shape in (
            ("query heads", "num_attention_heads", style.SERIES[1], "square"),
            ("head size", "head_dim", style.SERIES[2], "diamond"),
            ("neurons", "intermediate_size", style.SERIES[0], "circle"),
        ):
            whole = max(getattr(layer, field) for layer in teacher.layers)
            shares = [100 * getattr(kept[rank], field) / whole if rank in kept else None for rank in ranks]
            marker = {"color": color, "symbol": shape, "size": 7}
            look = {"name": name, "marker": marker, "mode": "lines+markers", "connectgaps": False}
            figure.add_scatter(x=ranks, y=shares, **look, **place)
    return style.legend_once(figure).update_yaxes(range=[0, 105])


def draws_and_elites(histories: pd.DataFrame) -> go.Figure:
    """Return the losses of random members of each space beside those of the best of its search.

    The first generation and later draws are random. Dropped ones are included.
    """
    title, found = "Search: random draws and the best", style.variants(histories)
    if not found:
        return style.nothing(title, NO_SEARCH)
    figure, _ = style.panels(title, [""], "variant", _loss_axis(histories))
    draws = histories[histories["origin"].isin(["initial", "random"])]
    elites = pd.concat([run.iloc[_best(run)] for run in found.values()])
    figure.add_box(
        x=style.variant_labels(draws),
        y=draws["loss"],
        name="random draws",
        boxpoints="all",
        jitter=0.4,
        pointpos=0,
        marker={"color": style.GREY, "size": 4, "opacity": 0.7},
        fillcolor=style.FAINT,
    )
    marker = {"color": style.ARM_COLORS["subnet_init"], "symbol": "diamond", "size": 9}
    look = {"mode": "markers", "name": f"the best {NUM_ELITES}", "marker": marker}
    return figure.add_scatter(x=style.variant_labels(elites), y=elites["loss"], **look)


def winners_by_variant(winners: Sequence[Winner]) -> go.Figure:
    """Return the loss by which every search's winner was chosen, with its 95% interval over sequences.

    The title says whether finalists were trained before.
    """
    looks = dict.fromkeys(_look_of(winner) for winner in winners) or ["before training"]
    title = f"Winners {' or '.join(looks)}"
    if not winners:
        return style.nothing(title, NO_SEARCH)
    losses = np.array([winner.choice_loss for winner in winners])
    ends = np.array([winner.choice_interval for winner in winners])
    figure, _ = style.panels(title, [""], "variant", "loss (nats per token)")
    error = style.error_bars(ends[:, 1] - losses, losses - ends[:, 0])
    marker = {"color": style.ARM_COLORS["subnet_init"], "symbol": "square", "size": 11}
    look = {"mode": "markers", "marker": marker, "name": "winner", "showlegend": False}
    about = [
        f"{formats.count(winner.num_parameters)} parameters, {_look_of(winner)}<br>{winner.description}"
        for winner in winners
    ]
    labels = [f"{winner.bin}<br>{winner.space}" for winner in winners]
    return figure.add_scatter(x=labels, y=losses, error_y=error, hovertext=about, **look)


def _look_of(winner: Winner) -> str:
    """Return when a winner had the loss by which it was chosen."""
    tokens = winner.finalist_tokens
    return f"after {formats.count(tokens)} tokens of training" if tokens else "before training"


def parameter_spread(samples: pd.DataFrame, search_spaces: pd.DataFrame) -> go.Figure:
    """Return how a uniform sample of each space spreads over parameter counts, with its bins shaded and labelled.

    Spaces have bounds of their own in a bin of limits alone.

    Args:
        samples: columns `space`, `num_parameters`; one row per sampled member.
        search_spaces: columns `bin`, `space`, `low`, `high`: the bounds of the bins.

    Raises:
        ValueError: there is no sample.
    """
    if samples.empty:
        raise ValueError("samples: empty; sample at least one member of a space")
    spaces = dict(list(samples.groupby("space", sort=False)["num_parameters"]))
    axes = ("parameters", "share of the sample (%)")
    figure, places = style.panels("Parameter counts of uniform samples", [str(space) for space in spaces], *axes, 1)
    ends = pd.concat([samples["num_parameters"], search_spaces["low"], search_spaces["high"]])
    edges = np.linspace(ends.min(), ends.max(), _NUM_HISTOGRAM_BARS + 1)
    for place, (space, counts) in zip(places, spaces.items(), strict=True):
        percent = 100 * np.histogram(counts, edges)[0] / len(counts)
        bars = {"width": np.diff(edges), "marker": {"color": style.ARM_COLORS["subnet_init"]}, "showlegend": False}
        figure.add_bar(x=(edges[1:] + edges[:-1]) / 2, y=percent, name="sample", **bars, **place)
        figure.update_yaxes(range=[0, _LABEL_ROOM * percent.max()], **place)
        for row in search_spaces[search_spaces["space"] == space].to_dict("records"):
            share = 100 * counts.between(row["low"], row["high"]).mean()
            _shade_bin(figure, place, (row["low"], row["high"]), f"{row['bin']}: {formats.significant(share, 2)}%")
    return figure.update_layout(bargap=0).update_xaxes(exponentformat="B")


def _dots(run: pd.DataFrame, x: pd.Series) -> dict[str, object]:
    symbols = run["finished"].map({True: "circle", False: "circle-open"})
    hover = "%{y:.4g}, %{customdata[1]:,} parameters<br>origin: %{customdata[0]}"
    return {
        "x": x,
        "y": run["loss"],
        "name": "candidate",
        "mode": "markers",
        "marker": {"color": style.GREY, "opacity": 0.55, "size": 5, "symbol": symbols},
        "customdata": run[["origin", "num_parameters"]].to_numpy(),
        "hovertemplate": hover,
    }


def _loss_axis(histories: pd.DataFrame) -> str:
    fitness = str(next(iter(histories.get("fitness", ())), "perplexity"))
    return _FITNESS_AXES.get(fitness, f"{fitness} (lower is better)")


def _best(run: pd.DataFrame) -> list[int]:
    """Return the places of the best candidates that finished, the best first."""
    losses = run["loss"].where(run["finished"], np.inf).to_numpy(float)
    order = np.argsort(losses, kind="stable")[:NUM_ELITES]
    return [int(place) for place in order if np.isfinite(losses[place])]


def _shares(run: pd.DataFrame, teacher: Architecture) -> NDArray[np.float64]:
    """Return [N, 6] what candidates keep, in percent of the teacher, in the order of `_SHARES`."""
    whole = {name: np.mean([getattr(spec, name) for spec in teacher.layers]) for name in LAYER_SIZES}
    whole = {"num_hidden_layers": teacher.num_hidden_layers, "hidden_size": teacher.hidden_size, **whole}
    return np.stack([100 * run[name].to_numpy(float) / size for name, size in whole.items()], axis=1)


def _shade_bin(figure: go.Figure, place: style.Panel, limits: tuple[int, int], label: str) -> None:
    """Shade a bin and write its label along its middle, so that neighbouring labels do not overlap."""
    low, high = limits
    figure.add_vrect(low, high, fillcolor=style.ARM_COLORS[BASELINE], opacity=0.2, line_width=0, layer="below", **place)
    text = {"text": label, "textangle": -90, "showarrow": False, "yref": "y domain", "y": 0.98, "yanchor": "top"}
    figure.add_annotation(x=(low + high) / 2, **text, **place)
