"""Drawings of training, evaluation and the ledger: tables -> plotly figures."""

from collections.abc import Hashable, Mapping, Sequence
from typing import Any, Literal, get_args

import numpy as np
import pandas as pd
import plotly.graph_objects as go
from numpy.typing import NDArray
from plotly.colors import hex_to_rgb

from budwood.records.cost import Cost
from budwood.records.names import BASELINE, Variant
from budwood.reporting import style
from budwood.reporting.ledger import LEDGERS, REACHED, ledger_frame, search_flops
from budwood.reporting.markup import NO_TRAINING, variant_names

CostAxis = Literal["tokens", "flops", "flops_with_search"]
"""The horizontal axis of a training curve."""

_CURVE_AXES: dict[CostAxis, str] = {
    "tokens": "training tokens",
    "flops": "training FLOPs, student and teacher",
    "flops_with_search": "FLOPs, search included",
}
_LEDGER_NAMES = [name.replace("_", " ") for name in LEDGERS]


def training_curves(
    curves: pd.DataFrame,
    saved: pd.DataFrame,
    costs: Sequence[Cost],
    x: CostAxis = "tokens",
    y: style.Quantity = "loss",
) -> go.Figure:
    """Return the held-out loss of every arm while it trains, or its perplexity, a panel per variant.

    Bands are one standard error over the held-out sequences; they reflect how texts differ, not how arms do. With
    several seeds the curve is the mean and the band the range. The dotted line is the final loss of `random_init`; a
    star marks where another arm first reaches it.

    Args:
        curves: columns `bin`, `space`, `arm`, `step`, `tokens`, `flops` (cumulative), `heldout_loss` (nats per token)
            and optionally `heldout_losses`, the same by sequence, and `seed`.
        saved: the frame of `budwood.reporting.ledger.savings`; it need not have every arm.
        costs: the ledger, with what the searches cost.
        x: the cost on the horizontal axis.
        y: what the vertical axis shows.

    Raises:
        ValueError: `x` is not a cost.
    """
    if x not in get_args(CostAxis):
        raise ValueError(f"x: {x!r} is unknown; allowed are {', '.join(get_args(CostAxis))}")
    title, axes = f"Held-out {y} over {_CURVE_AXES[x]}", (_CURVE_AXES[x], style.QUANTITY_AXES[y])
    figure, panels = style.by_variant(title, curves, *axes, NO_TRAINING)
    for place, variant in panels:
        for arm, curve in variant.groupby("arm", sort=False):
            points = _measured(curve)
            if points.empty:
                continue
            match = _match(saved, points)
            searched = x == "flops_with_search" and arm != BASELINE
            offset = search_flops(costs, _variant(points), str(arm)) if searched else 0.0
            cost = points["tokens" if x == "tokens" else "flops"].to_numpy(float) + offset
            ends = [style.shown(points[end].to_numpy(float), y) for end in ("low", "high")]
            _band(figure, str(arm), cost, ends, place)
            measured = style.shown(points["heldout_loss"].to_numpy(float), y)
            figure.add_scatter(x=cost, y=measured, mode="lines+markers", **style.arm_look(str(arm)), **place)
            if arm == BASELINE:
                figure.add_hline(float(measured[-1]), line={"color": style.GREY, "dash": "dot", "width": 1.5}, **place)
            if match and match["status"] == REACHED:
                where = np.interp(match["tokens_to_match"], points["tokens"].to_numpy(float), cost)
                target = style.shown(np.array(match["target_loss"], float), y)
                _star(figure, str(arm), (float(where), float(target)), place)
    return style.legend_once(figure).update_xaxes(exponentformat="B" if x == "tokens" else "SI")


def training_losses(curves: pd.DataFrame) -> go.Figure:
    """Return the training objective of every arm, a panel per variant; with several seeds their mean.

    Args:
        curves: columns `bin`, `space`, `arm`, `step`, `tokens`, `train_loss` (NaN where it was not logged).
    """
    axes = ("training tokens", "objective (nats per token)")
    figure, panels = style.by_variant("Training loss", curves, *axes, NO_TRAINING)
    for place, variant in panels:
        for arm, curve in variant.groupby("arm", sort=False):
            noted = curve[np.isfinite(curve["train_loss"])]
            points = noted.groupby("step", as_index=False)[["tokens", "train_loss"]].mean()
            look = {"name": str(arm), "mode": "lines", "line": {"color": style.color_of_arm(arm), "width": 2}}
            figure.add_scatter(x=points["tokens"], y=points["train_loss"], **look, **place)
    return style.legend_once(figure).update_xaxes(exponentformat="B")


def perplexity_by_arm(results: pd.DataFrame) -> go.Figure:
    """Return the validation perplexity of every arm, overall and by source, with the teacher as a dashed line.

    Error bars are one standard error of the mean loss over sequences, converted to perplexity. They are not paired: to
    compare two arms, use the paired differences of `results_table`.
    """
    trained, teacher = results[results["bin"] != ""], results[results["bin"] == ""]
    if trained.empty:
        return style.nothing("Validation perplexity", NO_TRAINING)
    suffixes = [name.removeprefix("perplexity") for name in map(str, results) if name.startswith("perplexity")]
    suffixes = suffixes[-1:] if len(suffixes) == 2 else suffixes  # noqa: PLR2004 - the only source is all of them
    names = [suffix.removeprefix("_") or "all sources" for suffix in suffixes]
    figure, places = style.panels("Validation perplexity", names, "variant", "perplexity (log)", 1, shared_xaxes=True)
    for place, suffix in zip(places, suffixes, strict=True):
        for arm, scores in trained.groupby("model", sort=False):
            look = {**style.bar_look(str(arm)), "error_y": _perplexity_error(scores, suffix)}
            figure.add_bar(x=style.variant_labels(scores), y=scores[f"perplexity{suffix}"], **look, **place)
        for value in teacher[f"perplexity{suffix}"]:
            figure.add_hline(value, line={"color": style.GREY, "dash": "dash", "width": 2}, name="teacher", **place)
        figure.update_yaxes(range=style.log_range(results[f"perplexity{suffix}"]), **place)
    # Without a format plotly writes the 2 of 2,000 and the 5 of 5,000 alone.
    figure.update_yaxes(type="log", dtick="D2", tickformat=",~r")
    return style.legend_once(figure).update_layout(barmode="group")


def tasks_by_arm(tasks: pd.DataFrame) -> go.Figure:
    """Return the score of every arm on every task, with the teacher as a dashed line and guessing as a dotted one.

    Error bars are one unpaired standard error: to compare two arms, use the paired differences of the table.
    """
    found = {str(task): rows for task, rows in tasks.groupby("task", sort=False)}
    if not found:
        return style.nothing("Tasks", "No task was evaluated.")
    names = [f"{name} ({rows['metric'].iloc[0]})" for name, rows in found.items()]
    figure, places = style.panels("Tasks", names, "variant", "%", 1, shared_xaxes=True)
    for place, answers in zip(places, found.values(), strict=True):
        for arm, scores in answers[answers["bin"] != ""].groupby("model", sort=False):
            error = style.error_bars(100 * scores["standard_error"].fillna(0.0))
            look = {**style.bar_look(str(arm)), "error_y": error}
            figure.add_bar(x=style.variant_labels(scores), y=100 * scores["value"], **look, **place)
        lines = {
            "teacher": ("dash", answers.loc[answers["bin"] == "", "value"]),
            "guessing": ("dot", answers["chance"]),
        }
        for name, (dash, values) in lines.items():
            for value in values.dropna().unique():
                figure.add_hline(100 * value, line={"color": style.GREY, "dash": dash, "width": 2}, name=name, **place)
    return style.legend_once(figure).update_layout(barmode="group").update_yaxes(rangemode="tozero")


def speed_and_memory(speeds: pd.DataFrame) -> go.Figure:
    """Return how much faster than the teacher every sub-network is, and the memory of both.

    Error bars are quartiles over repeats; the dashed line is the teacher.
    """
    title = "Speed and memory of the sub-networks"
    if speeds.empty:
        return style.nothing(title, "Speed was not measured.")
    teacher = speeds[speeds["model"] == "teacher"]
    shown = {
        "prefill: times faster than the teacher": ("prefill_speedup", 1.0),
        "decode: times faster than the teacher": ("decode_speedup", 1.0),
        "peak memory (MiB)": ("peak_bytes", 2.0**20),
        "KV cache per token (KiB)": ("kv_bytes_per_token", 2.0**10),
    }
    figure, places = style.panels(title, list(shown), "variant", "", shared_xaxes=True)
    for place, (column, unit) in zip(places, shown.values(), strict=True):
        for model, own in speeds[speeds["model"] != "teacher"].groupby("model", sort=False):
            color = style.color_of_arm("subnet_init" if model == "subnet" else model)
            look: dict[str, object] = {"name": str(model), "marker": {"color": color}}
            if unit == 1:  # the only values with quartiles
                ends = own[f"{column}_high"] - own[column], own[column] - own[f"{column}_low"]
                look["error_y"] = style.error_bars(*ends)
            figure.add_bar(x=style.variant_labels(own), y=own[column] / unit, **look, **place)
        line = 1.0 if unit == 1 else float(teacher[column].median()) / unit
        if np.isfinite(line):
            figure.add_hline(line, line={"color": style.GREY, "dash": "dash", "width": 2}, **place)
    return style.legend_once(figure).update_yaxes(rangemode="tozero")


def savings_by_ledger(saved: pd.DataFrame) -> go.Figure:
    """Return how many times cheaper than the baseline every arm reached its final loss, under each ledger.

    Error bars are 95% intervals where they are known; an arm that never reached the loss has no point. Savings against
    another baseline are not drawn.
    """
    saved = _against_baseline(saved)
    ratios = saved.reindex(columns=[f"ratio_{ledger}" for ledger in LEDGERS]).to_numpy(float)
    reason = f"No arm reached the final loss of {BASELINE} in training, so there is no ratio."
    title, axes = "Savings under each ledger", ("ledger", f"{BASELINE}'s cost / the arm's")
    figure, panels = style.by_variant(title, saved.loc[np.isfinite(ratios).any(axis=1)], *axes, reason)
    for place, rows in panels:
        for row in rows.to_dict("records"):
            middle, low, high = (
                np.array([row[f"ratio_{ledger}{end}"] for ledger in LEDGERS], float) for end in ("", "_low", "_high")
            )
            above = np.where(np.isfinite(high), high - middle, 0.0)
            below = np.where(np.isfinite(low), middle - low, 0.0)
            look = {**style.arm_look(row["arm"]), "mode": "markers", "error_y": style.error_bars(above, below)}
            figure.add_scatter(x=_LEDGER_NAMES, y=middle, **look, **place)
        figure.add_hline(1.0, line={"color": style.GREY, "dash": "dot", "width": 1.5}, **place)
    return style.legend_once(figure).update_yaxes(rangemode="tozero")


def flops_by_stage(ledger: Sequence[Cost]) -> go.Figure:
    """Return the cost of every variant, stacked by stage; costs shared by variants have a bar of their own."""
    costs = ledger_frame(ledger)
    if costs.empty:
        return style.nothing("Cost by stage", "The ledger is empty.")
    costs = costs.assign(variant=variant_names(costs))
    totals = costs.groupby(["stage", "variant"], observed=True, sort=True)["flops"].sum()
    names = list(dict.fromkeys(costs["variant"]))
    figure = go.Figure(layout={"template": style.TEMPLATE, "title": {"text": "Cost by stage"}, "barmode": "stack"})
    figure.update_layout(legend={"traceorder": "normal"})
    for stage in totals.index.unique("stage"):
        amounts = totals[stage].reindex(names, fill_value=0.0)
        marker = {"color": style.STAGE_COLORS.get(stage, style.GREY), "line": {"color": style.GREY, "width": 0.5}}
        figure.add_bar(x=amounts, y=names, orientation="h", name=stage, marker=marker)
    figure.update_yaxes(autorange="reversed", title_text="variant").update_xaxes(title_text="floating-point operations")
    return figure.update_layout(height=style.MARGIN["t"] + style.MARGIN["b"] + 50 * max(3, len(names)))


def _variant(points: pd.DataFrame) -> Variant:
    first = points.iloc[0]
    return Variant(str(first["bin"]), str(first["space"]))


def _match(saved: pd.DataFrame, points: pd.DataFrame) -> Mapping[Hashable, Any] | None:
    """Return the savings of an arm against the baseline; None without any."""
    if saved.empty:
        return None
    own = _against_baseline(saved)
    where = np.logical_and.reduce([own[name] == points[name].iloc[0] for name in ("bin", "space", "arm")])
    rows = own[where].to_dict("records")
    return rows[0] if rows else None


def _against_baseline(saved: pd.DataFrame) -> pd.DataFrame:
    own: pd.DataFrame = saved[saved["baseline"] == BASELINE]
    return own


def _measured(curve: pd.DataFrame) -> pd.DataFrame:
    """Return the finite held-out losses of an arm by step, with the ends of their band in `low` and `high`."""
    points: pd.DataFrame = curve[np.isfinite(curve["heldout_loss"])].sort_values("step", kind="stable")
    if "seed" in points and len(set(points["seed"])) > 1:
        steps = points.groupby("step", sort=True)
        first: pd.DataFrame = steps.first().reset_index()
        losses = steps["heldout_loss"].agg(["mean", "min", "max"]).reset_index()
        return first.assign(heldout_loss=losses["mean"], low=losses["min"], high=losses["max"])
    error = _errors_over_sequences(points)
    return points.assign(low=points["heldout_loss"] - error, high=points["heldout_loss"] + error)


def _errors_over_sequences(points: pd.DataFrame) -> NDArray[np.float64]:
    """Return the standard error of every point; NaN without several losses by sequence."""
    if "heldout_losses" not in points or points["heldout_losses"].isna().any():
        return np.full(len(points), np.nan)
    losses = [np.asarray(values, float) for values in points["heldout_losses"]]
    return np.array([v.std(ddof=1) / np.sqrt(v.size) if v.size > 1 else np.nan for v in losses])


def _band(
    figure: go.Figure, arm: str, cost: np.ndarray, ends: Sequence[NDArray[np.float64]], place: style.Panel
) -> None:
    """Shade the band of an arm between its lower and upper end, if it has one."""
    low, high = ends
    if not np.isfinite(high - low).all():
        return
    figure.add_scatter(
        x=np.concatenate([cost, cost[::-1]]),
        y=np.concatenate([high, low[::-1]]),
        fill="toself",
        fillcolor="rgba({}, {}, {}, {})".format(*hex_to_rgb(style.color_of_arm(arm)), style.BAND_OPACITY),
        line={"width": 0},
        mode="lines",
        hoverinfo="skip",
        name=f"{arm}, uncertainty",
        legendgroup=arm,
        showlegend=False,
        **place,
    )


def _star(figure: go.Figure, arm: str, point: tuple[float, float], place: style.Panel) -> None:
    """Mark where an arm reaches the final loss of the baseline."""
    edge = {"color": style.GREY, "width": 1}
    marker = {"color": style.color_of_arm(arm), "symbol": "star", "size": 15, "line": edge}
    look = {"name": f"{arm} reaches {BASELINE}", "legendgroup": arm, "showlegend": False, "marker": marker}
    figure.add_scatter(x=[point[0]], y=[point[1]], mode="markers", **look, **place)


def _perplexity_error(scores: pd.DataFrame, suffix: str) -> dict[str, object]:
    """Return asymmetric error bars: exp(loss ± standard error) around exp(loss)."""
    loss, error = scores[f"loss{suffix}"], scores[f"standard_error{suffix}"].fillna(0.0)
    return style.error_bars(np.exp(loss + error) - np.exp(loss), np.exp(loss) - np.exp(loss - error))
