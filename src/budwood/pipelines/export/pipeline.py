"""Per variant: winner, cut -> subnet, certificate."""

from kedro.pipeline import Node, Pipeline

from budwood.parameters import ProjectParameters
from budwood.pipelines.wiring import Deferred, Place


def create_pipeline(parameters: ProjectParameters) -> Pipeline:
    """Export the winner of every variant."""
    return Pipeline([export_node(Place(variant, ("export",))) for variant in parameters.searched])


def export_node(place: Place, space: str | None = None) -> Node:
    """Return the export of one variant; its space has other parameters where some are given."""
    space = space or place.space_parameters
    return place.node(
        Deferred("budwood.pipelines.export.nodes", "export_subnet"),
        [
            *place.own("cut", "winner"),
            "teacher_record",
            "tokens",
            space,
            "params:corpus",
            "params:serving",
            "workspace",
        ],
        place.own("subnet", "certificate"),
    )
