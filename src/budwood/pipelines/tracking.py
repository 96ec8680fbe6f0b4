"""Metrics go to the MLflow run at work: the study's, inside it a variant's, inside that one of a training."""

import os
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from functools import cache, partial
from pathlib import Path

import mlflow
from mlflow.entities import Metric, RunStatus
from mlflow.utils.mlflow_tags import MLFLOW_PARENT_RUN_ID

from budwood.study.results import Result
from budwood.study.stage import Stage, Workspace

_RUN = "MLFLOW_RUN_ID"
_INHERITED = ("budwood.", "environment", "git_commit", "variant", "teacher.", "tokens.")
"""Beginnings of the tags that a run has from the one around it."""


def track(metrics: Mapping[str, float], step: int) -> None:
    """Log metrics of a step to the active run, or to that of the environment; without either, log nothing."""
    run = mlflow.active_run()
    run_id = os.environ.get(_RUN) if run is None else run.info.run_id
    if run_id:
        _log(run_id, metrics, step)


def _log(run_id: str, metrics: Mapping[str, float], step: int) -> None:
    now = time.time_ns() // 10**6
    logged = [Metric(name, value, now, step) for name, value in metrics.items()]
    # `mlflow.log_metrics` reads the whole run before it writes.
    mlflow.MlflowClient().log_batch(run_id, logged)


def open_workspace(folder: Path) -> Workspace:
    """Return the workspace in a folder; what it does is reported to the active run, by other processes too."""
    run = mlflow.active_run()
    found = {} if run is None else {_RUN: run.info.run_id, "MLFLOW_TRACKING_URI": mlflow.get_tracking_uri()}
    return Workspace(folder=folder, track=track, environment=found)


@contextmanager
def run_of(name: str) -> Iterator[None]:
    """Track in the run of this name inside the active one, such as that of an arm; without an active one, nowhere."""
    if mlflow.active_run() is None:
        yield
        return
    enter_run(name)
    try:
        yield
    except BaseException as error:
        mlflow.end_run(status_of(error))
        raise
    mlflow.end_run()


def finish_in(name: str, stage: Stage[Result], workspace: Path) -> Result:
    """Return the result of a stage, reported to the run of a name inside the active one.

    That run, such as an arm's, keeps its times and status: nothing is trained there.
    """
    found = open_workspace(workspace)
    if mlflow.active_run() is not None:
        found = replace(found, track=partial(_log, _ended(_inside(name))))
    return found.finish(stage)


def enter_run(name: str, tags: Mapping[str, str] | None = None) -> str:
    """Make the run of a name inside the active one active, a new one where there is none, and return its id."""
    run_id = _inside(name, tags)
    mlflow.start_run(run_id=run_id, nested=True)
    return run_id


def _inside(name: str, tags: Mapping[str, str] | None = None) -> str:
    """Return the id of the run of a name inside the active one, a new one with tags where there is none.

    Inside the run of a variant the variant is part of the name: charts that compare runs show no more than names.
    """
    parent = mlflow.active_run()
    assert parent is not None, "there is a run around every other"
    if parent.info.run_name == parent.data.tags.get("variant"):
        name = f"{parent.info.run_name}.{name}"
    return _run_inside(parent.info.run_id, parent.info.experiment_id, name, tuple((tags or {}).items()))


@cache
def _ended(run_id: str) -> str:
    """End a run that was made and never entered, and return its id."""
    client = mlflow.MlflowClient()
    if client.get_run(run_id).info.status == RunStatus.to_string(RunStatus.RUNNING):
        client.set_terminated(run_id)
    return run_id


@cache
def _run_inside(parent_id: str, experiment_id: str, name: str, tags: tuple[tuple[str, str], ...]) -> str:
    """Return the id of the run of a name inside another, a new one with tags where there is none."""
    client = mlflow.MlflowClient()
    inside = f"tags.`{MLFLOW_PARENT_RUN_ID}` = '{parent_id}' and attributes.run_name = '{name}'"
    found = list(client.search_runs([experiment_id], inside))
    if not found:
        around = client.get_run(parent_id).data.tags
        inherited = {key: value for key, value in around.items() if key.startswith(_INHERITED)}
        own = inherited | dict(tags) | {MLFLOW_PARENT_RUN_ID: parent_id}
        found = [client.create_run(experiment_id, run_name=name, tags=own)]
    return str(found[0].info.run_id)


def status_of(error: BaseException) -> str:
    """Return the status of a run that an error ended: killed where it was asked to stop, otherwise failed."""
    from budwood.training.run import TrainingStoppedError  # noqa: PLC0415 - keeps torch out of commands without a run

    stopped = not isinstance(error, Exception) or isinstance(error, TrainingStoppedError)
    return RunStatus.to_string(RunStatus.KILLED if stopped else RunStatus.FAILED)
