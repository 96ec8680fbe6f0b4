"""Per ablation: searches and exports of what it compares -> table, figure, page."""

from kedro.pipeline import Node, Pipeline

from budwood.parameters import ProjectParameters
from budwood.pipelines.ablations.datasets import model_datasets, teacher_dataset
from budwood.pipelines.corpus import pipeline as corpus
from budwood.pipelines.evolution.pipeline import search_nodes
from budwood.pipelines.export.pipeline import export_node
from budwood.pipelines.teacher import pipeline as teacher
from budwood.pipelines.wiring import Deferred, Place
from budwood.records.names import Variant
from budwood.study.comparison import NAMES, Ablation, SubnetSearch

NODES = "budwood.pipelines.ablations.nodes"
PREFIX = "ablation_"
"""How the names of pipelines begin that are run by name alone."""


def create_pipelines(parameters: ProjectParameters) -> dict[str, Pipeline]:
    """Return a pipeline for every ablation, by its name; empty ones where the environment compares nothing."""
    made = {f"{PREFIX}{name}": Pipeline([]) for name in NAMES}
    # What only a whole study needs of these is left out.
    shared = corpus.create_pipeline(parameters) + teacher.create_pipeline(parameters)
    for ablation in parameters.compared:
        searches = [node for search in ablation.searches for node in _searching(search)]
        own = Pipeline([*searches, *_fetching(ablation), _node(ablation)])
        made[f"{PREFIX}{ablation.name}"] += shared.to_outputs("importance", "teacher_record") + own
    return made


def _searching(search: SubnetSearch) -> list[Node]:
    place, space = Place(search.found, ("ablations",)), Place(search.searched).space_parameters
    settings = f"params:searches.{search.metric}" if search.metric else "params:search"
    return [*search_nodes(place, settings, space), export_node(place, space)]


def _fetching(ablation: Ablation) -> list[Node]:
    """Return the node that fetches the teachers that have a source of their own."""
    sources = {teacher_dataset(each): each.teacher.source for each in ablation.comparisons if each.teacher.source}
    if not sources:
        return []
    function = Deferred(NODES, "fetch_teachers", sources=list(sources.values()))
    place = "subnets.ablations.teacher"
    inputs = ["teacher", "params:conditions", "workspace"]
    return [Node(function, inputs, list(sources), name="fetch_teachers", namespace=place, tags="ablations")]


def _node(ablation: Ablation) -> Node:
    """Return the node that trains what is compared and reports how it compares."""
    # In the namespace of the sub-networks, whose datasets it reads.
    place = f"subnets.ablations.{ablation.bin}.{ablation.name}"
    conditions = Place(Variant(ablation.bin, ablation.name)).conditions
    importances = ["importances"] if ablation.grid_settings else []
    outputs = ["table", "curves", "figure", "curves_figure", "page", *importances]
    return Node(
        Deferred(NODES, "ablate", ablation=ablation),
        ["tokens", "params:ablations", conditions, "workspace", *model_datasets(ablation)],
        [f"{place}.{output}" for output in outputs],
        name=f"ablate_{ablation.name}",
        namespace=place,
        tags="ablations",
    )
