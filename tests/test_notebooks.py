"""Notebooks run from the first cell to the last on what the smoke environment wrote."""

import os
import re
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
    cells = [cell for cell in executed.cells if cell.cell_type == "code"]
    outputs = [output for cell in cells for output in cell.outputs]
    assert any("text/html" in output.get("data", {}) for output in outputs)
    # A figure is drawn wherever one is asked for.
    asked = sum(cell.source.count(".show()") for cell in cells)
    assert sum("application/vnd.plotly.v1+json" in output.get("data", {}) for output in outputs) == asked


def test_they_only_load_plot_and_comment():
    for path in NOTEBOOKS:
        cells = nbformat.read(path, as_version=4).cells
        assert cells[0].cell_type == "markdown"
        assert not [
            cell
            for cell in cells
            if cell.cell_type == "code" and re.search(r"\bdef |\bclass |\.to_|fit\(", cell.source)
        ]


def test_none_is_committed_with_outputs():
    assert {path.stem for path in NOTEBOOKS} == {"search", "arms", "model"}
    for path in NOTEBOOKS:
        cells = nbformat.read(path, as_version=4).cells
        assert not [cell for cell in cells if cell.cell_type == "code" and cell.outputs], path
