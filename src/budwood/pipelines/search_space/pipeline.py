"""teacher_record -> search_spaces -> parameter_spread, budget."""

from kedro.pipeline import Node, Pipeline

from budwood.pipelines.search_space.nodes import enumerate_spaces, plan_budget, spread_spaces


def create_pipeline() -> Pipeline:
    """Enumerate the spaces, check that every bin can be reached, and plan the budget."""
    return Pipeline(
        [
            Node(
                enumerate_spaces,
                ["teacher_record", "params:bins", "params:spaces", "params:grid"],
                "search_spaces",
                name="enumerate_spaces",
            ),
            Node(
                spread_spaces,
                ["teacher_record", "search_spaces", "params:spaces", "params:search"],
                ["space_samples", "parameter_spread"],
                name="spread_spaces",
            ),
            Node(
                plan_budget,
                ["teacher_record", "search_spaces", "params:search", "params:schedule", "params:measurement"],
                "budget",
                name="plan_budget",
            ),
        ],
        tags="search_space",
    )
