"""Parameters -> plan, plan_markdown."""

from kedro.pipeline import Node, Pipeline

from budwood.parameters import ProjectParameters
from budwood.pipelines.wiring import Deferred


def create_pipeline(parameters: ProjectParameters) -> Pipeline:
    """Report what a study will cost; needs neither the teacher's weights nor any text."""
    function, outputs = Deferred("budwood.pipelines.plan.nodes", "plan_study"), ["plan", "plan_markdown"]
    return Pipeline([Node(function, ["params:study", "workspace"], outputs, name="plan_study")], tags="plan")
