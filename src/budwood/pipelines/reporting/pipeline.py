"""arms, curves, histories, downstream, efficiency, ledger -> results, savings, tasks, speeds, figures, report."""

from kedro.pipeline import Node, Pipeline

from budwood.parameters import ProjectParameters
from budwood.pipelines.wiring import Deferred, shared_node
from budwood.reporting.figures import FIGURES, drawable

NODES = "budwood.pipelines.reporting.nodes"
_PROBED = ["probe_curves", "selections"]
_WRITTEN = [
    *("results", "savings", "tasks", "speeds", "search_spaces", "corpus_counts", "certificates", "teacher_record"),
    *("teacher_evaluation", "arms", "winners", "ledger", "samples", "order_gates"),
]


def create_pipeline(parameters: ProjectParameters) -> Pipeline:
    """Report what was found, what it cost and what it saved."""
    needed = dict.fromkeys(name for figure in FIGURES for name in figure.needs)
    data = [name for name in needed if parameters.has_probes or name not in _PROBED]
    figures = [figure.dataset for figure in drawable(data)]
    written = [*_WRITTEN, *["selections"] * parameters.has_probes, *figures]
    tabulated = ["arms", "curves", "ledger", "teacher_record", "teacher_evaluation"]
    draw = Deferred(NODES, "draw_figures", names=data)
    write = Deferred(NODES, "write_pages", names=written)
    nodes = [
        shared_node(Deferred(NODES, "tabulate_results"), tabulated, ["results", "savings"]),
        shared_node(Deferred(NODES, "tabulate_benchmarks"), ["downstream", "efficiency", "arms"], ["tasks", "speeds"]),
        Node(draw, data, {figure: figure for figure in figures}, name="draw_figures"),
        shared_node(write, written, ["report_markdown", "report"]),
    ]
    return Pipeline(nodes, tags="reporting")
