"""Per variant: arms -> scores, downstream, efficiency; then all of these, histories, curves and ledger together."""

from kedro.pipeline import Node, Pipeline

from budwood.parameters import SELECTED
from budwood.pipelines.evaluation.gathering import PROBED, SEARCHED, TRAINED
from budwood.pipelines.evaluation.nodes import (
    ask_arms,
    ask_teacher,
    build_tasks,
    evaluate_arms,
    gather,
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
    of_teacher = {name: name for name in ("calibration_costs", "teacher_evaluation", "teacher_downstream", *cached)}
    # In the namespace of the variants, so that the collapsed graph shows one box with few edges.
    gathering = Node(
        gather,
        of_teacher | _parts(),
        ["histories", "curves", "certificates", "winners", "arms", "downstream", "efficiency", "ledger"],
        name="gather",
        namespace="subnets",
        tags="evaluation",
    )
    own = {"tokens", "teacher", "heldout_tasks", "workspace"}
    variants = [
        for_each_variant(_stages(refers), own, [v for v in trained_variants() if has_reference(v[0]) == refers])
        for refers in (False, True)
    ]
    return shared + sum(variants, Pipeline([])) + Pipeline([gathering])


def _stages(refers: bool) -> Pipeline:  # noqa: FBT001 - a pipeline with the arm of the reference, or one without
    reference = {REFERENCE: REFERENCE} if refers else {}
    arms = {name: name for name in ARMS} | reference
    runs = [run for arm in arms for run in run_names(arm)]
    scored = {name: name for run in runs for name in (run, f"{run}_run")}
    scored |= {"tokens": "tokens", "measurement": HOW["measurement"]}
    asked = arms | HOW | {name: name for name in ("heldout_tasks", "workspace")}
    timed = HOW | reference | {"teacher": "teacher", "subnet": "subnet"}
    return Pipeline(
        [
            Node(evaluate_arms, scored, ["scores", "evaluation_costs"], name="evaluate_arms"),
            Node(ask_arms, asked, "downstream", name="ask_arms"),
            Node(measure_speed, timed, "efficiency", name="measure_speed"),
        ],
        tags="evaluation",
    )


def _parts() -> dict[str, str]:
    """Return the datasets of all variants that are gathered."""
    wanted = [(variant, what) for variant in searched_variants() for what in SEARCHED + PROBED * wants_probes()]
    for variant in trained_variants():
        arms = (*ARMS, REFERENCE) if has_reference(variant[0]) else ARMS
        curves = [f"{run}_curve" for arm in arms for run in run_names(arm)]
        wanted += [(variant, what) for what in (*TRAINED, *curves)]
        wanted += [(variant, "selection")] if variant[1] == SELECTED else []
    return {f"{bin_name}__{space}__{what}": f"subnets.{bin_name}.{space}.{what}" for (bin_name, space), what in wanted}
