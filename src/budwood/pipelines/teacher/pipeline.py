"""teacher -> importance, teacher_evaluation."""

from kedro.pipeline import Node, Pipeline

from budwood.pipelines.teacher.nodes import evaluate_teacher, fetch_teacher, rank_components


def create_pipeline() -> Pipeline:
    """Fetch the teacher, rank its components and measure it on every split."""
    return Pipeline(
        [
            Node(
                fetch_teacher,
                ["params:teacher", "workspace"],
                ["teacher", "teacher_record"],
                name="fetch_teacher",
            ),
            Node(
                rank_components,
                ["teacher", "tokens", "params:measurement"],
                ["importance", "calibration_costs"],
                name="rank_components",
            ),
            Node(
                evaluate_teacher,
                ["teacher", "tokens", "params:measurement"],
                "teacher_evaluation",
                name="evaluate_teacher",
            ),
        ],
        tags="teacher",
    )
