"""Per variant: arms -> scores, downstream, efficiency; then all of these, histories, curves and ledger together."""

from kedro.pipeline import Node, Pipeline

from budwood.pipelines.evaluation.nodes import (
    ARMS,
    GATHERED,
    ask_arms,
    ask_teacher,
    build_tasks,
    evaluate_arms,
    gather,
    measure_speed,
)
from budwood.pipelines.grid import current_parameters, for_each_variant, wants_teacher_cache

HOW = ["params:evaluation", "params:measurement"]


def create_pipeline() -> Pipeline:
    """Measure the teacher and all arms of every variant and gather the results."""
    shared = Pipeline(
        [
            Node(build_tasks, ["tokens", "teacher", "params:evaluation"], "heldout_tasks", name="build_tasks"),
            Node(
                ask_teacher, ["teacher", "heldout_tasks", *HOW, "workspace"], "teacher_downstream", name="ask_teacher"
            ),
        ],
        tags="evaluation",
    )
    stages = Pipeline(
        [
            Node(
                evaluate_arms,
                [*ARMS, *(f"{arm}_run" for arm in ARMS), "tokens", "params:measurement"],
                ["scores", "evaluation_costs"],
                name="evaluate_arms",
            ),
            Node(ask_arms, [*ARMS, "heldout_tasks", *HOW, "workspace"], "downstream", name="ask_arms"),
            Node(measure_speed, ["teacher", "subnet", *HOW], "efficiency", name="measure_speed"),
        ],
        tags="evaluation",
    )
    parts = {
        f"{bin_name}__{space}__{what}": f"subnets.{bin_name}.{space}.{what}"
        for bin_name, space in current_parameters().grid.variants()
        for what in GATHERED
    }
    cached = ["teacher_cache_record"] if wants_teacher_cache() else []
    of_teacher = {name: name for name in ("calibration_costs", "teacher_evaluation", "teacher_downstream", *cached)}
    # In the namespace of the variants, so that the collapsed graph shows one box with few edges.
    gathering = Node(
        gather,
        of_teacher | parts,
        ["histories", "curves", "certificates", "winners", "arms", "downstream", "efficiency", "ledger"],
        name="gather",
        namespace="subnets",
        tags="evaluation",
    )
    variants = for_each_variant(stages, {"tokens", "teacher", "heldout_tasks", "workspace"})
    return shared + variants + Pipeline([gathering])
