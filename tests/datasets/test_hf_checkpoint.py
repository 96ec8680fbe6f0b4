"""Checkpoints travel as folders."""

import inspect
import json

import pytest
from kedro.io import DatasetError
from kedro_datasets._typing import JSONPreview

from budwood.datasets.hf_checkpoint import HFCheckpointDataset


@pytest.fixture
def checkpoint(tmp_path):
    folder = tmp_path / "work"
    folder.mkdir()
    (folder / "config.json").write_text('{"model_type": "llama"}')
    (folder / "model.safetensors").write_bytes(b"weights")
    return folder


@pytest.fixture
def dataset(tmp_path):
    return HFCheckpointDataset(
        filepath=str(tmp_path / "models" / "teacher"), metadata={"kedro-viz": {"layer": "models"}}
    )


def test_what_is_saved_is_loaded_as_a_folder(dataset, checkpoint, tmp_path):
    dataset.save(checkpoint)
    assert dataset.load() == tmp_path / "models" / "teacher"
    assert not (dataset.load() / "model.safetensors").samefile(checkpoint / "model.safetensors")
    dataset.save(dataset.load())
    assert {path.name for path in dataset.load().iterdir()} == {"config.json", "model.safetensors"}


def test_it_exists_from_its_config_on(dataset, checkpoint):
    assert not dataset.exists()
    dataset.save(checkpoint)
    assert dataset.exists()
    (dataset.load() / "config.json").unlink()
    assert not dataset.exists()
    with pytest.raises(DatasetError, match=r"no checkpoint: it has no config\.json"):
        dataset.load()


def test_a_folder_without_config_is_refused(dataset, checkpoint, tmp_path):
    dataset.save(checkpoint)
    with pytest.raises(DatasetError, match=r"no checkpoint: it has no config\.json"):
        dataset.save(tmp_path)
    assert dataset.exists()


def test_kedro_viz_sees_the_config(dataset, checkpoint):
    dataset.save(checkpoint)
    assert inspect.signature(dataset.preview).return_annotation is JSONPreview
    assert json.loads(dataset.preview()) == {"model_type": "llama"}
    assert dataset.metadata == {"kedro-viz": {"layer": "models"}}
    assert "models/teacher" in repr(dataset)
