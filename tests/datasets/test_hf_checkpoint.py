"""Checkpoints travel as folders, described and without their weights."""

import inspect
import json

import pytest
from kedro.io import DatasetError
from kedro_datasets._typing import JSONPreview

from budwood.datasets.hf_checkpoint import HFCheckpointDataset
from budwood.models.checkpoint import Checkpoint
from budwood.models.settings import TeacherSettings
from budwood.models.teacher import fetch_teacher

SIZES = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}


@pytest.fixture
def checkpoint(tmp_path) -> Checkpoint:
    return fetch_teacher(TeacherSettings(random=SIZES), tmp_path / "work").checkpoint


@pytest.fixture
def dataset(tmp_path):
    return HFCheckpointDataset(
        filepath=str(tmp_path / "models" / "teacher"), metadata={"kedro-viz": {"layer": "models"}}
    )


def test_what_is_saved_is_loaded_as_a_checkpoint(dataset, checkpoint, tmp_path):
    dataset.save(checkpoint)
    loaded = dataset.load()
    assert loaded.folder == tmp_path / "models" / "teacher"
    assert (loaded.architecture, loaded.fingerprint) == (checkpoint.architecture, checkpoint.fingerprint)
    assert not (loaded.folder / "model.safetensors").samefile(checkpoint.folder / "model.safetensors")
    before = {path.name for path in loaded.folder.iterdir() if not path.name.startswith(".")}
    dataset.save(loaded)
    assert {path.name for path in loaded.folder.iterdir() if not path.name.startswith(".")} == before
    assert dataset.load().fingerprint == checkpoint.fingerprint


def test_it_exists_from_its_config_on(dataset, checkpoint):
    assert not dataset.exists()
    dataset.save(checkpoint)
    assert dataset.exists()
    (dataset.load().folder / "config.json").unlink()
    assert not dataset.exists()
    with pytest.raises(DatasetError, match=r"no checkpoint: it has no config\.json"):
        dataset.load()


def test_a_damaged_checkpoint_is_refused_with_its_folder(dataset, checkpoint):
    dataset.save(checkpoint)
    folder = dataset.load().folder
    (folder / "model.safetensors").write_bytes(b"\x00" * 4)
    with pytest.raises(DatasetError, match=rf"{folder}.*damaged"):
        dataset.load()


@pytest.mark.parametrize("name", ["model.safetensors", "config.json", "tokenizer.json"])
def test_what_was_altered_since_it_was_saved_is_refused(dataset, checkpoint, name):
    """One bit of a weight, or another token: everything can still be read."""
    dataset.save(checkpoint)
    file = dataset.load().folder / name
    content = bytearray(file.read_bytes())
    content[-1 if name == "model.safetensors" else content.index(b"\n")] ^= 1 if name == "model.safetensors" else 42
    file.write_bytes(content)
    with pytest.raises(DatasetError, match=rf"{file.parent} has changed since it was written; remove it and run"):
        dataset.load()
    dataset.save(checkpoint)
    assert dataset.load().fingerprint == checkpoint.fingerprint


def test_kedro_viz_sees_the_config(dataset, checkpoint):
    dataset.save(checkpoint)
    assert inspect.signature(dataset.preview).return_annotation is JSONPreview
    assert json.loads(dataset.preview())["model_type"] == "llama"
    assert dataset.metadata == {"kedro-viz": {"layer": "models"}}
    assert "models/teacher" in repr(dataset)
