"""teacher -> teacher_cache, where one is wanted; per variant: subnet, teacher or its cache -> distilled."""

from kedro.pipeline import Node, Pipeline

from budwood.pipelines.arms import of_seed
from budwood.pipelines.distillation.nodes import cache_teacher, train_distilled
from budwood.pipelines.grid import for_each_variant, run_names, trained_variants, wants_teacher_cache

ARM = ["params:arms.distilled", "params:schedule", "params:measurement", "workspace"]


def create_pipeline() -> Pipeline:
    """Train the arm that has a teacher; a cached one is asked once for all variants."""
    cached = ["teacher_cache"] if wants_teacher_cache() else []
    stages = Pipeline(
        [
            Node(
                of_seed(train_distilled, place),
                ["subnet", "teacher", "tokens", *ARM[:-1], "params:engine", "workspace", *cached],
                [run, f"{run}_run", f"{run}_curve"],
                name=f"train_{run}",
                tags="distillation",
            )
            for place, run in enumerate(run_names("distilled"))
        ]
    )
    variants = for_each_variant(stages, {"teacher", "tokens", "workspace", *cached}, trained_variants())
    if not cached:
        return variants
    outputs = ["teacher_cache", "teacher_cache_record"]
    asking = Node(cache_teacher, ["teacher", "tokens", *ARM], outputs, name="cache_teacher", tags="distillation")
    return variants + Pipeline([asking])
