"""Genes travel as folders, linked and not copied."""

import pytest
from kedro.io import DatasetError

from budwood.arch.selection import Selection
from budwood.datasets.genes import GenesDataset
from budwood.search.genes import Genes


def test_what_is_saved_is_read_one_at_a_time(tmp_path):
    layer = {"layer": 0, "groups": 1, "queries": 1, "pairs": 1, "neurons": [3, 1]}
    selection = Selection.from_dict({"hidden": 4, "layers": [layer]})
    genes = Genes(tmp_path / "work")
    genes.write(0, [selection])
    dataset = GenesDataset(filepath=str(tmp_path / "data" / "genes"))
    assert not dataset.exists()
    with pytest.raises(DatasetError, match="has no genes of a search"):
        dataset.load()
    dataset.save(genes)
    assert dataset.exists()
    loaded = dataset.load()
    assert loaded.read(0) == selection
    assert loaded.fingerprint == genes.fingerprint
    (file,) = genes.folder.glob("*.parquet")
    assert (loaded.folder / file.name).samefile(file)
