"""Tables, figures and the report."""

from typing import Any

import pandas as pd
import plotly.graph_objects as go

from budwood import __version__
from budwood.arch.spec import Architecture
from budwood.corpus.packing import PackedCorpus
from budwood.parameters import MeasurementParameters
from budwood.reporting import figures, search_figures
from budwood.reporting.benchmarks import Downstream, Efficiency, speeds_table, tasks_table
from budwood.reporting.ledger import savings
from budwood.reporting.page import html_report
from budwood.reporting.records import BASELINE, REFERENCE, Arm, Findings, LedgerEntry, Teacher, Winner
from budwood.reporting.report import markdown_report
from budwood.reporting.selection import selection_section
from budwood.reporting.tables import results_table
from budwood.search.settings import SearchSettings
from budwood.training.settings import Schedule

Record = dict[str, Any]
Ledger = list[LedgerEntry]
Figures = dict[str, go.Figure]


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


def draw_search(
    histories: pd.DataFrame, search_spaces: pd.DataFrame, winners: list[Winner], teacher_record: Record
) -> Figures:
    """Return the figures of what was searched, by name."""
    teacher = Architecture.from_dict(teacher_record["architecture"])
    return {
        "winners_by_variant": search_figures.winners_by_variant(winners),
        "winner_layers": search_figures.winner_layers(histories, winners, teacher),
        "elite_sizes": search_figures.elite_sizes(histories, teacher),
        "search_trajectory": search_figures.search_trajectory(histories),
        "search_sizes": search_figures.search_sizes(histories, search_spaces),
        "draws_and_elites": search_figures.draws_and_elites(histories),
    }


def draw_results(
    curves: pd.DataFrame,
    results: pd.DataFrame,
    saved: pd.DataFrame,
    tasks: pd.DataFrame,
    speeds: pd.DataFrame,
    ledger: Ledger,
) -> Figures:
    """Return the figures of what was trained and measured, by name."""
    return {
        "perplexity_by_arm": figures.perplexity_by_arm(results),
        "training_curves_tokens": figures.training_curves(curves, saved, x="tokens"),
        "training_curves_flops": figures.training_curves(curves, saved, x="flops"),
        "training_curves_flops_with_search": figures.training_curves(curves, saved, x="flops_with_search"),
        "training_losses": figures.training_losses(curves),
        "savings_by_ledger": figures.savings_by_ledger(saved),
        "tasks_by_arm": figures.tasks_by_arm(tasks),
        "speed_and_memory": figures.speed_and_memory(speeds),
        "flops_by_stage": figures.flops_by_stage(ledger),
    }


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
    search: SearchSettings,
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


def write_html(markdown: str, **drawn: go.Figure) -> str:
    """Return the report as one page that opens offline.

    Args:
        markdown: the report's text.
        drawn: all figures by name.
    """
    return html_report(markdown, drawn)
