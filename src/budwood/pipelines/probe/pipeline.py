"""Per variant, where probes have a budget: subnet -> probe -> probe_scores."""

from kedro.pipeline import Node, Pipeline

from budwood.pipelines.grid import for_each_variant, searched_variants, wants_probes
from budwood.pipelines.probe.nodes import score_probe, train_probe


def create_pipeline() -> Pipeline:
    """Train the sub-network of every variant on few tokens, and measure it."""
    if not wants_probes():
        return Pipeline([])
    how = ["params:protocol", "params:schedule", "params:measurement", "params:engine", "workspace"]
    stages = Pipeline(
        [
            Node(
                train_probe,
                ["subnet", "teacher", "tokens", "params:arms.subnet_init", *how],
                ["probe", "probe_run", "probe_curve"],
                name="train_probe",
            ),
            Node(
                score_probe, ["probe", "probe_run", "tokens", "params:measurement"], "probe_scores", name="score_probe"
            ),
        ],
        tags="probe",
    )
    return for_each_variant(stages, {"teacher", "tokens", "workspace"}, searched_variants())
