"""arms, curves, histories, downstream, efficiency, ledger -> results, savings, tasks, speeds, figures, report."""

from kedro.pipeline import Node, Pipeline

from budwood.pipelines.grid import wants_probes
from budwood.pipelines.reporting.nodes import (
    draw_results,
    draw_search,
    tabulate_benchmarks,
    tabulate_results,
    write_html,
    write_markdown,
)

OF_SEARCH = (
    *("winners_by_variant", "winner_layers", "elite_sizes"),
    *("search_trajectory", "search_sizes", "draws_and_elites"),
)
OF_RESULTS = (
    *("perplexity_by_arm", "training_curves_tokens", "training_curves_flops", "training_curves_flops_with_search"),
    *("training_losses", "savings_by_ledger", "tasks_by_arm", "speed_and_memory", "flops_by_stage"),
)


def create_pipeline() -> Pipeline:
    """Tell what was found, what it cost and what it saved."""
    selections, probes = (["selections"], ["probe_losses"]) if wants_probes() else ([], [])
    drawn = ("parameter_spread", *OF_SEARCH, *OF_RESULTS, *probes)
    return Pipeline(
        [
            Node(
                tabulate_results,
                ["arms", "curves", "ledger", "teacher_record", "teacher_evaluation"],
                ["results", "savings"],
                name="tabulate_results",
            ),
            Node(tabulate_benchmarks, ["downstream", "efficiency"], ["tasks", "speeds"], name="tabulate_benchmarks"),
            Node(
                draw_search,
                ["histories", "search_spaces", "winners", "teacher_record"],
                {name: name for name in OF_SEARCH},
                name="draw_search",
            ),
            Node(
                draw_results,
                ["curves", "results", "savings", "tasks", "speeds", "ledger"],
                {name: name for name in OF_RESULTS},
                name="draw_results",
            ),
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
            Node(
                write_html,
                {"markdown": "report_markdown"} | {name: name for name in drawn},
                "report",
                name="write_html",
            ),
        ],
        tags="reporting",
    )
