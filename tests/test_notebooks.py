"""Notebooks run from the first cell to the last on what the smoke environment wrote."""

import json
import os
import re
from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient
from projects import ROOT, environment

FORGET = "get_ipython().extension_manager.loaded.clear()\n%reset -f"
"""What leaves nothing of a notebook but imported modules."""
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))


@pytest.mark.slow
def test_they_run(finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """One after another in one process, which forgets the variables of each."""
    for name, value in (environment(finished) | {"KEDRO_ENV": "smoke"}).items():
        if os.environ.get(name) != value:
            monkeypatch.setenv(name, value)
    kernel = tmp_path / "kernels/forked/kernel.json"
    kernel.parent.mkdir(parents=True)
    started = [str(ROOT / "tests/forked_python.py"), "-m", "ipykernel_launcher", "-f", "{connection_file}"]
    kernel.write_text(json.dumps({"argv": started, "display_name": "forked", "language": "python"}))
    monkeypatch.setenv("JUPYTER_PATH", str(tmp_path))
    folder = finished / "notebooks"
    folder.mkdir(exist_ok=True)
    all_cells = nbformat.v4.new_notebook()
    for notebook in NOTEBOOKS:
        cells = [cell for cell in nbformat.read(notebook, as_version=4).cells if cell.cell_type == "code"]
        for cell in cells:
            cell.metadata["notebook"] = notebook.stem
        all_cells.cells += [*cells, nbformat.v4.new_code_cell(FORGET)]
    resources = {"metadata": {"path": str(folder)}}
    executed = NotebookClient(all_cells, timeout=600, resources=resources, kernel_name="forked").execute()
    for notebook in NOTEBOOKS:
        cells = [cell for cell in executed.cells if cell.metadata.get("notebook") == notebook.stem]
        shown = [output.get("data", {}) for cell in cells for output in cell.outputs]
        assert any("text/html" in data for data in shown), notebook
        # A figure is drawn wherever one is asked for.
        asked = sum(cell.source.count(".show()") for cell in cells)
        assert sum("application/vnd.plotly.v1+json" in data for data in shown) == asked, notebook


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
