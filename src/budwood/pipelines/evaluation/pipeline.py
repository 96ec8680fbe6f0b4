"""Per variant: arms -> scores; then histories, curves, arms and ledger of all variants."""

from kedro.pipeline import Node, Pipeline

from budwood.pipelines.evaluation.nodes import ARMS, GATHERED, evaluate_arms, gather
from budwood.pipelines.grid import current_parameters, for_each_variant, wants_teacher_cache


def create_pipeline() -> Pipeline:
    """Measure all arms of every variant and gather the results."""
    stages = Pipeline(
        [
            Node(
                evaluate_arms,
                [*ARMS, *(f"{arm}_run" for arm in ARMS), "tokens", "params:measurement"],
                ["scores", "evaluation_costs"],
                name="evaluate_arms",
                tags="evaluation",
            )
        ]
    )
    parts = {
        f"{bin_name}__{space}__{what}": f"subnets.{bin_name}.{space}.{what}"
        for bin_name, space in current_parameters().grid.variants()
        for what in GATHERED
    }
    cached = ["teacher_cache_record"] if wants_teacher_cache() else []
    shared = {name: name for name in ("calibration_costs", "teacher_evaluation", *cached)}
    # In the namespace of the variants, so that the collapsed graph shows one box with few edges.
    gathering = Node(
        gather,
        shared | parts,
        ["histories", "curves", "certificates", "arms", "ledger"],
        name="gather",
        namespace="subnets",
        tags="evaluation",
    )
    return for_each_variant(stages, {"tokens"}) + Pipeline([gathering])
