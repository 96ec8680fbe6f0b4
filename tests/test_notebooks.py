"""Notebooks run from the first cell to the last on what the smoke environment wrote."""

import os
from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient
from projects import ROOT, environment

NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))


@pytest.mark.slow
@pytest.mark.parametrize("notebook", NOTEBOOKS, ids=lambda path: path.stem)
def test_it_runs(notebook: Path, finished: Path, monkeypatch: pytest.MonkeyPatch):
    for name, value in (environment(finished) | {"KEDRO_ENV": "smoke"}).items():
        if os.environ.get(name) != value:
            monkeypatch.setenv(name, value)
    folder = finished / "notebooks"
    folder.mkdir(exist_ok=True)
    content = nbformat.read(notebook, as_version=4)
    executed = NotebookClient(content, timeout=200, resources={"metadata": {"path": str(folder)}}).execute()
    outputs = [output for cell in executed.cells if cell.cell_type == "code" for output in cell.outputs]
    assert any("text/html" in output.get("data", {}) for output in outputs)


def test_none_is_committed_with_outputs():
    assert NOTEBOOKS
    for path in NOTEBOOKS:
        cells = nbformat.read(path, as_version=4).cells
        assert not [cell for cell in cells if cell.cell_type == "code" and cell.outputs], path
