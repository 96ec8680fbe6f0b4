"""Per variant, where `push` names a repository: subnet, or a trained arm -> publication."""

from kedro.pipeline import Pipeline

from budwood.parameters import ProjectParameters
from budwood.pipelines.wiring import Deferred, Place


def create_pipeline(parameters: ProjectParameters) -> Pipeline:
    """Publish one model of every variant."""
    push = parameters.push
    if push is None:
        return Pipeline([])
    nodes = []
    for place in (Place(variant, ("publish",)) for variant in parameters.published):
        publish = Deferred("budwood.pipelines.publish.nodes", "publish_model", variant=place.variant)
        nodes.append(place.node(publish, [*place.own(push.model), "params:push"], place.own("publication")))
    return Pipeline(nodes)
