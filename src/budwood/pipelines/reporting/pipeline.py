"""arms, curves, histories, downstream, efficiency, ledger -> results, savings, tasks, speeds, figures, report."""

from kedro.pipeline import Node, Pipeline

from budwood.pipelines.grid import wants_probes
from budwood.pipelines.reporting.nodes import (
    draw_figures,
    tabulate_benchmarks,
    tabulate_results,
    write_html,
    write_markdown,
)


def create_pipeline() -> Pipeline:
    """Tell what was found, what it cost and what it saved."""
    selections, probes = (["selections"], ["probe_losses"]) if wants_probes() else ([], [])
    drawn = [
        "search_trajectory",
        "training_curves_tokens",
        "training_curves_flops",
        "perplexity_by_arm",
        "tasks_by_arm",
        "flops_by_stage",
    ]
    return Pipeline(
        [
            Node(
                tabulate_results,
                ["arms", "curves", "ledger", "teacher_record", "teacher_evaluation"],
                ["results", "savings"],
                name="tabulate_results",
            ),
            Node(tabulate_benchmarks, ["downstream", "efficiency"], ["tasks", "speeds"], name="tabulate_benchmarks"),
            Node(draw_figures, ["histories", "curves", "results", "tasks", "ledger"], drawn, name="draw_figures"),
            Node(
                write_markdown,
                [
                    "results",
                    "savings",
                    "search_spaces",
                    "corpus_counts",
                    "teacher_record",
                    "teacher_evaluation",
                    "ledger",
                    "certificates",
                    "winners",
                    "tasks",
                    "speeds",
                    "tokens",
                    "params:search",
                    "params:schedule",
                    "params:measurement",
                    *selections,
                ],
                "report_markdown",
                name="write_markdown",
            ),
            Node(write_html, ["report_markdown", "parameter_spread", *drawn, *probes], "report", name="write_html"),
        ],
        tags="reporting",
    )
