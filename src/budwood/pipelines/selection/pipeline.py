"""Per bin, where there are probes: probe_scores of its spaces -> selection, subnet; then selections, probe_curves."""

from kedro.pipeline import Node, Pipeline

from budwood.parameters import ProjectParameters
from budwood.pipelines.wiring import Deferred, Place, own_of, shared_node
from budwood.records.names import Variant

NODES = "budwood.pipelines.selection.nodes"


def create_pipeline(parameters: ProjectParameters) -> Pipeline:
    """Choose the space with which every bin continues to the full training."""
    if not parameters.has_probes:
        return Pipeline([])
    searched = parameters.searched
    choosing = [
        _choosing(Place(selected, ("selection",)), [variant for variant in searched if variant.bin == selected.bin])
        for selected in parameters.trained
    ]
    inputs = [*own_of(searched, "probe_curve"), *own_of(parameters.trained, "selection")]
    gather, outputs = Deferred(NODES, "gather_selections", variants=searched), ["selections", "probe_curves"]
    return Pipeline([*choosing, shared_node(gather, inputs, outputs, namespace="subnets", tags=["selection"])])


def _choosing(place: Place, variants: list[Variant]) -> Node:
    spaces = [variant.space for variant in variants]
    return place.node(
        Deferred(NODES, "choose_space", bin_name=place.variant.bin, spaces=spaces),
        [*own_of(variants, "probe_scores"), *own_of(variants, "subnet")],
        place.own("selection", "subnet"),
    )
