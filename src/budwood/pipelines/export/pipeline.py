"""Per variant: best -> subnet, certificate, export_costs."""

from kedro.pipeline import Node, Pipeline

from budwood.pipelines.export.nodes import export_subnet
from budwood.pipelines.grid import for_each_variant, searched_variants


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
                    "params:measurement",
                    "workspace",
                ],
                ["subnet", "certificate", "export_costs"],
                name="export_subnet",
                tags="export",
            )
        ]
    )
    return for_each_variant(
        stages, {"teacher", "teacher_record", "importance", "tokens", "workspace"}, searched_variants()
    )
