"""Two runs with the same seed end with the same tables, whatever else the second one does or leaves out."""

import subprocess
import sys

import pandas as pd
import pytest
from projects import environment

pytestmark = pytest.mark.slow

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


def table(project, name: str) -> pd.DataFrame:
    """Return the rows of a table about one variant, or about none; without times."""
    read = pd.read_csv if name.endswith(".csv") else pd.read_parquet
    frame = read(project / "data/smoke" / name).drop(columns=TABLES[name])
    if "space" in frame:
        own = (frame["bin"] == "quarter") & (frame["space"] == "coarse_layerwise")
        frame = frame[own | (frame["bin"] == "")]
    # A column without an entry has whatever type the other rows gave it.
    return frame.dropna(axis=1, how="all").reset_index(drop=True)


def test_the_same_seed_gives_the_same_tables(finished, project):
    """The second run has one variant of five, another order of hashes, and keeps nothing of the first."""
    smoke = project / "conf/smoke/parameters.yml"
    head, _, tail = smoke.read_text().partition("  half: [coarse_uniform, fine_layerwise]\n")
    _, _, rest = tail.partition("\n")
    smoke.write_text(f"{head}  half: null\n  quarter: [coarse_layerwise]\n{rest}")
    # Of a new interpreter: a forked one has the hashes of its server.
    command = [sys.executable, "-m", "kedro", "run", "--env=smoke"]
    other = environment(project) | {"PYTHONHASHSEED": "17"}
    done = subprocess.run(command, cwd=project, env=other, capture_output=True, text=True, check=False)
    assert done.returncode == 0, (done.stdout + done.stderr)[-3000:]
    for name in TABLES:
        first, second = table(finished, name), table(project, name)
        assert len(second)
        pd.testing.assert_frame_equal(first, second, check_exact=True, obj=name)
