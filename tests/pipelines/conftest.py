"""MLflow databases without runs, and the pipelines of the smoke study."""

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from kedro.framework.project import configure_project
from projects import ROOT, empty_store


@pytest.fixture(scope="module")
def smoke_project() -> Iterator[None]:
    """Let `pipelines` be those of the smoke study."""
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(ROOT)
        patch.setenv("KEDRO_ENV", "smoke")
        configure_project("budwood")
        yield


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
