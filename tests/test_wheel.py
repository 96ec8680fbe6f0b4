"""The package as it is published: built, installed beside nothing of the repository, and run on one variant."""

import os
import shutil
import subprocess
import sys
import tarfile
from pathlib import Path

import pandas as pd
import pytest
from projects import ROOT, copy_project

from budwood import __version__

pytestmark = pytest.mark.slow

TELEMETRY = {"DO_NOT_TRACK", "KEDRO_DISABLE_TELEMETRY", "MLFLOW_DISABLE_TELEMETRY"}
"""Variables that the tests set, and users need not."""
ONE_VARIANT = "--params=grid.half=null,grid.quarter=[coarse_layerwise]"
TABLES = {
    "03_primary/corpus_counts.csv": [],
    "04_feature/search_spaces.csv": [],
    "07_model_output/histories.parquet": ["seconds", "latency_seconds"],
    "07_model_output/curves.parquet": [],
    "07_model_output/certificates.parquet": [],
    "08_reporting/results.parquet": ["seconds"],
    "08_reporting/tasks.parquet": [],
}
"""Tables, and their columns of times."""


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


@pytest.fixture(scope="module")
def ran(installed: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """Return the folder in which one variant of the smoke study ran, and what the run wrote.

    With the configuration packed as `kedro package` packs it beside the wheel, and another order of hashes.
    """
    folder = tmp_path_factory.mktemp("empty")
    archive = folder.with_suffix(".tar.gz")
    with tarfile.open(archive, "w:gz") as packed:
        packed.add(ROOT / "conf", "conf", filter=lambda file: None if "/local/" in file.name else file)
    # Of a new interpreter: a forked one has the hashes of its server.
    command = [sys.executable, "-m", "budwood", "--env=smoke", f"--conf-source={archive}", ONE_VARIANT]
    variables = {name: value for name, value in os.environ.items() if name not in TELEMETRY}
    variables |= {"PYTHONPATH": str(installed), "PYTHONHASHSEED": "17"}
    done = subprocess.run(command, cwd=folder, env=variables, capture_output=True, text=True, check=False)
    output = done.stdout + done.stderr
    assert done.returncode == 0, output[-4000:]
    return folder, output


def table(data: Path, name: str) -> pd.DataFrame:
    """Return the rows of a table about one variant, or about none; without times."""
    read = pd.read_csv if name.endswith(".csv") else pd.read_parquet
    frame = read(data / name).drop(columns=TABLES[name])
    if "space" in frame:
        own = (frame["bin"] == "quarter") & (frame["space"] == "coarse_layerwise")
        frame = frame[own | (frame["bin"] == "")]
    # A column without an entry has whatever type the other rows gave it.
    return frame.dropna(axis=1, how="all").reset_index(drop=True)


def test_it_has_every_module(installed):
    source = ROOT / "src" / "budwood"
    wanted = {file.relative_to(source) for file in source.rglob("*") if file.suffix in {".py", ".typed"}}
    found = {file.relative_to(installed / "budwood") for file in (installed / "budwood").rglob("*")}
    assert wanted <= found


def test_it_runs_a_variant_of_the_smoke_study_where_nothing_is(ran):
    folder, output = ran
    assert "usage data" not in output
    results = pd.read_parquet(folder / "data/smoke/08_reporting/results.parquet")
    assert {"random_init", "subnet_init", "distilled"} <= set(results["model"])
    assert (folder / "data/smoke/08_reporting/report.html").is_file()
    assert (folder / "data/09_tracking/mlflow.db").is_file()
    assert {path.name for path in folder.iterdir()} == {"data"}


@pytest.mark.parametrize("name", TABLES)
def test_the_same_seed_gives_the_same_tables(finished, ran, name):
    """This run has one variant of five, another order of hashes, and keeps nothing of the other."""
    first, second = table(finished / "data/smoke", name), table(ran[0] / "data/smoke", name)
    assert len(second)
    pd.testing.assert_frame_equal(first, second, check_exact=True, obj=name)
