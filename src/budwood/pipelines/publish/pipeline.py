"""Per variant, where `push` names a repository: subnet -> publication."""

from kedro.pipeline import Pipeline

from budwood.parameters import ProjectParameters
from budwood.pipelines.wiring import Deferred, Place


def create_pipeline(parameters: ProjectParameters) -> Pipeline:
    """Publish the export of every variant."""
    if parameters.push is None:
        return Pipeline([])
    nodes = [
        place.node(
            Deferred("budwood.pipelines.publish.nodes", "publish_subnet", variant=place.variant),
            [*place.own("subnet"), "params:push"],
            place.own("publication"),
        )
        for place in (Place(variant, ("publish",)) for variant in parameters.searched)
    ]
    return Pipeline(nodes)
