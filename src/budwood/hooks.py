"""What happens around the nodes: credentials, a count, MLflow runs and artifacts, and a last line for the report."""

import atexit
import gc
import logging
import os
import re
import resource
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import mlflow
import psutil
from kedro.config import MissingConfigException
from kedro.framework.context import KedroContext
from kedro.framework.hooks import hook_impl
from kedro.io import DataCatalog
from kedro.pipeline import Pipeline
from kedro.pipeline.node import Node
from mlflow.entities import Run, ViewType
from mlflow.utils.git_utils import get_git_commit
from pydantic import BaseModel
from transformers.utils.logging import disable_progress_bar

from budwood.pipelines.secrets import clean_command, without_secrets
from budwood.pipelines.store import TrackingSettings, open_experiment, register_model
from budwood.pipelines.tracking import enter_run, status_of, track
from budwood.pipelines.wiring import STOPPED, project_root

logger = logging.getLogger(__name__)

HOST, PID = "budwood.host", "budwood.pid"
"""Tags by which a run of a process that is gone is recognised."""
WHOLE = "whole study"
"""Name of a run of all pipelines."""
SHARED_DATASETS = ("teacher", "tokens")
"""Heavy datasets that all variants come from: every run has their tags."""
_FILTERS = ("tags", "namespaces", "node_names", "from_nodes", "to_nodes", "from_inputs", "to_outputs")
"""Parameters of a Kedro run that leave nodes out."""
_TRAINING = re.compile(r"train_(?P<name>(?P<arm>.+?)(_seed_(?P<seed>\d+))?)")
"""Short names of the nodes that train an arm."""


class CredentialsHook:
    """Reads `conf/local/credentials.yml` in every environment, and gives the hub its token."""

    @hook_impl(tryfirst=True)
    def after_context_created(self, context: Any) -> None:
        """Merge the credentials of the environment and the local ones, which win.

        `hugging_face.token` becomes `HF_TOKEN`: the Hugging Face libraries keep it out of logs.
        """
        loader = context.config_loader
        # Another loader would take over the resolvers of this one, and with them the globals of the environment.
        patterns = loader.config_patterns["credentials"]
        local: tuple[Any, ...] = (f"{loader.conf_source}/local", patterns, "credentials", set(), True)
        credentials = _or_none(lambda: loader["credentials"]) | _or_none(
            lambda: loader.load_and_merge_dir_config(*local)
        )
        if credentials:
            loader["credentials"] = credentials
        token = credentials.get("hugging_face", {}).get("token")
        if token:
            os.environ["HF_TOKEN"] = token


class CountHook:
    """Says how far a run is."""

    def __init__(self) -> None:
        """Begin before any run."""
        self._number, self._total = 0, 0

    @hook_impl
    def before_pipeline_run(self, pipeline: Pipeline) -> None:
        """Begin to count, and show no bars of transformers, which loads hundreds of models in a second each."""
        disable_progress_bar()
        # Every training collects garbage, and would look through all that is imported: half a second each.
        gc.collect()
        gc.freeze()
        self._number, self._total = 0, len(pipeline.nodes)

    @hook_impl
    def before_node_run(self, node: Node) -> None:
        """Name the node that comes next."""
        self._number += 1
        logger.info("%d of %d: %s", self._number, self._total, node.name)


class TrackingHook:
    """One MLflow run per `kedro run`, inside it one for every variant, and inside that one for every training."""

    def __init__(self) -> None:
        """Begin without any run."""
        self._study: str | None = None
        self._runs: dict[str, str] = {}
        self._started: dict[str, float] = {}
        self._catalog: DataCatalog | None = None
        self._settings: TrackingSettings | None = None
        self._parameters: dict[str, object] = {}
        self._about: dict[str, str] = {}
        self._described: dict[str, dict[str, str]] = {}
        self._logged: dict[str, dict[str, object]] = {}
        self._before: Any = None

    @hook_impl
    def after_context_created(self, context: KedroContext) -> None:
        """Read where runs are tracked, and the parameters that describe them."""
        self._settings = TrackingSettings.model_validate(context.config_loader["mlflow"]).rooted(project_root())
        self._settings = self._settings.named(context.env)
        self._parameters = context.config_loader["parameters"]

    @hook_impl
    def after_catalog_created(self, catalog: DataCatalog) -> None:
        """Keep the catalog: its metadata says what is logged."""
        self._catalog = catalog

    @hook_impl
    def before_pipeline_run(self, run_params: dict[str, Any]) -> None:
        """Start the run, describe it, and close what killed runs left open.

        Raises:
            ValueError: the runner is not supported, or the store cannot keep what it is asked to.
        """
        assert self._settings is not None, "the context was created"
        _require_sequential(str(run_params.get("runner")))
        self._close("KILLED")  # a run of this process that Ctrl-C ended
        open_experiment(self._settings)
        self._about = {
            HOST: socket.gethostname(),
            PID: str(os.getpid()),
            "git_commit": get_git_commit(__file__) or "unknown",
            "environment": str(run_params.get("env") or "base"),
        }
        tags = self._about | {"command": clean_command(sys.argv)}
        run = mlflow.start_run(run_name=_name_of(run_params), tags=tags)
        self._study = run.info.run_id
        atexit.register(self._stopped)
        if threading.current_thread() is threading.main_thread():
            self._before = signal.signal(signal.SIGTERM, _leave)
        _close_dead_runs(run)
        mlflow.log_params(without_secrets(_flatten("", self._parameters)))

    @hook_impl
    def after_pipeline_run(self, run_result: dict[str, Any]) -> None:
        """End the run, and name the report where the run wrote one."""
        self._close("FINISHED")
        if self._catalog is not None and "report" in run_result:
            logger.info("The report: %s", _path_of(self._catalog.get("report")).resolve())
            name = self._about["environment"]
            logger.info("The graph: make viz%s    The curves: make mlflow", "" if name == "base" else f" ENV={name}")

    @hook_impl
    def on_pipeline_error(self, error: Exception) -> None:
        """End the run as failed, or as killed where it was asked to stop."""
        status = status_of(error)
        self._close(status)
        if status == "KILLED":
            _say_how_to_go_on()

    @hook_impl
    def before_node_run(self, node: Node, inputs: dict[str, Any]) -> None:
        """Enter the run of the node's variant, and that of its training, and log the node's parameters there."""
        self._started[node.name] = time.perf_counter()
        variant, run = _variant(node), mlflow.active_run()
        # The node before may have left open what this one needs: to leave a run and enter it again takes a while.
        if run is not None and run.data.tags.get("variant") != variant:
            self._leave("FINISHED")
        if variant is None or self._study is None:
            return
        for name, value in inputs.items():
            if name in SHARED_DATASETS and f"{name}.fingerprint" not in self._about:
                self._about |= self._identity(name, value)
        self._runs[node.name] = self._enter_variant(variant)
        values: dict[str, object] = {}
        for name, value in inputs.items():
            values |= _flatten(_short(name), value) if name.startswith("params:") else {}
        training = _TRAINING.fullmatch(node.short_name)
        if training:
            arm, seed = training["arm"], training["seed"]
            self._runs[node.name] = enter_run(training["name"], {"arm": arm})
            values = _of_arm(values, arm) | ({"schedule.seed": seed} if seed else {})
        self._log_parameters(self._runs[node.name], without_secrets(values))

    @hook_impl
    def after_node_run(self, node: Node) -> None:
        """Log time and memory, and leave the run of a training."""
        seconds = time.perf_counter() - self._started[node.name]
        if self._study is not None:
            name = "training" if _TRAINING.fullmatch(node.short_name) else node.short_name
            peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
            # MLflow keeps these on a tab of their own.
            track({f"system/{name}.seconds": seconds, f"system/{name}.peak_rss_mib": peak}, 0)
        if _TRAINING.fullmatch(node.short_name) and self._study is not None:
            mlflow.end_run()

    @hook_impl
    def on_node_error(self, error: Exception) -> None:
        """Leave the variant's run as failed, or as killed where it was asked to stop."""
        self._leave(status_of(error))

    @hook_impl
    def after_dataset_saved(self, dataset_name: str, data: Any, node: Node) -> None:
        """Log what the catalog's metadata asks for: a copy of light files, path and hash of heavy ones."""
        if self._study is None or self._catalog is None:
            return
        dataset = self._catalog.get(dataset_name)
        wanted = (getattr(dataset, "metadata", None) or {}).get("mlflow")
        if not wanted:
            return
        # Nodes have left their run when their outputs are saved.
        run_id = self._runs.get(node.name, self._study)
        client = mlflow.MlflowClient()
        if wanted == "artifact":
            client.log_artifact(run_id, str(_path_of(dataset)), "artifacts")
            return
        tags = self._identity(dataset_name, data)
        if dataset_name in SHARED_DATASETS:
            self._about |= tags
        for name, value in tags.items():
            client.set_tag(run_id, name, value)
        assert self._settings is not None, "the context was created"
        if self._settings.registers and _TRAINING.fullmatch(node.short_name):
            fingerprint = tags[f"{dataset_name.rpartition('.')[2]}.fingerprint"]
            register_model(dataset_name.removeprefix("subnets."), run_id, _path_of(dataset), fingerprint)

    def _enter_variant(self, variant: str) -> str:
        """Make the run of a variant the active one, say there what is known of this process, and return its id."""
        run = mlflow.active_run()
        assert run is not None, "there is a run around every other"
        inside = run.info.run_id != self._study
        run_id = str(run.info.run_id) if inside else enter_run(variant, {"variant": variant} | self._about)
        if self._described.get(run_id) != self._about:
            mlflow.set_tags(self._about)
            self._described[run_id] = dict(self._about)
        return run_id

    def _log_parameters(self, run_id: str, values: dict[str, object]) -> None:
        """Log to the active run what no node before has logged there: nodes share parameters."""
        logged = self._logged.setdefault(run_id, {})
        new = {name: value for name, value in values.items() if name not in logged or logged[name] != value}
        if new:
            mlflow.log_params(new)
            logged |= new

    def _identity(self, dataset_name: str, data: Any) -> dict[str, str]:
        """Return where something heavy is and its hash, as tags."""
        assert self._catalog is not None, "nodes run after the catalog was made"
        name = dataset_name.rpartition(".")[2]
        path = str(_path_of(self._catalog.get(dataset_name)))
        return {f"{name}.path": path, f"{name}.fingerprint": str(data.fingerprint)}

    def _leave(self, status: str) -> None:
        """End all runs inside that of the study."""
        while (run := mlflow.active_run()) is not None and self._study is not None and run.info.run_id != self._study:
            mlflow.end_run(status)

    def _close(self, status: str) -> None:
        """End all runs, and hear signals as before."""
        if self._study is None:
            return
        self._leave(status)
        mlflow.end_run(status)
        self._study = None
        self._runs.clear()
        self._described.clear()
        self._logged.clear()
        atexit.unregister(self._stopped)
        if self._before is not None:
            signal.signal(signal.SIGTERM, self._before)
            self._before = None

    def _stopped(self) -> None:
        """End the run of a process that leaves without Kedro's error hooks: after Ctrl-C or SIGTERM."""
        self._close("KILLED")
        _say_how_to_go_on()


def _leave(*_: object) -> None:
    """End this process as SIGTERM asks, but in order: what is half-written is undone, and MLflow's runs are closed."""
    raise SystemExit(STOPPED)


def _say_how_to_go_on() -> None:
    name, (called, *arguments) = os.getenv("KEDRO_ENV"), sys.argv  # `make run ENV=...` sets KEDRO_ENV
    if os.getenv("BUDWOOD_MAKE"):  # the shell that calls `make run` need not find `kedro`
        rest = clean_command(arguments[1:])
        words = ["make", "run", *[f"ENV={name}"] * bool(name), *[f"ARGS={rest}"] * bool(rest)]
    else:
        # `python -m kedro` is one word of Kedro's.
        words = [*[f"KEDRO_ENV={name}"] * bool(name), *Path(called).name.split(), *arguments]
    logger.warning("Stopped; what is finished is kept. Go on with the same command: %s", clean_command(words))


def _require_sequential(runner: str) -> None:
    """Refuse runners that run several nodes at once: every node uses the whole machine, and tracks in its own run.

    Args:
        runner: name or description of Kedro's runner; `None` is Kedro's default.

    Raises:
        ValueError: it is not the sequential one.
    """
    if "SequentialRunner" not in runner and runner != "None":
        name = runner.partition(" ")[0].rpartition(".")[2]
        raise ValueError(f"runner {name}: nodes share one machine and run one by one; use SequentialRunner")


def _name_of(run_params: dict[str, Any]) -> str:
    """Return the name of a run: what of the study it runs."""
    pipelines = sorted(set(run_params.get("pipeline_names") or ["__default__"]) - {"__default__"})
    chosen = [f"{name}={','.join(sorted(run_params[name]))}" for name in _FILTERS if run_params.get(name)]
    missing = ["missing outputs"] if run_params.get("only_missing_outputs") else []
    return " ".join([*(["+".join(pipelines)] if pipelines else []), *chosen, *missing]) or WHOLE


def _or_none(load: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    """Return a configuration, or an empty one where it has no files."""
    try:
        return dict(load())
    except MissingConfigException:
        return {}


def _variant(node: Node) -> str | None:
    """Return `<bin>.<space>` of a node in `subnets.<bin>.<space>`."""
    return (node.namespace or "").partition(".")[2] or None


def _path_of(dataset: Any) -> Path:
    """Return where a dataset is; Kedro has no public name for it."""
    return Path(str(dataset._filepath))  # noqa: SLF001


def _short(name: str) -> str:
    """Return `bin` for `params:bins.half`: a variant has one bin, and variants compare by equal names."""
    group, _, member = name.removeprefix("params:").partition(".")
    # Conditions are the parameters of several groups, by their names.
    short = {"bins": "bin", "spaces": "space", "conditions": "", "bin_conditions": ""}
    return short.get(group, f"{group}.{member}" if member else group)


def _of_arm(values: dict[str, object], arm: str) -> dict[str, object]:
    """Return the parameters of one arm, under the same names for all arms, so that runs can be compared by them."""
    own, others = f"arms.{arm}.", "arms."
    return {
        f"arm.{name.removeprefix(own)}" if name.startswith(own) else name: value
        for name, value in values.items()
        if name.startswith(own) or not name.startswith(others)
    }


def _flatten(prefix: str, value: object) -> dict[str, object]:
    if isinstance(value, BaseModel):
        value = value.model_dump(mode="json", exclude_none=True)
    if not isinstance(value, dict):
        return {prefix.removeprefix("."): value}
    return {name: leaf for key, part in value.items() for name, leaf in _flatten(f"{prefix}.{key}", part).items()}


def _close_dead_runs(current: Run) -> None:
    """Mark runs of this machine as killed whose process is gone."""
    client = mlflow.MlflowClient()
    query = f"attributes.status = 'RUNNING' and tags.`{HOST}` = '{socket.gethostname()}'"
    for run in client.search_runs([current.info.experiment_id], query, ViewType.ACTIVE_ONLY):
        pid = int(run.data.tags[PID])
        if not psutil.pid_exists(pid):
            client.set_terminated(run.info.run_id, "KILLED")
            logger.info("MLflow run %s was killed: closed it", run.info.run_name)
