"""Per variant, where probes have a budget: subnet -> probe -> probe_scores."""

from kedro.pipeline import Node, Pipeline

from budwood.parameters import ProjectParameters
from budwood.pipelines.wiring import Deferred, Place

NODES = "budwood.pipelines.training.nodes"


def create_pipeline(parameters: ProjectParameters) -> Pipeline:
    """Train the sub-network of every variant on few tokens, and measure it."""
    if not parameters.has_probes:
        return Pipeline([])
    places = [Place(variant, ("probe",)) for variant in parameters.searched]
    return Pipeline([node for place in places for node in _nodes(place)])


def _nodes(place: Place) -> list[Node]:
    outputs, how = place.own("probe", "probe_run", "probe_curve"), ["tokens", place.conditions, "workspace"]
    return [
        place.node(Deferred(NODES, "train_probe"), [*place.own("subnet"), "teacher", *how], outputs),
        place.node(Deferred(NODES, "score_probe"), [*place.own("probe", "probe_run"), *how], place.own("probe_scores")),
    ]
