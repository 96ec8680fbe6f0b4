"""Per variant: subnet, teacher -> distilled."""

from kedro.pipeline import Node, Pipeline

from budwood.pipelines.distillation.nodes import train_distilled
from budwood.pipelines.grid import for_each_variant


def create_pipeline() -> Pipeline:
    """Train the arm that has a teacher."""
    stages = Pipeline(
        [
            Node(
                train_distilled,
                [
                    "subnet",
                    "teacher",
                    "tokens",
                    "params:arms.distilled",
                    "params:schedule",
                    "params:measurement",
                    "params:engine",
                    "workspace",
                ],
                ["distilled", "distilled_run", "distilled_curve"],
                name="train_distilled",
                tags="distillation",
            )
        ]
    )
    return for_each_variant(stages, {"teacher", "tokens", "workspace"})
