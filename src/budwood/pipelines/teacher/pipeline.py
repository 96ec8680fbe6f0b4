"""teacher -> importance, teacher_evaluation."""

from kedro.pipeline import Node, Pipeline

from budwood.parameters import ProjectParameters
from budwood.pipelines.wiring import Deferred

NODES = "budwood.pipelines.teacher.nodes"


def create_pipeline(parameters: ProjectParameters) -> Pipeline:
    """Fetch the teacher, rank its components and measure it on every split."""
    measured = ["teacher", "tokens", "params:conditions", "workspace"]
    rank = Deferred(
        NODES,
        "rank_components",
        statistics=parameters.needs_statistics,
        elimination=parameters.needs_elimination,
    )
    return Pipeline(
        [
            Node(
                Deferred(NODES, "fetch_teacher"),
                ["params:teacher", "params:corpus", "workspace"],
                ["teacher", "teacher_record"],
                name="fetch_teacher",
            ),
            Node(rank, measured, ["importance", "calibration_costs"], name="rank_components"),
            Node(Deferred(NODES, "evaluate_teacher"), measured, "teacher_evaluation", name="evaluate_teacher"),
        ],
        tags="teacher",
    )
