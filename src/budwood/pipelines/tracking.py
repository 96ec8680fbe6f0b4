"""Curves in MLflow while they arise, and the workspace whose stages report there."""

import os
from collections.abc import Mapping
from pathlib import Path

import mlflow
from kedro.utils import find_kedro_project

from budwood.study.stage import Workspace

_RUN = "MLFLOW_RUN_ID"


def track(metrics: Mapping[str, float], step: int) -> None:
    """Log metrics of a step to the active MLflow run, or to that of the environment; nowhere without either."""
    run = mlflow.active_run()
    run_id = os.environ.get(_RUN) if run is None else run.info.run_id
    if run_id:
        mlflow.log_metrics(dict(metrics), step=step, run_id=run_id)


def open_workspace(folder: Path) -> Workspace:
    """Return the workspace in a folder; what it does is reported to the active run, by other processes too."""
    run = mlflow.active_run()
    found = {} if run is None else {_RUN: run.info.run_id, "MLFLOW_TRACKING_URI": mlflow.get_tracking_uri()}
    return Workspace(folder=folder, track=track, environment=found)


def project_root() -> Path:
    """Return the project's folder, where relative paths of text and teachers begin."""
    return find_kedro_project(Path.cwd()) or Path.cwd()
