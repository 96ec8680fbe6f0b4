"""Per bin, where there are probes: probe_scores of its spaces -> selection, subnet; then selections, probe_curves."""

from kedro.pipeline import Node, Pipeline

from budwood.parameters import ProjectParameters
from budwood.pipelines.wiring import Deferred, Place
from budwood.records.names import Variant

NODES = "budwood.pipelines.selection.nodes"


def create_pipeline(parameters: ProjectParameters) -> Pipeline:
    """Choose the space with which every bin goes on to the full training."""
    if not parameters.has_probes:
        return Pipeline([])
    searched = parameters.searched
    choosing = [
        _choosing(Place(selected, ("selection",)), [variant for variant in searched if variant.bin == selected.bin])
        for selected in parameters.trained
    ]
    inputs = [*_of(searched, "probe_curve"), *_of(parameters.trained, "selection")]
    outputs = ["selections", "probe_curves"]
    gathering = Node(
        Deferred(NODES, "gather_selections", variants=searched),
        inputs,
        outputs,
        name="gather_selections",
        namespace="subnets",
        tags="selection",
    )
    return Pipeline([*choosing, gathering])


def _choosing(place: Place, variants: list[Variant]) -> Node:
    spaces = [variant.space for variant in variants]
    return place.node(
        Deferred(NODES, "choose_space", bin_name=place.variant.bin, spaces=spaces),
        [*_of(variants, "probe_scores"), *_of(variants, "subnet")],
        place.own("selection", "subnet"),
    )


def _of(variants: list[Variant], what: str) -> list[str]:
    return [name for variant in variants for name in Place(variant).own(what)]
