"""Tables, figures and the report."""

from collections.abc import Sequence
from typing import Any

import pandas as pd
import plotly.graph_objects as go

from budwood.records.cost import Cost
from budwood.records.evaluation import Downstream, Efficiency
from budwood.records.names import BASELINE, REFERENCE
from budwood.records.teacher import TeacherEvaluation, TeacherRecord
from budwood.records.training import Score
from budwood.reporting.benchmarks import speeds_table, tasks_table
from budwood.reporting.figures import FIGURES, drawable
from budwood.reporting.findings import Findings
from budwood.reporting.ledger import savings
from budwood.reporting.matching import unlike
from budwood.reporting.page import html_report
from budwood.reporting.report import write_report
from budwood.reporting.tables import results_table


def tabulate_results(
    arms: list[Score],
    curves: pd.DataFrame,
    ledger: list[Cost],
    teacher_record: TeacherRecord,
    teacher_evaluation: TeacherEvaluation,
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Return the losses of all models, and the savings against `random_init` and, where there is one, the reference.

    An arm that was not trained as its baseline was has no savings.
    """
    results = results_table(arms, teacher_evaluation, teacher_record)
    has_reference = curves["arm"].eq(REFERENCE).groupby([curves["bin"], curves["space"]]).transform("any")
    both = []
    for baseline, own in ((BASELINE, curves), (REFERENCE, curves[has_reference])):
        saved = savings(own, ledger, baseline)
        keys = zip(saved["bin"], saved["space"], saved["arm"], strict=True)
        both.append(saved.loc[[key not in unlike(arms, baseline) for key in keys]])
    return results, pd.concat([part for part in both if len(part)] or both[:1], ignore_index=True)


def tabulate_benchmarks(
    downstream: list[Downstream], efficiency: list[Efficiency], arms: list[Score]
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Return the task scores and the speed of all models."""
    return tasks_table(downstream, unlike(arms)), speeds_table(efficiency)


def draw_figures(*data: Any, names: Sequence[str]) -> dict[str, go.Figure]:
    """Return every figure whose data is given, by its dataset; the names are those of the data."""
    given = dict(zip(names, data, strict=True))
    return {figure.dataset: figure.draw(given) for figure in drawable(names)}


def write_pages(*data: Any, names: Sequence[str]) -> tuple[str, str]:
    """Return the report as markdown, and as one page that opens offline, of figures and the fields of `Findings`."""
    given = dict(zip(names, data, strict=True))
    drawn = {figure.name: given.pop(figure.dataset) for figure in FIGURES if figure.dataset in names}
    report = write_report(Findings(**given))
    return report.markdown, html_report(report, drawn)
