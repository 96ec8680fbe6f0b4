"""Per variant: winner, cut -> subnet, certificate."""

from kedro.pipeline import Node, Pipeline

from budwood.parameters import ProjectParameters
from budwood.pipelines.wiring import Deferred, Place


def create_pipeline(parameters: ProjectParameters) -> Pipeline:
    """Export the winner of every variant."""
    return Pipeline([export_node(Place(variant, ("export",))) for variant in parameters.searched])


def export_node(place: Place, space: str | None = None) -> Node:
    """Return the export of one variant; its space has other parameters where some are given."""
    described = [space or place.space_parameters, "params:corpus", "params:serving", "workspace"]
    inputs = [*place.own("cut", "winner"), "teacher_record", "tokens", *described]
    export = Deferred("budwood.pipelines.export.nodes", "export_subnet")
    return place.node(export, inputs, place.own("subnet", "certificate"))
