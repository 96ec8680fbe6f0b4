"""Per variant: subnet -> random_init, subnet_init; and the bin's own architecture -> reference_init."""

from collections.abc import Callable

from kedro.pipeline import Node, Pipeline

from budwood.pipelines.arms import ArmOutputs, of_seed
from budwood.pipelines.grid import for_each_variant, has_reference, run_names, trained_variants
from budwood.pipelines.pretraining.nodes import train_random_init, train_reference_init, train_subnet_init
from budwood.reporting.records import REFERENCE

SHARED = {"teacher", "tokens", "workspace"}


def create_pipeline() -> Pipeline:
    """Train the arms without a teacher, with every seed."""
    begin = ["subnet", "teacher", "tokens"]
    arms = _runs("random_init", train_random_init, begin) + _runs("subnet_init", train_subnet_init, begin)
    reference = _runs(REFERENCE, train_reference_init, ["teacher", "tokens", "params:bin"])
    with_reference = [variant for variant in trained_variants() if has_reference(variant[0])]
    return for_each_variant(arms, SHARED, trained_variants()) + for_each_variant(reference, SHARED, with_reference)


def _runs(arm: str, function: Callable[..., ArmOutputs], begin: list[str]) -> Pipeline:
    how = [f"params:arms.{arm}", "params:schedule", "params:measurement", "params:engine", "workspace"]
    return Pipeline(
        [
            Node(
                of_seed(function, place),
                begin + how,
                [run, f"{run}_run", f"{run}_curve"],
                name=f"train_{run}",
                tags="pretraining",
            )
            for place, run in enumerate(run_names(arm))
        ]
    )
