"""teacher -> importance, teacher_evaluation."""

from kedro.pipeline import Pipeline

from budwood.parameters import ProjectParameters
from budwood.pipelines.wiring import Deferred, shared_node

NODES = "budwood.pipelines.teacher.nodes"


def create_pipeline(parameters: ProjectParameters) -> Pipeline:
    """Fetch the teacher, rank its components and measure it on every split."""
    measured = ["teacher", "tokens", "params:conditions", "workspace"]
    rank = Deferred(
        NODES,
        "rank_components",
        statistics=parameters.needs_statistics,
        elimination=parameters.needs_elimination,
        orderings=parameters.orderings,
    )
    source = ["params:teacher", "params:corpus", "workspace"]
    nodes = [
        shared_node(Deferred(NODES, "fetch_teacher"), source, ["teacher", "teacher_record"]),
        shared_node(rank, measured, ["importance", "calibration_costs", "order_gates"]),
        shared_node(Deferred(NODES, "evaluate_teacher"), measured, ["teacher_evaluation"]),
    ]
    return Pipeline(nodes, tags="teacher")
