"""Throw-away copies of the project, and Kedro run in them as a user runs it."""

import os
import shutil
import subprocess
import tempfile
from copy import deepcopy
from functools import cache
from pathlib import Path
from typing import Any

from processes import PythonProcess, run_python, start_python

from budwood.pipelines.loader import EnvironmentLoader
from budwood.settings import CONFIG_LOADER_ARGS

ROOT = Path(__file__).parents[1]


def copy_project(target: Path) -> Path:
    """Copy what a run needs, so that no run writes into the repository, with a store of no runs."""
    for name in ("conf", "src"):  # with what is compiled, which Python checks by size and time
        shutil.copytree(ROOT / name, target / name, ignore=shutil.ignore_patterns("*.egg-info"))
    shutil.copy(ROOT / "pyproject.toml", target)
    tracking = target / "data" / "09_tracking"
    tracking.mkdir(parents=True)
    (tracking / "mlflow.db").write_bytes(empty_store())
    return target


@cache
def empty_store() -> bytes:
    """Return an MLflow database that has tables and no runs: to make one takes a second, to copy it none."""
    import mlflow

    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "mlflow.db"
        mlflow.MlflowClient(f"sqlite:///{file}").search_experiments()
        return file.read_bytes()


def copy_finished(finished: Path, target: Path, *parts: str) -> Path:
    """Copy a project in which the smoke environment has run, with all that it made, or some folders of that."""
    copy_project(target)
    for part in parts or (".",):
        shutil.copytree(finished / "data/smoke" / part, target / "data/smoke" / part, dirs_exist_ok=True)
    return target


def raw_parameters(environment: str) -> dict[str, Any]:
    """Return the parameters of an environment as they are written, over those of the base, for the caller to change."""
    return deepcopy(_read(environment))


@cache
def _read(environment: str) -> dict[str, Any]:
    found: dict[str, Any] = EnvironmentLoader(str(ROOT / "conf"), env=environment, **CONFIG_LOADER_ARGS)["parameters"]
    return found


def environment(project: Path) -> dict[str, str]:
    """Return the process environment in which a copy's own source is imported."""
    own = {"PYTHONPATH": str(project / "src"), "KEDRO_LOGGING_CONFIG": str(project / "conf/logging.yml")}
    return os.environ | own


def kedro(project: Path, *arguments: str, folder: str = ".") -> subprocess.CompletedProcess[str]:
    """Run a Kedro command in a folder of a copy and wait for its end."""
    # A busy machine is slow, not wrong.
    return run_python(["-m", "kedro", *arguments], project / folder, environment(project), timeout=1200)


def start_kedro(project: Path, *arguments: str) -> PythonProcess:
    """Start a Kedro command in a copy and return at once."""
    return start_python(["-m", "kedro", *arguments], project, environment(project))
