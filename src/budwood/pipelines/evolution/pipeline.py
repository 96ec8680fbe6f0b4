"""Per variant: history, best, search_costs."""

from kedro.pipeline import Node, Pipeline

from budwood.pipelines.evolution.nodes import evolve
from budwood.pipelines.grid import for_each_variant


def create_pipeline() -> Pipeline:
    """Search every variant of the grid."""
    stages = Pipeline(
        [
            Node(
                evolve,
                [
                    "teacher",
                    "teacher_record",
                    "importance",
                    "tokens",
                    "params:bin",
                    "params:space",
                    "params:search",
                    "params:measurement",
                    "workspace",
                ],
                ["history", "best", "search_costs"],
                name="evolve",
                tags="evolution",
            )
        ]
    )
    return for_each_variant(stages, {"teacher", "teacher_record", "importance", "tokens", "workspace"})
