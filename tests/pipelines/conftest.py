"""MLflow databases without runs."""

from collections.abc import Callable
from pathlib import Path

import pytest
from projects import empty_store


@pytest.fixture
def new_store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, own_mlflow: None) -> Callable[[Path], str]:
    """Return a maker of stores, by folder, which returns the address."""
    del own_mlflow
    monkeypatch.chdir(tmp_path)

    def make(folder: Path) -> str:
        folder.mkdir(parents=True, exist_ok=True)
        if not (folder / "mlflow.db").exists():
            (folder / "mlflow.db").write_bytes(empty_store())
        return f"sqlite:///{folder}/mlflow.db"

    return make
