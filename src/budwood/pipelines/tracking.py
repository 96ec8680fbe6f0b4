"""Curves in MLflow while they arise."""

from collections.abc import Mapping

import mlflow


def track(metrics: Mapping[str, float], step: int) -> None:
    """Log metrics of a step to the active MLflow run; without one there is nobody to tell."""
    run = mlflow.active_run()
    if run is not None:
        mlflow.log_metrics(dict(metrics), step=step, run_id=run.info.run_id)
