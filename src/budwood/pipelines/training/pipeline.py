"""Per variant: subnet -> random_init, subnet_init, distilled; the bin's own architecture -> reference_init."""

from kedro.pipeline import Node, Pipeline

from budwood.parameters import ProjectParameters
from budwood.pipelines.wiring import Deferred, Place
from budwood.records.names import REFERENCE, run_name

NODES = "budwood.pipelines.training.nodes"
INITIALISATIONS = {"random_init": "random", "subnet_init": "checkpoint", "distilled": "checkpoint"}


def create_pretraining(parameters: ProjectParameters) -> Pipeline:
    """Train the arms without a teacher, of every variant and with every seed."""
    places = [Place(variant, ("pretraining",)) for variant in parameters.trained]
    arms = [
        node for place in places for arm in ("random_init", "subnet_init") for node in _runs(place, arm, parameters)
    ]
    references = [node for place in places for node in _references(place, parameters)]
    return Pipeline([*arms, *references])


def create_distillation(parameters: ProjectParameters) -> Pipeline:
    """Train the arm that has a teacher; a cached one is asked once for all variants."""
    places = [Place(variant, ("distillation",)) for variant in parameters.trained]
    nodes = [node for place in places for node in _runs(place, "distilled", parameters)]
    if parameters.caches_teacher:
        outputs = ["teacher_cache", "teacher_cache_costs"]
        longest = max(parameters.conditions_by_bin[variant.bin].schedule.tokens for variant in parameters.trained)
        asking, inputs = Deferred(NODES, "cache_teacher", num_tokens=longest), ["teacher", "tokens"]
        inputs += ["params:conditions", "workspace"]
        nodes.append(Node(asking, inputs, outputs, name="cache_teacher", tags="distillation"))
    return Pipeline(nodes)


def _runs(place: Place, arm: str, parameters: ProjectParameters) -> list[Node]:
    """Return the runs of one arm of a variant, one for every seed."""
    cache = ["teacher_cache"] if arm == "distilled" and parameters.caches_teacher else []
    inputs = [*place.own("subnet"), "teacher", "tokens", place.conditions, "workspace", *cache]
    kind = (arm, INITIALISATIONS[arm])
    return [
        _run(place, Deferred(NODES, "train_arm", arm=kind, seed=seed), inputs, run_name(arm, parameters.seeds[0], seed))
        for seed in parameters.seeds
    ]


def _references(place: Place, parameters: ProjectParameters) -> list[Node]:
    """Return the runs of the bin's reference, where it names one."""
    if not parameters.has_reference(place.variant.bin):
        return []
    inputs = ["teacher", "tokens", place.bin_parameters, place.conditions, "workspace"]
    return [
        _run(
            place, Deferred(NODES, "train_reference", seed=seed), inputs, run_name(REFERENCE, parameters.seeds[0], seed)
        )
        for seed in parameters.seeds
    ]


def _run(place: Place, function: Deferred, inputs: list[str], run: str) -> Node:
    return place.node(function, inputs, place.own(run, f"{run}_run", f"{run}_curve"), name=f"train_{run}")
