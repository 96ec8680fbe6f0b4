"""Throw-away copies of the project, and Kedro run in them as a user runs it."""

import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

from budwood.pipelines.loader import EnvironmentLoader
from budwood.settings import CONFIG_LOADER_ARGS

ROOT = Path(__file__).parents[1]


def copy_project(target: Path) -> Path:
    """Copy what a run needs, so that no run writes into the repository."""
    for name in ("conf", "src"):
        shutil.copytree(ROOT / name, target / name, ignore=shutil.ignore_patterns("__pycache__", "*.egg-info"))
    shutil.copy(ROOT / "pyproject.toml", target)
    (target / "data" / "09_tracking").mkdir(parents=True)
    return target


def raw_parameters(environment: str) -> dict[str, Any]:
    """Return the parameters of an environment as they are written, over those of the base."""
    found: dict[str, Any] = EnvironmentLoader(str(ROOT / "conf"), env=environment, **CONFIG_LOADER_ARGS)["parameters"]
    return found


_OF_MLFLOW = ("MLFLOW_TRACKING_URI", "MLFLOW_EXPERIMENT", "MLFLOW_RUN_ID")


def environment(project: Path) -> dict[str, str]:
    """Return the process environment in which a copy's own source is imported."""
    # MLflow leaves variables in this process that lead to its own store.
    bare = {name: value for name, value in os.environ.items() if not name.startswith(_OF_MLFLOW)}
    return bare | {"PYTHONPATH": str(project / "src"), "KEDRO_LOGGING_CONFIG": str(project / "conf/logging.yml")}


def kedro(project: Path, *arguments: str, folder: str = ".") -> subprocess.CompletedProcess[str]:
    """Run a Kedro command in a folder of a copy and wait for its end."""
    return subprocess.run(
        [sys.executable, "-m", "kedro", *arguments],
        cwd=project / folder,
        env=environment(project),
        capture_output=True,
        text=True,
        check=False,
        timeout=1200,  # a busy machine is slow, not wrong
    )


def start_kedro(project: Path, *arguments: str) -> subprocess.Popen[bytes]:
    """Start a Kedro command in a copy and return at once."""
    return subprocess.Popen(
        [sys.executable, "-m", "kedro", *arguments],
        cwd=project,
        env=environment(project),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
