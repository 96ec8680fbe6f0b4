"""Questions are saved as the harness reads them, and handed on as a folder."""

import json
import shutil

import pytest
from kedro.io import DatasetError
from lm_eval.tasks import TaskManager

from budwood.datasets.task_folder import TaskFolderDataset

QUESTIONS = {"heldout_last_word": [{"context": "a cat sat on the", "target": " mat"}, {"context": "b", "target": " c"}]}


def test_the_harness_loads_what_was_saved(tmp_path):
    dataset = TaskFolderDataset(filepath=tmp_path / "tasks", metadata={"kedro-viz": {"layer": "feature"}})
    assert not dataset.exists()
    dataset.save(QUESTIONS)
    assert dataset.exists()
    folder = dataset.load()
    manager = TaskManager(include_path=str(folder), include_defaults=False)
    assert manager.all_tasks == ["heldout_last_word"]
    assert json.loads(dataset.preview()) == {"heldout_last_word": QUESTIONS["heldout_last_word"][0]}
    dataset.save({})
    assert list(folder.glob("*l")) == []
    assert json.loads(dataset.preview()) == {}
    assert "tasks" in repr(dataset)


def test_a_folder_that_was_moved_leads_to_its_own_questions(tmp_path):
    """The place that it had holds others by now."""
    TaskFolderDataset(filepath=tmp_path / "old").save(QUESTIONS)
    shutil.copytree(tmp_path / "old", tmp_path / "new")
    TaskFolderDataset(filepath=tmp_path / "old").save({"heldout_last_word": QUESTIONS["heldout_last_word"][:1]})
    folder = TaskFolderDataset(filepath=tmp_path / "new").load()
    loaded = TaskManager(include_path=str(folder), include_defaults=False).load("heldout_last_word")
    assert list(loaded["tasks"]["heldout_last_word"].test_docs()["context"]) == ["a cat sat on the", "b"]


@pytest.mark.parametrize("suffix", ["jsonl", "yaml"])
def test_questions_that_were_altered_are_refused(tmp_path, suffix):
    dataset = TaskFolderDataset(filepath=tmp_path / "tasks")
    dataset.save(QUESTIONS)
    file = tmp_path / "tasks" / f"heldout_last_word.{suffix}"
    file.write_text(file.read_text().replace("test", "train").replace("mat", "hat"))
    with pytest.raises(DatasetError, match=rf"heldout_last_word\.{suffix} changed since it was written.*: remove it"):
        dataset.load()
