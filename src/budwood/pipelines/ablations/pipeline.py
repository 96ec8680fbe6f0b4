"""Per ablation: searches and exports of what it compares -> table, figure, page."""

from kedro.pipeline import Node, Pipeline

from budwood.parameters import AblationSettings, ProjectParameters
from budwood.pipelines.ablations.comparison import NAMES, Ablation, ablations_of, metric_place, teacher_dataset
from budwood.pipelines.corpus import pipeline as corpus
from budwood.pipelines.evolution.pipeline import search_nodes
from budwood.pipelines.export.pipeline import export_node
from budwood.pipelines.teacher import pipeline as teacher
from budwood.pipelines.wiring import Deferred, Place
from budwood.records.names import Variant

NODES = "budwood.pipelines.ablations.nodes"
PREFIX = "ablation_"
"""How the names of pipelines begin that are run by name alone."""


def create_pipelines(parameters: ProjectParameters) -> dict[str, Pipeline]:
    """Return a pipeline for every ablation, by its name; empty ones where the environment compares nothing."""
    made = {f"{PREFIX}{name}": Pipeline([]) for name in NAMES}
    for ablation in ablations_of(parameters):
        made[f"{PREFIX}{ablation.name}"] += _prepared(ablation, parameters) + Pipeline([_node(ablation)])
    return made


def _prepared(ablation: Ablation, parameters: ProjectParameters) -> Pipeline:
    """Return all that leads to the models that are compared: text, teachers, searches and exports."""
    ablations = parameters.ablations
    assert ablations is not None, "only called where something is compared"
    nodes = [node for variant in ablation.searched for node in _searched(Place(variant, ("ablations",)))]
    if ablation.name == "metric":
        for metric in ablations.metrics:
            nodes += _guided(metric_place(ablations, metric, ablation.bin), ablations, metric)
    if ablation.name == "teacher":
        nodes += _fetching(ablations)
    # What only a whole study needs of these is left out.
    shared = corpus.create_pipeline(parameters) + teacher.create_pipeline(parameters)
    return shared.to_outputs("importance", "teacher_record") + Pipeline(nodes)


def _searched(place: Place) -> list[Node]:
    return [*search_nodes(place), export_node(place)]


def _guided(place: Place, ablations: AblationSettings, metric: str) -> list[Node]:
    """Return the search of one space that a metric guides."""
    space = f"params:spaces.{ablations.metric_variant(place.variant.bin).space}"
    return [*search_nodes(place, f"params:searches.{metric}", space), export_node(place, space)]


def _fetching(ablations: AblationSettings) -> list[Node]:
    """Return the node that fetches the teachers that have a source of their own."""
    sources = {name: each.source for name, each in ablations.teachers.items() if each.source is not None}
    if not sources:
        return []
    outputs = [teacher_dataset(name, ablations.teachers[name]) for name in sources]
    function = Deferred(NODES, "fetch_teachers", sources=list(sources.values()))
    place = "subnets.ablations.teacher"
    inputs = ["teacher", "params:conditions", "workspace"]
    return [Node(function, inputs, outputs, name="fetch_teachers", namespace=place, tags="ablations")]


def _node(ablation: Ablation) -> Node:
    """Return the node that trains what is compared and reports how it compares."""
    # In the namespace of the sub-networks, whose datasets it reads.
    place = f"subnets.ablations.{ablation.bin}.{ablation.name}"
    conditions = Place(Variant(ablation.bin, ablation.name)).conditions
    outputs = ["table", "curves", "figure", "curves_figure", "page", *(["importances"] if ablation.settings else [])]
    return Node(
        Deferred(NODES, "ablate", ablation=ablation),
        ["tokens", "params:ablations", conditions, "workspace", "teacher", *ablation.models],
        [f"{place}.{output}" for output in outputs],
        name=f"ablate_{ablation.name}",
        namespace=place,
        tags="ablations",
    )
