"""Per variant: best -> subnet, certificate, export_costs."""

from kedro.pipeline import Node, Pipeline

from budwood.pipelines.export.nodes import export_subnet
from budwood.pipelines.grid import SEARCH_INPUTS, for_each_variant, searched_variants


def create_pipeline() -> Pipeline:
    """Export the winner of every variant."""
    return for_each_variant(export_stages(), SEARCH_INPUTS, searched_variants())


def export_stages() -> Pipeline:
    """Return the export of one variant."""
    return Pipeline(
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
