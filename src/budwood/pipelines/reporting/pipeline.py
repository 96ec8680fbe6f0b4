"""arms, curves, histories, downstream, efficiency, ledger -> results, savings, tasks, speeds, figures, report."""

from kedro.pipeline import Node, Pipeline

from budwood.pipelines.grid import wants_probes
from budwood.pipelines.reporting.nodes import draw_figures, tabulate_benchmarks, tabulate_results, write_pages
from budwood.reporting.figures import drawable

_PROBED = ("probe_curves", "selections")
_DRAWN = (
    *("curves", "histories", "ledger", "results", "savings", "search_spaces", "space_samples", "speeds", "tasks"),
    *("teacher_record", "winners"),
)
_WRITTEN = (
    *("results", "savings", "tasks", "speeds", "search_spaces", "corpus_counts", "certificates", "teacher_record"),
    *("teacher_evaluation", "arms", "winners", "ledger"),
)


def create_pipeline() -> Pipeline:
    """Report what was found, what it cost and what it saved."""
    data = [*_DRAWN, *(_PROBED if wants_probes() else ())]
    figures = drawable(data)
    written = [*_WRITTEN, *(["selections"] if wants_probes() else [])]
    return Pipeline(
        [
            Node(
                tabulate_results,
                ["arms", "curves", "ledger", "teacher_record", "teacher_evaluation"],
                ["results", "savings"],
                name="tabulate_results",
            ),
            Node(
                tabulate_benchmarks,
                ["downstream", "efficiency", "arms"],
                ["tasks", "speeds"],
                name="tabulate_benchmarks",
            ),
            Node(
                draw_figures,
                {name: name for name in data},
                {figure.dataset: figure.dataset for figure in figures},
                name="draw_figures",
            ),
            Node(
                write_pages,
                {name: name for name in written} | {figure.name: figure.dataset for figure in figures},
                ["report_markdown", "report"],
                name="write_pages",
            ),
        ],
        tags="reporting",
    )
