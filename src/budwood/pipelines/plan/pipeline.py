"""Parameters -> plan, plan_markdown."""

from kedro.pipeline import Node, Pipeline

from budwood.pipelines.plan.nodes import plan_study


def create_pipeline() -> Pipeline:
    """Tell what a study will cost; needs neither the teacher's weights nor any text."""
    groups = (
        *("teacher", "bins", "spaces", "grid", "corpus", "measurement", "search", "protocol", "schedule", "arms"),
        *("plan", "evaluation", "ablations"),
    )
    inputs = [*(f"params:{group}" for group in groups), "workspace"]
    return Pipeline([Node(plan_study, inputs, ["plan", "plan_markdown"], name="plan_study")], tags="plan")
