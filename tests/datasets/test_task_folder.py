"""Questions are saved as the harness reads them, and handed on as a folder."""

import json

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
    assert list(folder.iterdir()) == []
    assert json.loads(dataset.preview()) == {}
    assert "tasks" in repr(dataset)
