"""Curves in MLflow while they arise."""

import os
from collections.abc import Mapping

import mlflow

_RUN = "MLFLOW_RUN_ID"


def track(metrics: Mapping[str, float], step: int) -> None:
    """Log metrics of a step to the active MLflow run, or to that of the environment; else there is nobody to tell."""
    run = mlflow.active_run()
    run_id = os.environ.get(_RUN) if run is None else run.info.run_id
    if run_id:
        mlflow.log_metrics(dict(metrics), step=step, run_id=run_id)


def active_run_environment() -> dict[str, str]:
    """Return the variables by which another process finds the active run; none without one."""
    run = mlflow.active_run()
    return {} if run is None else {_RUN: run.info.run_id, "MLFLOW_TRACKING_URI": mlflow.get_tracking_uri()}
