"""A random teacher with a byte tokenizer and questions for it, in folders."""

from pathlib import Path

import pytest
from questions import QUESTIONS, texts

from budwood.evaluation.harness import write_tasks
from budwood.evaluation.heldout import heldout_questions
from budwood.evaluation.settings import HeldOutSettings
from budwood.models.settings import TeacherSettings
from budwood.models.teacher import fetch_teacher

SIZES = {
    "hidden_size": 16,
    "intermediate_size": 24,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
}


@pytest.fixture(scope="session")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return fetch_teacher(TeacherSettings(random=SIZES), tmp_path_factory.mktemp("model")).checkpoint.folder


@pytest.fixture(scope="session")
def tasks_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    settings = HeldOutSettings(questions=QUESTIONS, context_words=6, continuation_words=4)
    folder = tmp_path_factory.mktemp("tasks") / "heldout"
    write_tasks(heldout_questions({"noise": texts(4 * QUESTIONS)}, settings), folder)
    return folder


@pytest.fixture
def _datasets_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "datasets")
