"""Checkpoints travel as folders, opened and never loaded."""

import inspect
import json

import pytest
from kedro.io import DatasetError
from kedro_datasets._typing import JSONPreview
from teachers import tiny_teacher

from budwood.datasets.hf_checkpoint import HFCheckpointDataset
from budwood.models.checkpoint import Checkpoint


@pytest.fixture
def checkpoint(tmp_path):
    tiny_teacher("llama", tied=True).save_pretrained(tmp_path / "work")
    return Checkpoint.open(tmp_path / "work")


@pytest.fixture
def dataset(tmp_path):
    return HFCheckpointDataset(
        filepath=str(tmp_path / "models" / "teacher"), metadata={"kedro-viz": {"layer": "models"}}
    )


def test_what_is_saved_is_loaded_and_shares_no_file(dataset, checkpoint, tmp_path):
    dataset.save(checkpoint)
    loaded = dataset.load()
    assert loaded.folder == tmp_path / "models" / "teacher"
    assert (loaded.fingerprint, loaded.architecture) == (checkpoint.fingerprint, checkpoint.architecture)
    assert not (loaded.folder / "model.safetensors").samefile(checkpoint.folder / "model.safetensors")
    dataset.save(loaded)
    assert dataset.load() == loaded


def test_it_exists_from_its_config_on(dataset, checkpoint):
    assert not dataset.exists()
    dataset.save(checkpoint)
    assert dataset.exists()
    (dataset.load().folder / "config.json").unlink()
    assert not dataset.exists()
    with pytest.raises(DatasetError, match=r"no checkpoint: it has no config\.json"):
        dataset.load()


def test_kedro_viz_sees_the_config(dataset, checkpoint):
    dataset.save(checkpoint)
    assert inspect.signature(dataset.preview).return_annotation is JSONPreview
    assert json.loads(dataset.preview())["model_type"] == "llama"
    assert dataset.metadata == {"kedro-viz": {"layer": "models"}}
    assert "models/teacher" in repr(dataset)
