"""A work directory is an input only."""

import pytest
from kedro.io import DatasetError

from budwood.datasets.work_dir import WorkDirDataset


def test_loading_makes_the_folder_and_keeps_what_is_in_it(tmp_path):
    dataset = WorkDirDataset(filepath=str(tmp_path / "a" / "work"))
    assert dataset.exists()
    assert dataset.load() == tmp_path / "a" / "work"
    (dataset.load() / "state").write_text("kept")
    assert (dataset.load() / "state").read_text() == "kept"
    assert "a/work" in repr(dataset)


def test_saving_is_refused(tmp_path):
    with pytest.raises(DatasetError, match="only an input"):
        WorkDirDataset(filepath=tmp_path).save("data")
