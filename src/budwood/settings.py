"""Project settings; Kedro reads this module before anything else of the project."""

import os
import sys
import warnings
from pathlib import Path

warnings.filterwarnings("ignore", message=r"\s*register_new_resolver\(\) is deprecated")
warnings.filterwarnings("ignore", message=r".*Add type hints to the `predict` method")
# MLflow reads this when it is imported, and takes no other spelling of yes.
os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
# A checkout has a `.telemetry` file as well; an installed package has none.
os.environ.setdefault("KEDRO_DISABLE_TELEMETRY", "true")
# So does torch's profiler, which reports every start and stop.
os.environ.setdefault("KINETO_LOG_LEVEL", "99")

from kedro.utils import find_kedro_project, is_kedro_project  # noqa: E402

from budwood.pipelines.failure import show  # noqa: E402
from budwood.pipelines.loader import EnvironmentLoader  # noqa: E402
from budwood.pipelines.parameters import LateHooks, ParametersHook  # noqa: E402

sys.excepthook = show


def _in_project(path: str) -> str:
    """Return a path of the project, from whatever folder Kedro is called."""
    checkout = Path(__file__).parents[2]
    other = checkout if is_kedro_project(checkout) else Path.cwd()  # where only the package is installed
    return str((find_kedro_project(Path.cwd()) or other) / path)


HOOKS = (ParametersHook(), LateHooks())

CONFIG_LOADER_CLASS = EnvironmentLoader
CONFIG_LOADER_ARGS = {
    "base_env": "base",
    "default_run_env": "local",
    # Otherwise a file of an environment replaces the top-level keys that it names.
    "merge_strategy": {"parameters": "soft", "globals": "soft", "mlflow": "soft"},
    "config_patterns": {"mlflow": ["mlflow*"]},
    "custom_resolvers": {"root": _in_project},
}
