"""A random teacher with a byte tokenizer, in a folder."""

from pathlib import Path

import pytest

from budwood.models.settings import TeacherSettings
from budwood.models.teacher import fetch_teacher

SIZES = {
    "hidden_size": 16,
    "intermediate_size": 24,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return fetch_teacher(TeacherSettings(random=SIZES), tmp_path_factory.mktemp("model")).folder
