"""Tables, figures and the report."""

from typing import Any

import pandas as pd
import plotly.graph_objects as go

from budwood import __version__
from budwood.corpus.packing import PackedCorpus
from budwood.parameters import MeasurementParameters, SearchParameters
from budwood.reporting import figures
from budwood.reporting.ledger import savings
from budwood.reporting.records import Findings
from budwood.reporting.report import html_report, markdown_report
from budwood.reporting.tables import results_table
from budwood.training.job import Schedule

Record = dict[str, Any]


def tabulate_results(
    arms: list[Record], curves: pd.DataFrame, ledger: list[Record], teacher_record: Record, teacher_evaluation: Record
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Return the losses of all models, and what starting from a sub-network saved."""
    return results_table(arms, teacher_evaluation["losses"], teacher_record), savings(curves, ledger)


def draw_figures(
    histories: pd.DataFrame, curves: pd.DataFrame, results: pd.DataFrame, ledger: list[Record]
) -> tuple[go.Figure, go.Figure, go.Figure, go.Figure, go.Figure]:
    """Return the figures of the report."""
    return (
        figures.search_trajectory(histories),
        figures.training_curves(curves, x="tokens"),
        figures.training_curves(curves, x="flops"),
        figures.perplexity_by_arm(results),
        figures.flops_by_stage(ledger),
    )


def write_markdown(
    results: pd.DataFrame,
    saved: pd.DataFrame,
    search_spaces: pd.DataFrame,
    corpus_counts: pd.DataFrame,
    teacher_record: Record,
    teacher_evaluation: Record,
    ledger: list[Record],
    tokens: PackedCorpus,
    search: SearchParameters,
    schedule: Schedule,
    measurement: MeasurementParameters,
) -> str:
    """Return the report as markdown."""
    provenance = {
        "budwood": __version__,
        "teacher": {key: teacher_record[key] for key in ("name", "revision", "fingerprint", "license")},
        "text": {"fingerprint": tokens.fingerprint},
        "search": search.model_dump(),
        "schedule": schedule.model_dump(),
        "measurement": measurement.model_dump(),
    }
    return markdown_report(
        Findings(
            results=results,
            savings=saved,
            search_spaces=search_spaces,
            corpus_counts=corpus_counts,
            teacher=teacher_record | {"perplexity": teacher_evaluation["perplexity"]},
            ledger=ledger,
            provenance=provenance,
        )
    )


def write_html(
    markdown: str,
    parameter_spread: go.Figure,
    search_trajectory: go.Figure,
    training_curves_tokens: go.Figure,
    training_curves_flops: go.Figure,
    perplexity_by_arm: go.Figure,
    flops_by_stage: go.Figure,
) -> str:
    """Return the report as one page that opens offline."""
    return html_report(
        markdown,
        {
            "parameter_spread": parameter_spread,
            "search_trajectory": search_trajectory,
            "training_curves_tokens": training_curves_tokens,
            "training_curves_flops": training_curves_flops,
            "perplexity_by_arm": perplexity_by_arm,
            "flops_by_stage": flops_by_stage,
        },
    )
