"""MLflow databases without runs: to make one takes seconds, to copy it none."""

import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from unittest.mock import patch

import mlflow
import pytest
from mlflow.tracking import fluent


@pytest.fixture(scope="session")
def empty_database(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the file of a database that has tables and no runs."""
    file = tmp_path_factory.mktemp("mlflow") / "mlflow.db"
    mlflow.MlflowClient(f"sqlite:///{file}").search_experiments()
    return file


@pytest.fixture
def new_store(empty_database: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[Path], str]]:
    """Yield what makes a store in a folder and returns its address; MLflow is left as it was."""
    monkeypatch.chdir(tmp_path)

    def make(folder: Path) -> str:
        folder.mkdir(parents=True, exist_ok=True)
        if not (folder / "mlflow.db").exists():
            shutil.copy(empty_database, folder / "mlflow.db")
        return f"sqlite:///{folder}/mlflow.db"

    with patch.dict(os.environ):  # MLflow itself sets variables
        for name in ("MLFLOW_TRACKING_URI", "MLFLOW_EXPERIMENT_ID", "MLFLOW_EXPERIMENT_NAME", "MLFLOW_RUN_ID"):
            os.environ.pop(name, None)
        yield make
        while mlflow.active_run():
            mlflow.end_run()
    mlflow.set_tracking_uri(None)
    fluent._active_experiment_id = None
