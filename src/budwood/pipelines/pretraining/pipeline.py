"""Per variant: subnet -> random_init, subnet_init; and the bin's own architecture -> reference_init."""

from kedro.pipeline import Node, Pipeline

from budwood.pipelines.grid import for_each_variant, has_reference, trained_variants
from budwood.pipelines.pretraining.nodes import train_random_init, train_reference_init, train_subnet_init
from budwood.reporting.records import REFERENCE

SHARED = {"teacher", "tokens", "workspace"}


def create_pipeline() -> Pipeline:
    """Train the arms without a teacher."""
    how = ["params:schedule", "params:measurement", "params:engine", "workspace"]
    arms = {"random_init": train_random_init, "subnet_init": train_subnet_init}
    stages = Pipeline(
        [
            Node(
                function,
                ["subnet", "teacher", "tokens", f"params:arms.{arm}", *how],
                _outputs(arm),
                name=f"train_{arm}",
                tags="pretraining",
            )
            for arm, function in arms.items()
        ]
    )
    reference = Node(
        train_reference_init,
        ["teacher", "tokens", "params:bin", f"params:arms.{REFERENCE}", *how],
        _outputs(REFERENCE),
        name=f"train_{REFERENCE}",
        tags="pretraining",
    )
    with_reference = [variant for variant in trained_variants() if has_reference(variant[0])]
    return for_each_variant(stages, SHARED, trained_variants()) + for_each_variant(
        Pipeline([reference]), SHARED, with_reference
    )


def _outputs(arm: str) -> list[str]:
    return [arm, f"{arm}_run", f"{arm}_curve"]
