"""Per variant: arms -> scores, downstream, efficiency -> findings, results, curves; then all variants together."""

from kedro.pipeline import Node, Pipeline

from budwood.parameters import ProjectParameters
from budwood.pipelines.wiring import Deferred, Place, own_of, shared_node
from budwood.records.names import ARMS, FROM_SUBNET, REFERENCE, run_name

NODES = "budwood.pipelines.evaluation.nodes"
ASKED = ["tokens", "heldout_tasks", "params:evaluation"]


def create_pipeline(parameters: ProjectParameters) -> Pipeline:
    """Measure the teacher and all arms of every variant and gather the results."""
    build = Deferred("budwood.study.evaluation", "build_questions")
    ask = Deferred(NODES, "ask_models", names=["teacher"])
    asked, written = ["params:conditions", "workspace", "teacher"], ["teacher_samples", "teacher_sample_costs"]
    shared = [
        shared_node(build, ["tokens", "teacher", "params:evaluation"], ["heldout_tasks"], name="build_tasks"),
        shared_node(ask, [*ASKED, *asked], ["teacher_downstream"], name="ask_teacher"),
        shared_node(Deferred(NODES, "continue_teacher"), ["tokens", *asked], written, name="continue_texts"),
    ]
    findings = [_findings(Place(variant, ("evaluation",)), parameters) for variant in parameters.searched]
    trained = [node for variant in parameters.trained for node in _trained(Place(variant, ("evaluation",)), parameters)]
    return Pipeline([*shared, *findings, *trained, *_gathering(parameters)], tags="evaluation")


def _findings(place: Place, parameters: ProjectParameters) -> Node:
    found = [*place.own("winner", "finalists", "certificate"), "calibration_costs"]
    found += place.own("probe_scores") if parameters.has_probes else []
    function = Deferred(NODES, "collect_findings", variant=place.variant)
    return place.node(function, found, place.own("findings"))


def _trained(place: Place, parameters: ProjectParameters) -> list[Node]:
    """Return what measures the arms of one variant."""
    reference = [REFERENCE] * parameters.has_reference(place.variant.bin)
    arms = [*ARMS, *reference]
    runs = [run_name(arm, parameters.seeds[0], seed) for arm in arms for seed in parameters.seeds]
    selection = place.own("selection") if parameters.has_probes else []
    how = [place.conditions, "workspace"]
    scored = ["tokens", *how, *place.own("subnet", *runs, *(f"{run}_run" for run in runs))]
    timed = ["params:evaluation", place.conditions, "teacher", *place.own("subnet", *reference)]
    shared = ["tokens", "teacher_record", "params:study", "workspace"]
    certified = [*shared, *place.own("scores", "downstream", "subnet", *FROM_SUBNET)]
    measured = ("scores", "downstream", "efficiency", "samples")
    results = place.own(*measured, "arm_certificates", "evaluation_costs", "sample_costs")
    curves = [*place.own("scores", *(f"{run}_curve" for run in runs)), *selection]
    collect, join = (Deferred(NODES, name, variant=place.variant) for name in ("collect_results", "join_curves"))
    ask, write = (Deferred(NODES, name, names=arms) for name in ("ask_models", "continue_texts"))
    written = ["tokens", *how, "teacher_samples", *place.own(*arms)]
    time = Deferred(NODES, "time_models", names=["teacher", "subnet", *reference])
    return [
        place.node(Deferred(NODES, "score_runs", names=runs), scored, place.own("scores", "evaluation_costs")),
        place.node(ask, [*ASKED, *how, *place.own(*arms)], place.own("downstream"), name="ask_arms"),
        place.node(time, timed, place.own("efficiency")),
        place.node(write, written, place.own("samples", "sample_costs")),
        place.node(Deferred(NODES, "certify_arms", names=FROM_SUBNET), certified, place.own("arm_certificates")),
        place.node(collect, [*results, *selection], place.own("results")),
        place.node(join, curves, place.own("curves")),
    ]


def _gathering(parameters: ProjectParameters) -> list[Node]:
    """Return the nodes that put all variants together.

    In the namespace of the variants, so that the collapsed graph shows one box with few edges.
    """
    searched, trained = parameters.searched, parameters.trained
    findings, results = own_of(searched, "findings"), own_of(trained, "results")
    answers = ["teacher_downstream", "teacher_samples", *results]
    measured = ["calibration_costs", "teacher_evaluation", "teacher_downstream", "curves"]
    cached = ["teacher_sample_costs", *["teacher_cache_costs"] * parameters.caches_teacher]
    histories = Deferred(NODES, "gather_histories", variants=searched)
    gathered: list[tuple[Deferred, list[str], list[str]]] = [
        (histories, own_of(searched, "history"), ["histories"]),
        (Deferred(NODES, "gather_curves"), own_of(trained, "curves"), ["curves"]),
        (Deferred(NODES, "gather_findings"), findings, ["winners", "certificates"]),
        (Deferred(NODES, "gather_results"), answers, ["arms", "downstream", "efficiency", "samples"]),
        (Deferred(NODES, "write_ledger"), [*measured, *findings, *results, *cached], ["ledger"]),
    ]
    return [shared_node(*parts, namespace="subnets") for parts in gathered]
