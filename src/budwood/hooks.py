"""What happens around the nodes: MLflow runs, artifacts, and a last word on where the report is."""

import logging
import os
import resource
import socket
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import mlflow
from kedro.framework.context import KedroContext
from kedro.framework.hooks import hook_impl
from kedro.io import DataCatalog
from kedro.pipeline.node import Node
from mlflow.entities import Run, ViewType
from mlflow.utils.mlflow_tags import MLFLOW_PARENT_RUN_ID
from pydantic import BaseModel

logger = logging.getLogger(__name__)

HOST, PID = "budwood.host", "budwood.pid"
"""Tags by which a run of a process that is gone is recognised."""
WHOLE = "whole study"
"""Name of a run of all pipelines."""
SHARED = ("teacher", "tokens")
"""Heavy datasets that all variants come from: their tags stand at every run."""


class TrackingHook:
    """One MLflow run per `kedro run`, and inside it one child run per variant, shared by all its nodes."""

    def __init__(self) -> None:
        """Begin without any run."""
        self._children: dict[str, str] = {}
        self._started: dict[str, float] = {}
        self._catalog: DataCatalog | None = None
        self._store: dict[str, str] = {}
        self._parameters: dict[str, Any] = {}
        self._about: dict[str, Any] = {}

    @hook_impl
    def after_context_created(self, context: KedroContext) -> None:
        """Read where runs are tracked, and the parameters they are described by."""
        self._store = context.config_loader["mlflow"]
        self._parameters = context.config_loader["parameters"]

    @hook_impl
    def after_catalog_created(self, catalog: DataCatalog) -> None:
        """Remember the catalog: its metadata says what is logged."""
        self._catalog = catalog

    @hook_impl
    def before_pipeline_run(self, run_params: dict[str, Any]) -> None:
        """Start the run, describe it, and close what killed runs left open."""
        self._children.clear()
        _choose_experiment(self._store)
        names = set(run_params.get("pipeline_names") or ["__default__"])
        run = mlflow.start_run(run_name=WHOLE if names == {"__default__"} else "+".join(sorted(names)))
        _close_dead_runs(run)
        mlflow.log_params(_flatten("", self._parameters))
        self._about = {
            HOST: socket.gethostname(),
            PID: str(os.getpid()),
            "git_commit": _git_commit(),
            "environment": str(run_params.get("env") or "base"),
        }
        mlflow.set_tags(self._about | {"command": " ".join(sys.argv)})

    @hook_impl
    def after_pipeline_run(self) -> None:
        """End the run."""
        mlflow.end_run("FINISHED")

    @hook_impl
    def on_pipeline_error(self) -> None:
        """End the run as failed."""
        mlflow.end_run("FAILED")

    @hook_impl
    def before_node_run(self, node: Node, inputs: dict[str, Any]) -> None:
        """Enter the variant's run and log the node's parameters there."""
        self._started[node.name] = time.perf_counter()
        variant, parent = _variant(node), mlflow.active_run()
        if variant is None or parent is None:
            return
        mlflow.start_run(run_id=self._child(variant, parent), nested=True)
        for name, value in inputs.items():
            if name.startswith("params:"):
                mlflow.log_params(_flatten(_short_name(name), value))
            elif name in SHARED and f"{name}.fingerprint" not in self._about:
                self._about |= self._identity(name, value)
        mlflow.set_tags(self._about)

    @hook_impl
    def after_node_run(self, node: Node) -> None:
        """Log time and memory, and leave the variant's run."""
        seconds = time.perf_counter() - self._started[node.name]
        if mlflow.active_run():
            peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
            mlflow.log_metrics(
                {
                    # MLflow keeps these on a tab of their own.
                    f"system/{node.short_name}.seconds": seconds,
                    f"system/{node.short_name}.peak_rss_mib": peak,
                }
            )
        self._leave(node, "FINISHED")

    @hook_impl
    def on_node_error(self, node: Node) -> None:
        """Leave the variant's run as failed."""
        self._leave(node, "FAILED")

    @hook_impl
    def after_dataset_saved(self, dataset_name: str, data: Any, node: Node) -> None:
        """Log what the catalog's metadata asks for: a copy of light files, path and hash of heavy ones."""
        parent = mlflow.active_run()
        if parent is None or self._catalog is None:
            return
        dataset = self._catalog.get(dataset_name)
        wanted = (getattr(dataset, "metadata", None) or {}).get("mlflow")
        if not wanted:
            return
        variant = _variant(node)
        run_id = self._children.get(variant, parent.info.run_id) if variant else parent.info.run_id
        client = mlflow.MlflowClient()
        if wanted == "artifact":
            client.log_artifact(run_id, str(_path_of(dataset)), "artifacts")
            return
        tags = self._identity(dataset_name, data)
        if dataset_name in SHARED:
            self._about |= tags
        for name, value in tags.items():
            client.set_tag(run_id, name, value)

    def _identity(self, dataset_name: str, data: Any) -> dict[str, str]:
        """Return where something heavy is and its hash, as tags."""
        assert self._catalog is not None, "nodes run after the catalog was made"
        name = dataset_name.rpartition(".")[2]
        path = str(_path_of(self._catalog.get(dataset_name)))
        return {f"{name}.path": path, f"{name}.fingerprint": _fingerprint(data)}

    def _child(self, variant: str, parent: Run) -> str:
        if variant not in self._children:
            tags = {MLFLOW_PARENT_RUN_ID: parent.info.run_id, "variant": variant} | self._about
            run = mlflow.MlflowClient().create_run(parent.info.experiment_id, run_name=variant, tags=tags)
            self._children[variant] = run.info.run_id
        return self._children[variant]

    def _leave(self, node: Node, status: str) -> None:
        if _variant(node) is not None and mlflow.active_run():
            mlflow.end_run(status)


class ReportHook:
    """Ends a run by naming what to look at."""

    def __init__(self) -> None:
        """Begin without a catalog."""
        self._catalog: DataCatalog | None = None

    @hook_impl
    def after_catalog_created(self, catalog: DataCatalog) -> None:
        """Remember the catalog."""
        self._catalog = catalog

    @hook_impl
    def after_pipeline_run(self, run_result: dict[str, Any]) -> None:
        """Name the report where this run wrote one."""
        if self._catalog is not None and "report" in run_result:
            path = _path_of(self._catalog.get("report")).resolve()
            logger.info("The report: %s", path)
            logger.info("The graph: make viz    The curves: make mlflow")


def _variant(node: Node) -> str | None:
    """Return `<bin>.<space>` of a node in `subnets.<bin>.<space>`."""
    return (node.namespace or "").partition(".")[2] or None


def _path_of(dataset: Any) -> Path:
    """Return where a dataset is; every file dataset knows, none tells."""
    return Path(str(dataset._filepath))  # noqa: SLF001


def _short_name(name: str) -> str:
    """Return `bin` for `params:bins.half`: a child run has one bin, and children compare by equal names."""
    group, _, member = name.removeprefix("params:").partition(".")
    return {"bins": "bin", "spaces": "space"}.get(group, f"{group}.{member}" if member else group)


def _flatten(prefix: str, value: Any) -> dict[str, Any]:
    if isinstance(value, BaseModel):
        value = value.model_dump(mode="json", exclude_none=True)
    if not isinstance(value, dict):
        return {prefix.removeprefix("."): value}
    return {name: leaf for key, part in value.items() for name, leaf in _flatten(f"{prefix}.{key}", part).items()}


def _choose_experiment(store: Mapping[str, str]) -> None:
    """Point MLflow to the store and the experiment of the environment, made where it does not exist."""
    mlflow.set_tracking_uri(store["tracking_uri"])
    if mlflow.get_experiment_by_name(store["experiment"]) is None:
        mlflow.create_experiment(store["experiment"], artifact_location=Path(store["artifacts"]).as_uri())
    mlflow.set_experiment(store["experiment"])
    # Otherwise the page opens among traces and judges of chat models.
    mlflow.set_experiment_tag("mlflow.experimentKind", "custom_model_development")


def _fingerprint(data: Any) -> str:
    from budwood.models.teacher import fingerprint  # noqa: PLC0415 - keeps torch out of commands without a run

    return fingerprint(data) if isinstance(data, Path) else str(data.fingerprint)


def _git_commit() -> str:
    try:
        done = subprocess.run(
            ["git", "rev-parse", "HEAD"],  # noqa: S607 - whatever git is on the PATH
            capture_output=True,
            text=True,
            check=True,
            cwd=Path(__file__).parent,
        )
    except (OSError, subprocess.CalledProcessError):
        return "unknown"
    return done.stdout.strip()


def _close_dead_runs(current: Run) -> None:
    """Mark runs of this machine as killed whose process is gone."""
    client = mlflow.MlflowClient()
    query = f"attributes.status = 'RUNNING' and tags.`{HOST}` = '{socket.gethostname()}'"
    for run in client.search_runs([current.info.experiment_id], query, ViewType.ACTIVE_ONLY):
        pid = int(run.data.tags[PID])
        if not _is_alive(pid):
            client.set_terminated(run.info.run_id, "KILLED")
            logger.info("MLflow run %s was killed: closed it", run.info.run_name)


def _is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)  # signal 0 only asks
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True
