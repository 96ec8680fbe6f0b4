"""The package as it is published: built, installed beside nothing of the repository, and run."""

import os
import shutil
import subprocess
import sys
import tarfile
from pathlib import Path

import pandas as pd
import pytest
from processes import run_python
from projects import ROOT, copy_project

from budwood import __version__

TELEMETRY = {"DO_NOT_TRACK", "KEDRO_DISABLE_TELEMETRY", "MLFLOW_DISABLE_TELEMETRY"}
"""Variables that the tests set, and users need not."""
ONE_VARIANT = "--params=grid.half=null,grid.quarter=[coarse_layerwise]"


def pip(*arguments: str) -> None:
    """Run pip without an index, and so without a network."""
    command = [sys.executable, "-m", "pip", *arguments]
    done = subprocess.run(command, env=os.environ | {"PIP_NO_INDEX": "1"}, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the folder into which the wheel is installed."""
    folder = tmp_path_factory.mktemp("wheel")
    project = copy_project(folder / "project")
    for name in ("README.md", "LICENSE"):
        shutil.copy(ROOT / name, project)
    pip("wheel", "--no-deps", "--no-build-isolation", "--wheel-dir", str(folder), str(project))
    (wheel,) = folder.glob("*.whl")
    assert wheel.name == f"budwood-{__version__}-py3-none-any.whl"
    pip("install", "--no-deps", "--target", str(folder / "installed"), str(wheel))
    return folder / "installed"


@pytest.mark.slow
def test_it_has_every_module(installed):
    source = ROOT / "src" / "budwood"
    wanted = {file.relative_to(source) for file in source.rglob("*") if file.suffix in {".py", ".typed"}}
    found = {file.relative_to(installed / "budwood") for file in (installed / "budwood").rglob("*")}
    assert wanted <= found


@pytest.mark.slow
def test_it_runs_the_smoke_study_in_an_empty_folder(installed, tmp_path):
    """With the archive of the configuration that `kedro package` writes beside it."""
    archive, folder = tmp_path / "conf-budwood.tar.gz", tmp_path / "empty"
    with tarfile.open(archive, "w:gz") as packed:
        packed.add(ROOT / "conf", "conf", filter=lambda file: None if "/local/" in file.name else file)
    folder.mkdir()
    command = ["-m", "budwood", "--env=smoke", f"--conf-source={archive}", ONE_VARIANT]
    variables = {name: value for name, value in os.environ.items() if name not in TELEMETRY}
    done = run_python(command, folder, variables | {"PYTHONPATH": str(installed)}, timeout=1200)
    assert done.returncode == 0, (done.stdout + done.stderr)[-4000:]
    assert "usage data" not in done.stdout + done.stderr
    results = pd.read_parquet(folder / "data/smoke/08_reporting/results.parquet")
    assert {"random_init", "subnet_init", "distilled"} <= set(results["model"])
    assert (folder / "data/smoke/08_reporting/report.html").is_file()
    assert (folder / "data/09_tracking/mlflow.db").is_file()
    assert {path.name for path in folder.iterdir()} == {"data"}
