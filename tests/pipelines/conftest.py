"""MLflow databases without runs: to make one takes seconds, to copy it none."""

import shutil
from collections.abc import Callable
from pathlib import Path

import mlflow
import pytest


@pytest.fixture(scope="session")
def empty_database(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the file of a database that has tables and no runs."""
    file = tmp_path_factory.mktemp("mlflow") / "mlflow.db"
    mlflow.MlflowClient(f"sqlite:///{file}").search_experiments()
    return file


@pytest.fixture
def new_store(
    empty_database: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, own_mlflow: None
) -> Callable[[Path], str]:
    """Return a maker of stores, by folder, which returns the address."""
    del own_mlflow
    monkeypatch.chdir(tmp_path)

    def make(folder: Path) -> str:
        folder.mkdir(parents=True, exist_ok=True)
        if not (folder / "mlflow.db").exists():
            shutil.copy(empty_database, folder / "mlflow.db")
        return f"sqlite:///{folder}/mlflow.db"

    return make
