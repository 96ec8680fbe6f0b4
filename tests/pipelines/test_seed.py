"""Two runs with the same seed end with the same tables, whatever else the second one does or leaves out."""

import pandas as pd
import pytest
from projects import kedro

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
"""Tables, and their columns that tell times."""


def table(project, name: str) -> pd.DataFrame:
    """Return the rows of a table that tell of one variant, or of none; without times."""
    read = pd.read_csv if name.endswith(".csv") else pd.read_parquet
    frame = read(project / "data/smoke" / name).drop(columns=TABLES[name])
    if "space" in frame:
        own = (frame["bin"] == "quarter") & (frame["space"] == "coarse_layerwise")
        frame = frame[own | (frame["bin"] == "")]
    return frame.reset_index(drop=True)


def test_the_same_seed_gives_the_same_tables(finished, project, monkeypatch):
    """The second run has one variant of five, another order of hashes, and keeps nothing of the first."""
    smoke = project / "conf/smoke/parameters.yml"
    head, _, tail = smoke.read_text().partition("  half: [coarse_uniform, fine_layerwise]\n")
    _, _, rest = tail.partition("\n")
    smoke.write_text(f"{head}  half: null\n  quarter: [coarse_layerwise]\n{rest}")
    monkeypatch.setenv("PYTHONHASHSEED", "17")
    done = kedro(project, "run", "--env=smoke")
    assert done.returncode == 0, (done.stdout + done.stderr)[-3000:]
    for name in TABLES:
        first, second = table(finished, name), table(project, name)
        assert len(second)
        pd.testing.assert_frame_equal(first, second, check_exact=True, obj=name)
