"""Per variant: arms -> scores, downstream, efficiency -> findings, results, curves; then all variants together."""

from collections.abc import Sequence

from kedro.pipeline import Node, Pipeline

from budwood.pipelines.evaluation.gathering import PROBED, SEARCHED, TRAINED
from budwood.pipelines.evaluation.nodes import (
    ask_arms,
    ask_teacher,
    build_tasks,
    collect,
    evaluate_arms,
    gather,
    join_curves,
    measure_speed,
)
from budwood.pipelines.grid import (
    for_each_variant,
    has_reference,
    run_names,
    searched_variants,
    trained_variants,
    wants_probes,
    wants_teacher_cache,
)
from budwood.reporting.records import ARMS, REFERENCE

HOW = {"evaluation": "params:evaluation", "measurement": "params:measurement"}


def create_pipeline() -> Pipeline:
    """Measure the teacher and all arms of every variant and gather the results."""
    asked = ["teacher", "heldout_tasks", *HOW.values(), "workspace"]
    shared = Pipeline(
        [
            Node(build_tasks, ["tokens", "teacher", "params:evaluation"], "heldout_tasks", name="build_tasks"),
            Node(ask_teacher, asked, "teacher_downstream", name="ask_teacher"),
        ],
        tags="evaluation",
    )
    cached = ["teacher_cache_record"] if wants_teacher_cache() else []
    chosen = ["selections"] if wants_probes() else []
    once = ("calibration_costs", "teacher_evaluation", "teacher_downstream", *cached, *chosen)
    # In the namespace of the variants, so that the collapsed graph shows one box with few edges.
    gathering = Node(
        gather,
        _same(once) | _parts(),
        ["histories", "curves", "certificates", "winners", "arms", "downstream", "efficiency", "ledger"],
        name="gather",
        namespace="subnets",
        tags="evaluation",
    )
    own = {"tokens", "teacher", "heldout_tasks", "workspace"}
    found = for_each_variant(_findings(), set(), searched_variants())
    variants = [
        for_each_variant(_stages(refers), own, [v for v in trained_variants() if has_reference(v[0]) == refers])
        for refers in (False, True)
    ]
    return shared + found + sum(variants, Pipeline([])) + Pipeline([gathering])


def _findings() -> Pipeline:
    """Return the stage that puts together what a search found and cost, and its probe."""
    names = SEARCHED + PROBED * wants_probes()
    return Pipeline([Node(collect, _same(names), "findings", name="collect_findings")], tags="evaluation")


def _stages(refers: bool) -> Pipeline:  # noqa: FBT001 - a pipeline with the arm of the reference, or one without
    reference = _same([REFERENCE]) if refers else {}
    arms = _same(ARMS) | reference
    runs = [run for arm in arms for run in run_names(arm)]
    scored = _same(["tokens", *runs, *(f"{run}_run" for run in runs)]) | {"measurement": HOW["measurement"]}
    asked = arms | HOW | _same(["heldout_tasks", "workspace"])
    timed = HOW | reference | _same(["teacher", "subnet"])
    joined = _same(["scores", *(f"{run}_curve" for run in runs)])
    return Pipeline(
        [
            Node(evaluate_arms, scored, ["scores", "evaluation_costs"], name="evaluate_arms"),
            Node(ask_arms, asked, "downstream", name="ask_arms"),
            Node(measure_speed, timed, "efficiency", name="measure_speed"),
            Node(collect, _same(TRAINED), "results", name="collect_results"),
            Node(join_curves, joined, "curves", name="join_curves"),
        ],
        tags="evaluation",
    )


def _parts() -> dict[str, str]:
    """Return the datasets of all variants that are gathered."""
    wanted = [(variant, what) for variant in searched_variants() for what in ("history", "findings")]
    wanted += [(variant, what) for variant in trained_variants() for what in ("results", "curves")]
    return {f"{bin_name}__{space}__{what}": f"subnets.{bin_name}.{space}.{what}" for (bin_name, space), what in wanted}


def _same(names: Sequence[str]) -> dict[str, str]:
    """Return arguments of a node that are named as their datasets are."""
    return {name: name for name in names}
