"""A node reads what an earlier one has written, or nothing."""

import shutil

import pandas as pd
import pytest
import torch
from kedro.io import DataCatalog
from kedro_datasets.pandas import CSVDataset, ParquetDataset
from kedro_datasets_experimental.safetensors import SafetensorsDataset
from projects import copy_finished, kedro
from safetensors.torch import load_file, save_file

from budwood.datasets.record import RecordDataset
from budwood.pipelines.seals import SealHook, seal_of
from budwood.records.cost import Cost

FILES = {
    "record": (
        RecordDataset,
        "json",
        {},
        Cost(stage="search", flops=3.0, tokens=2),
        Cost(stage="search", flops=4.0, tokens=2),
    ),
    "table": (ParquetDataset, "parquet", {}, pd.DataFrame({"loss": [1.0]}), pd.DataFrame({"loss": [1.5]})),
    "counts": (CSVDataset, "csv", {}, pd.DataFrame({"tokens": [1]}), pd.DataFrame({"tokens": [2]})),
    "scores": (SafetensorsDataset, "safetensors", {"backend": "torch"}, {"a": torch.ones(1)}, {"a": torch.zeros(1)}),
}


@pytest.mark.parametrize("kind", FILES)
def test_a_file_that_was_altered_is_not_read(tmp_path, kind):
    dataset_class, suffix, settings, value, other = FILES[kind]
    file = tmp_path / "a" / f"artifact.{suffix}"
    dataset = dataset_class(filepath=str(file), **settings)
    hook = SealHook()
    hook.after_catalog_created(DataCatalog({"artifact": dataset}))
    dataset.save(other)
    hook.before_dataset_loaded("artifact")  # another tool's file has no seal
    hook.before_dataset_saved("artifact")
    with pytest.raises(ValueError, match=rf"artifact\.{suffix} was not written to its end: remove it and run again"):
        hook.before_dataset_loaded("artifact")
    dataset.save(value)
    hook.after_dataset_saved("artifact")
    hook.before_dataset_loaded("artifact")
    shutil.move(tmp_path / "a", tmp_path / "b")
    shutil.move(tmp_path / "b", tmp_path / "a")
    hook.before_dataset_loaded("artifact")
    dataset.save(other)
    with pytest.raises(ValueError, match=rf"artifact\.{suffix} has changed since it was written: remove it and run"):
        hook.before_dataset_loaded("artifact")
    file.unlink()
    hook.before_dataset_loaded("artifact")


def test_folders_and_data_in_memory_are_left_alone(tmp_path):
    hook = SealHook()
    (tmp_path / "folder").mkdir()
    hook.after_catalog_created(DataCatalog({"folder": CSVDataset(filepath=str(tmp_path / "folder"))}))
    for name in ("folder", "memory"):
        hook.before_dataset_saved(name)
        hook.after_dataset_saved(name)
        hook.before_dataset_loaded(name)
    assert not seal_of(tmp_path / "folder").exists()


@pytest.mark.slow
def test_a_run_does_not_go_on_from_an_altered_importance(finished, tmp_path):
    project = copy_finished(finished, tmp_path / "project")
    file = project / "data/smoke/04_feature/importance.safetensors"
    save_file({name: 2 * tensor for name, tensor in load_file(file).items()}, file)
    done = kedro(project, "run", "--env=smoke", "--pipelines=evolution")
    output = " ".join((done.stdout + done.stderr).split())
    assert done.returncode != 0
    assert f"{file} has changed since it was written: remove it and run again" in output
