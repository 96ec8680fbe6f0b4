"""Per variant: best -> subnet, certificate."""

from kedro.pipeline import Node, Pipeline

from budwood.pipelines.export.nodes import export_subnet
from budwood.pipelines.grid import for_each_variant


def create_pipeline() -> Pipeline:
    """Export the winner of every variant."""
    stages = Pipeline(
        [
            Node(
                export_subnet,
                [
                    "teacher",
                    "teacher_record",
                    "importance",
                    "tokens",
                    "best",
                    "params:space",
                    "params:corpus",
                    "workspace",
                ],
                ["subnet", "certificate"],
                name="export_subnet",
                tags="export",
            )
        ]
    )
    return for_each_variant(stages, {"teacher", "teacher_record", "importance", "tokens", "workspace"})
