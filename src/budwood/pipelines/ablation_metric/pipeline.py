"""Searches of one space by several metrics, what each found trained alike -> table, figure, page."""

from collections.abc import Callable
from functools import wraps
from pathlib import Path
from typing import Any

from kedro.pipeline import Node, Pipeline

from budwood.parameters import AblationParameters, ArmParameters
from budwood.pipelines.ablations import Ablation, Variant, prepared, where_wanted
from budwood.pipelines.evolution.pipeline import search_stages
from budwood.pipelines.export.pipeline import export_stages
from budwood.pipelines.grid import SEARCH_INPUTS, parameters_of
from budwood.search.settings import SearchSettings


@where_wanted
def create_pipeline(ablations: AblationParameters) -> Pipeline:
    """Search one space by every metric and train what was found (paper, section 5 and figure 8)."""
    bin_name, space = ablations.student.bin, ablations.metric_space
    places = {metric: f"subnets.{bin_name}.by_{metric.replace('.', '_')}" for metric in ablations.metrics}
    searches = Pipeline([])
    for metric, place in places.items():
        stages = _guided_by(metric, search_stages()) + export_stages()
        parameters = parameters_of(stages, bin_name, space)
        searches += Pipeline(stages, namespace=place, inputs=SEARCH_INPUTS, parameters=parameters)
    ablation = Ablation(
        name="metric",
        title="Metrics that guide a search",
        about=(
            f"The space `{space}` of the bin `{bin_name}`, searched with the same budget by each metric; what it ranks "
            "first is trained on the same tokens."
        ),
        arm="subnet_init",
        subnets={metric: f"{place}.subnet" for metric, place in places.items()},
        choose=_by_metric,
    )
    return prepared([]) + searches + ablation.pipeline()


def _by_metric(ablations: AblationParameters, arm: ArmParameters, subnets: dict[str, Path]) -> dict[str, Variant]:
    return {
        metric: Variant(folder=subnets[metric], arm=arm, settings={"metric": metric}) for metric in ablations.metrics
    }


def _guided_by(metric: str, stages: Pipeline) -> Pipeline:
    """Return the stages of a search by another metric."""
    return Pipeline(
        [
            Node(_changing(node.func, metric), node.inputs, node.outputs, name=node.name, tags=node.tags)
            for node in stages.nodes
        ]
    )


def _changing(function: Callable[..., Any], metric: str) -> Callable[..., Any]:
    """Return a node's function that searches by another metric."""

    @wraps(function)
    def changed(*inputs: Any) -> Any:
        return function(*(value.guided_by(metric) if isinstance(value, SearchSettings) else value for value in inputs))

    return changed
