"""Records in the catalog come back as what they were."""

import inspect
import json

import pytest
from kedro.io import DatasetError
from kedro_datasets._typing import JSONPreview

from budwood.datasets.record import RecordDataset
from budwood.records.cost import Cost

COST = Cost(stage="search", flops=3.0, tokens=2)


@pytest.fixture
def dataset(tmp_path):
    return RecordDataset(filepath=str(tmp_path / "a" / "costs.json"), metadata={"mlflow": "artifact"})


@pytest.mark.parametrize("saved", [COST, [COST, COST], []])
def test_what_is_saved_is_loaded(dataset, saved):
    assert not dataset.exists()
    dataset.save(saved)
    assert dataset.exists()
    assert dataset.load() == saved
    assert "costs.json" in repr(dataset)
    assert dataset.metadata == {"mlflow": "artifact"}


def test_kedro_viz_sees_the_file(dataset):
    dataset.save([COST])
    assert inspect.signature(dataset.preview).return_annotation is JSONPreview
    assert json.loads(dataset.preview())["value"][0]["flops"] == 3.0


def test_damage_is_reported_with_the_file(dataset, tmp_path):
    dataset.save(COST)
    (tmp_path / "a" / "costs.json").write_text("{")
    with pytest.raises(DatasetError, match=r"costs\.json is damaged .*: remove it and run again"):
        dataset.load()
