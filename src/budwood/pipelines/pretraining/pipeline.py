"""Per variant: subnet -> random_init, subnet_init."""

from kedro.pipeline import Node, Pipeline

from budwood.pipelines.grid import for_each_variant
from budwood.pipelines.pretraining.nodes import train_random_init, train_subnet_init


def create_pipeline() -> Pipeline:
    """Train the two arms without a teacher."""
    arms = {"random_init": train_random_init, "subnet_init": train_subnet_init}
    stages = Pipeline(
        [
            Node(
                function,
                [
                    "subnet",
                    "teacher",
                    "tokens",
                    f"params:arms.{arm}",
                    "params:schedule",
                    "params:measurement",
                    "params:engine",
                    "workspace",
                ],
                [arm, f"{arm}_run", f"{arm}_curve"],
                name=f"train_{arm}",
                tags="pretraining",
            )
            for arm, function in arms.items()
        ]
    )
    return for_each_variant(stages, {"teacher", "tokens", "workspace"})
