"""Per variant: history, finalists -> best; search_costs, choice_costs."""

from kedro.pipeline import Node, Pipeline

from budwood.pipelines.evolution.nodes import choose_winner, evolve
from budwood.pipelines.grid import SEARCH_INPUTS, for_each_variant, searched_variants


def create_pipeline() -> Pipeline:
    """Search every variant of the grid and choose its winner."""
    return for_each_variant(search_stages(), SEARCH_INPUTS, searched_variants())


def search_stages() -> Pipeline:
    """Return the search of one variant."""
    return Pipeline(
        [
            Node(
                evolve,
                [
                    "teacher",
                    "teacher_record",
                    "importance",
                    "tokens",
                    "params:bin",
                    "params:space",
                    "params:search",
                    "params:measurement",
                    "workspace",
                ],
                ["history", "finalists", "search_costs"],
                name="evolve",
            ),
            Node(
                choose_winner,
                [
                    "teacher",
                    "teacher_record",
                    "importance",
                    "tokens",
                    "finalists",
                    "params:space",
                    "params:search",
                    "params:measurement",
                    "params:schedule",
                    "params:arms.subnet_init",
                    "params:engine",
                    "workspace",
                ],
                ["best", "choice_costs"],
                name="choose_winner",
            ),
        ],
        tags="evolution",
    )
