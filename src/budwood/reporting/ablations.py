"""Ablations: trainings with one setting changed -> a table, the importance of settings, figures and a page."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pandas as pd
import plotly.graph_objects as go
from sklearn.ensemble import RandomForestRegressor

from budwood.reporting import formats
from budwood.reporting.markup import markdown_table, means_and_errors
from budwood.reporting.style import GREY, QUANTITY_AXES, color_of, legend_once, panels, shown
from budwood.reporting.tables import compared_to_best, lead

OUTCOME_COLUMNS = [
    *("variant", "loss", "standard_error", "difference", "difference_standard_error", "num_sequences"),
    *("num_parameters", "tokens", "student_flops", "teacher_flops", "status"),
]
Setting = str | float | None
TRAINED = "trained"
"""Status of a finished training; any other says why there is no loss."""
NUM_TREES = 200
CURVE_COLUMNS = ["step", "tokens", "flops", "train_loss", "heldout_loss"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """What became of a training that is compared."""

    variant: str
    settings: Mapping[str, Setting]
    """Changed settings; each is a column of the table."""
    num_parameters: int
    status: str = TRAINED
    tokens: int = 0
    student_flops: float = 0.0
    teacher_flops: float = 0.0
    losses: Sequence[float] = ()
    """On validation sequences that all variants share, nats per token; empty if the training failed."""
    curve: pd.DataFrame = field(default_factory=pd.DataFrame)
    """Columns `step`, `tokens`, `flops`, `train_loss`, `heldout_loss`; empty if the training failed."""


def ablation_table(runs: Sequence[Outcome]) -> pd.DataFrame:
    """Return one row for every variant, in the given order.

    Differences are paired over sequences: the variant minus that of lowest loss.

    Returns:
        The changed settings, and `OUTCOME_COLUMNS`. Losses are nats per token, NaN where there is none.
    """
    means = {run.variant: float(np.mean(run.losses)) if run.losses else np.nan for run in runs}
    finite = {variant: mean for variant, mean in means.items() if np.isfinite(mean)}
    best = min(finite, key=lambda variant: finite[variant]) if finite else None
    of_best = next((run.losses for run in runs if run.variant == best), None)
    rows = []
    for run in runs:
        facts = {name: getattr(run, name) for name in OUTCOME_COLUMNS if hasattr(run, name)}
        compared = compared_to_best(run.losses, None if run.variant == best else of_best)
        rows.append({**run.settings, **facts, **compared})
    settings = list(dict.fromkeys(name for run in runs for name in run.settings))
    floats = ("loss", "standard_error", "difference", "difference_standard_error")
    return pd.DataFrame(rows, columns=[*settings, *OUTCOME_COLUMNS]).astype(dict.fromkeys(floats, float))


def setting_importances(table: pd.DataFrame, settings: Sequence[str]) -> pd.DataFrame:
    """Return how much of the variation in loss each setting explains.

    `importance` is that of a random forest: the share of the variance that splits on the setting remove, mean and
    standard deviation over its trees (scikit-learn's `feature_importances_`; the paper's table 15). `main_effect` is
    exact for a full grid: the variance of the mean losses by value of the setting over that of all losses. The rest of
    the variance, up to 1, is interaction between settings.

    Args:
        table: of `ablation_table`; rows without a finite loss are ignored.
        settings: columns that were varied; an empty value counts as the largest.

    Returns:
        Columns `setting`, `importance`, `importance_deviation`, `main_effect`, the most important first. NaN with
        fewer than two losses, or equal ones.
    """
    known = table[np.isfinite(table["loss"])]
    losses = known["loss"].to_numpy(dtype=float)
    columns = ["setting", "importance", "importance_deviation", "main_effect"]
    if len(losses) < 2 or np.ptp(losses) == 0:  # noqa: PLR2004 - one loss varies with nothing
        return pd.DataFrame([(name, np.nan, np.nan, np.nan) for name in settings], columns=columns)
    # Trees use only the order of values.
    features = np.stack([known[name].rank(method="dense", na_option="bottom") for name in settings], axis=1)
    forest = RandomForestRegressor(NUM_TREES, random_state=0).fit(features, losses)
    # A tree without a split drew equal losses only.
    trees = np.stack([tree.feature_importances_ for tree in forest.estimators_ if tree.get_n_leaves() > 1])
    effects = [
        pd.Series(losses).groupby(feature).transform("mean").var(ddof=0) / losses.var() for feature in features.T
    ]
    rows = zip(settings, trees.mean(0), trees.std(0), effects, strict=True)
    frame = pd.DataFrame(list(rows), columns=columns)
    return frame.sort_values("importance", ascending=False, kind="stable", ignore_index=True)


def losses_by_variant(title: str, table: pd.DataFrame) -> go.Figure:
    """Return the validation loss of every variant with one unpaired standard error; without losses an empty figure."""
    figure, _ = panels(title, [""], "validation loss (nats per token)", "")
    known = table[np.isfinite(table["loss"])]
    error = {"type": "data", "array": known["standard_error"].fillna(0.0), "color": GREY}
    dots = {"mode": "markers", "marker": {"size": 11, "color": color_of(0)}, "showlegend": False}
    figure.add_scatter(x=known["loss"], y=known["variant"], error_x=error, **dots)
    figure.update_yaxes(autorange="reversed", type="category")
    return figure.update_layout(height=max(300, 180 + 34 * len(known)), legend={"y": 0})


def losses_by_setting(title: str, table: pd.DataFrame, settings: Sequence[str]) -> go.Figure:
    """Return the loss over the values of every setting, a panel each: all variants as points, their means as a line."""
    axes = ("", "validation loss (nats per token)")
    figure, places = panels(title, settings, *axes, num_columns=len(settings), shared_yaxes=True)
    known = table[np.isfinite(table["loss"])]
    for place, name in zip(places, settings, strict=True):
        values = known[name].map(_value)
        order = [_value(value) for value in sorted(table[name].dropna().unique())]
        order += ["all"] if table[name].isna().any() else []
        points = {"mode": "markers", "marker": {"color": GREY, "opacity": 0.6}, "name": "variant"}
        figure.add_scatter(x=values, y=known["loss"], **points, **place)
        means = known["loss"].groupby(values.to_numpy()).mean().reindex(order)
        line = {"mode": "lines+markers", "line": {"color": color_of(0), "width": 3}, "name": "mean"}
        figure.add_scatter(x=order, y=means, **line, **place)
        figure.update_xaxes(type="category", categoryarray=order, categoryorder="array", **place)
    return legend_once(figure)


def ablation_curves(runs: Sequence[Outcome]) -> pd.DataFrame:
    """Return the curves of all variants, with the variant and its changed settings in front."""
    named = [run.curve.reindex(columns=CURVE_COLUMNS).assign(**run.settings, variant=run.variant) for run in runs]
    table = pd.concat(named, ignore_index=True)
    return table[
        ["variant", *(name for name in table if name not in {"variant", *CURVE_COLUMNS}), *CURVE_COLUMNS]
    ].astype(dict.fromkeys(CURVE_COLUMNS, float))


def curves_by_variant(title: str, curves: pd.DataFrame) -> go.Figure:
    """Return the held-out loss of every variant while it trains, and the perplexity that this is."""
    figure, places = panels(title, list(QUANTITY_AXES.values()), "training tokens", "")
    points = curves[np.isfinite(curves["heldout_loss"])]
    for index, (variant, own) in enumerate(points.groupby("variant", sort=False)):
        look = {"line": {"color": color_of(index)}, "name": str(variant), "mode": "lines+markers"}
        for place, measure in zip(places, QUANTITY_AXES, strict=True):
            figure.add_scatter(x=own["tokens"], y=shown(own["heldout_loss"].to_numpy(float), measure), **look, **place)
    return legend_once(figure).update_xaxes(exponentformat="B")


def curves_by_setting(title: str, curves: pd.DataFrame, settings: Sequence[str]) -> go.Figure:
    """Return the held-out perplexity over training, a panel for every setting: the mean of the variants of each value.

    As in the paper's figures 18 to 20.
    """
    axes = ("training tokens", "held-out perplexity, mean")
    figure, places = panels(title, settings, *axes, num_columns=len(settings), shared_yaxes=True)
    points = curves[np.isfinite(curves["heldout_loss"])]
    points = points.assign(perplexity=np.exp(points["heldout_loss"]))
    for place, setting in zip(places, settings, strict=True):
        for index, (value, own) in enumerate(points.groupby(points[setting].map(_value), sort=False)):
            means = own.groupby("tokens")["perplexity"].mean()
            look = {"line": {"color": color_of(index)}, "name": f"{setting} {value}", "mode": "lines+markers"}
            figure.add_scatter(x=means.index, y=means, **look, **place)
    return figure.update_xaxes(exponentformat="B")


def ablation_figures(
    title: str, table: pd.DataFrame, curves: pd.DataFrame, settings: Sequence[str]
) -> tuple[go.Figure, go.Figure]:
    """Return the losses and the curves of an ablation: by setting where some were varied, else by variant."""
    if settings:
        return losses_by_setting(title, table, settings), curves_by_setting(title, curves, settings)
    return losses_by_variant(title, table), curves_by_variant(title, curves)


def ablation_page(title: str, about: str, table: pd.DataFrame, importances: pd.DataFrame | None = None) -> str:
    """Return an ablation as markdown: the finding, the table, and optionally the importance of settings."""
    parts = [f"# {title}", about, _found(table), _table(table)]
    if importances is not None:
        parts += ["## Importance of the settings", _importances(importances)]
    return "\n\n".join(parts) + "\n"


def _found(table: pd.DataFrame) -> str:
    known = table[np.isfinite(table["loss"])].sort_values("loss", kind="stable")
    broken = table[table["status"] != TRAINED]
    words = [f"`{row['variant']}` has no loss: {row['status']}." for row in broken.to_dict("records")]
    if known.empty:
        return " ".join(["No training finished, so there is nothing to compare.", *words])
    best = known.iloc[0]
    loss = formats.plus_minus(best["loss"], best["standard_error"])
    found = f"Lowest validation loss: `{best['variant']}`, {loss} nats per token"
    if len(known) == 1:
        return " ".join([f"{found}. No other variant finished.", *words])
    rival = known.iloc[1]
    gap = lead(rival["difference"], rival["difference_standard_error"], f"`{rival['variant']}`")
    return " ".join([f"{found}, {gap}.", *words])


def _table(table: pd.DataFrame) -> str:
    columns = {
        "variant": table["variant"].tolist(),
        "loss (nats)": means_and_errors(table, "loss", "standard_error"),
        "minus the lowest (paired)": means_and_errors(table, "difference", "difference_standard_error", signed=True),
        "parameters": table["num_parameters"].map(formats.count).tolist(),
        "training tokens": table["tokens"].map(formats.count).tolist(),
        "student's training": table["student_flops"].map(formats.flops).tolist(),
        "teacher's forward": table["teacher_flops"].map(formats.flops).tolist(),
    }
    return markdown_table(columns, 1)


def _importances(importances: pd.DataFrame) -> str:
    if importances["importance"].isna().all():
        return "There are too few different losses for an importance."
    columns = {
        "setting": importances["setting"].tolist(),
        "importance": [
            f"{mean:.3f} ± {deviation:.3f}"
            for mean, deviation in zip(importances["importance"], importances["importance_deviation"], strict=True)
        ],
        "main effect": [f"{effect:.3f}" for effect in importances["main_effect"]],
    }
    note = (
        f"Importance: share of the variance that a forest of {NUM_TREES} trees explains by the setting (mean and "
        "standard deviation over trees). Main effect: variance of the mean losses by value over that of all losses."
    )
    return f"{note}\n\n{markdown_table(columns, 1)}"


def _value(value: Any) -> str:
    return "all" if pd.isna(value) else f"{value:g}"
