"""Per variant: history, finalists -> winner, cut."""

from kedro.pipeline import Node, Pipeline

from budwood.parameters import ProjectParameters
from budwood.pipelines.wiring import Deferred, Place

NODES = "budwood.pipelines.evolution.nodes"


def create_pipeline(parameters: ProjectParameters) -> Pipeline:
    """Search every variant of the grid and choose its winner."""
    places = [Place(variant, ("evolution",)) for variant in parameters.searched]
    return Pipeline([node for place in places for node in search_nodes(place)])


def search_nodes(place: Place, search: str = "params:search", space: str | None = None) -> list[Node]:
    """Return the search of one variant."""
    space = space or place.space_parameters
    text, how = ["teacher", "importance", "tokens"], [search, place.conditions, "workspace"]
    searched, chosen = [*text, place.bin_parameters, space, *how], [*text, *place.own("finalists"), space, *how]
    return [
        place.node(Deferred(NODES, "evolve"), searched, place.own("history", "genes", "finalists")),
        place.node(Deferred(NODES, "choose_winner"), chosen, place.own("winner", "cut")),
    ]
