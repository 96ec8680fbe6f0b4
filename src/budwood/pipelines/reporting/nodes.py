"""Tables, figures and the report."""

from typing import Any

import pandas as pd
import plotly.graph_objects as go

from budwood import __version__
from budwood.corpus.packing import PackedCorpus
from budwood.parameters import MeasurementParameters, SearchParameters
from budwood.reporting import figures
from budwood.reporting.benchmarks import Downstream, Efficiency, speeds_table, tasks_table
from budwood.reporting.ledger import mean_over_seeds, savings
from budwood.reporting.records import BASELINE, REFERENCE, Arm, Findings, LedgerEntry, Teacher, Winner
from budwood.reporting.report import html_report, markdown_report
from budwood.reporting.selection import selection_section
from budwood.reporting.tables import results_table
from budwood.training.job import Schedule

Record = dict[str, Any]
Ledger = list[LedgerEntry]


def tabulate_results(
    arms: list[Arm], curves: pd.DataFrame, ledger: Ledger, teacher_record: Teacher, teacher_evaluation: Record
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Return the losses of all models, and what starting from a sub-network saved."""
    results = results_table(arms, teacher_evaluation["losses"], teacher_record, teacher_evaluation["text"])
    # Against both baselines: the found architecture from random weights, and that of the bin's reference.
    has_reference = curves["arm"].eq(REFERENCE).groupby([curves["bin"], curves["space"]]).transform("any")
    both = [savings(curves, ledger, BASELINE), savings(curves[has_reference], ledger, REFERENCE)]
    return results, pd.concat([part for part in both if len(part)] or both[:1], ignore_index=True)


def tabulate_benchmarks(
    downstream: list[Downstream], efficiency: list[Efficiency]
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Return what all models answer, and how fast they are."""
    return tasks_table(downstream), speeds_table(efficiency)


def draw_figures(
    histories: pd.DataFrame, curves: pd.DataFrame, results: pd.DataFrame, tasks: pd.DataFrame, ledger: Ledger
) -> tuple[go.Figure, go.Figure, go.Figure, go.Figure, go.Figure, go.Figure]:
    """Return the figures of the report."""
    return (
        figures.search_trajectory(histories),
        figures.training_curves(mean_over_seeds(curves), x="tokens"),
        figures.training_curves(mean_over_seeds(curves), x="flops"),
        figures.perplexity_by_arm(results),
        figures.tasks_by_arm(tasks),
        figures.flops_by_stage(ledger),
    )


def write_markdown(
    results: pd.DataFrame,
    saved: pd.DataFrame,
    search_spaces: pd.DataFrame,
    corpus_counts: pd.DataFrame,
    teacher_record: Teacher,
    teacher_evaluation: Record,
    ledger: Ledger,
    certificates: pd.DataFrame,
    winners: list[Winner],
    tasks: pd.DataFrame,
    speeds: pd.DataFrame,
    tokens: PackedCorpus,
    search: SearchParameters,
    schedule: Schedule,
    measurement: MeasurementParameters,
    selections: pd.DataFrame | None = None,
) -> str:
    """Return the report as markdown."""
    provenance = {
        "budwood": __version__,
        "teacher": {
            "name": teacher_record["name"],
            "revision": teacher_record["revision"],
            "fingerprint": teacher_record["fingerprint"],
            "license": teacher_record["license"],
        },
        "text": {"fingerprint": tokens.fingerprint},
        "exports": {
            f"{row['bin']} {row['space']}": f"{row['class']}, {row['num_parameters']:,} parameters, "
            f"logits within {row['largest_logit_difference']:.1e} after reloading"
            for row in certificates.to_dict("records")
        },
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
            teacher={**teacher_record, "perplexity": teacher_evaluation["perplexity"]},
            ledger=ledger,
            winners=winners,
            tasks=tasks,
            speeds=speeds,
            provenance=provenance,
            further={} if selections is None else {"Selection": selection_section(selections)},
        )
    )


def write_html(
    markdown: str,
    parameter_spread: go.Figure,
    search_trajectory: go.Figure,
    training_curves_tokens: go.Figure,
    training_curves_flops: go.Figure,
    perplexity_by_arm: go.Figure,
    tasks_by_arm: go.Figure,
    flops_by_stage: go.Figure,
    probe_losses: go.Figure | None = None,
) -> str:
    """Return the report as one page that opens offline."""
    return html_report(
        markdown,
        {
            **({} if probe_losses is None else {"probe_losses": probe_losses}),
            "parameter_spread": parameter_spread,
            "search_trajectory": search_trajectory,
            "training_curves_tokens": training_curves_tokens,
            "training_curves_flops": training_curves_flops,
            "perplexity_by_arm": perplexity_by_arm,
            "tasks_by_arm": tasks_by_arm,
            "flops_by_stage": flops_by_stage,
        },
    )
