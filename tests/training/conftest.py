"""A byte-level teacher, a smaller child and a little text: runs of a few steps in a fraction of a second."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from corpora import tokenize_and_pack

from budwood.models.settings import TeacherSettings
from budwood.models.teacher import byte_tokenizer, fetch_teacher
from budwood.training.job import TrainingJob
from budwood.training.settings import Engine, Schedule

SIZES = {"intermediate_size": 24, "num_attention_heads": 4, "num_key_value_heads": 2}
SCHEDULE = {
    "tokens": 6 * 8 * 12,
    "sequence_length": 12,
    "global_batch": 8,
    "micro_batch": 8,
    "num_evaluations": 2,
    "checkpoint_steps": 2,
}


@pytest.fixture(scope="session", autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def teacher_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    source = TeacherSettings(random=SIZES | {"hidden_size": 24, "num_hidden_layers": 2}, seed=1)
    return fetch_teacher(source, tmp_path_factory.mktemp("teacher")).checkpoint.folder


@pytest.fixture(scope="session")
def model_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    source = TeacherSettings(random=SIZES | {"hidden_size": 16, "num_hidden_layers": 1}, seed=2)
    return fetch_teacher(source, tmp_path_factory.mktemp("child")).checkpoint.folder


@pytest.fixture(scope="session")
def corpus_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    rng = np.random.default_rng(0)
    rows = [
        (split, source, "".join(rng.choice(list("abcde "), 90)))
        for split in ("train", "validation")
        for source in ("one", "two")
        for _ in range(6)
    ]
    documents = pd.DataFrame(rows, columns=["split", "source", "text"])
    folder = tmp_path_factory.mktemp("corpus") / "packed"
    return tokenize_and_pack(documents, byte_tokenizer(), seed=0, folder=folder, progress=False).folder


@pytest.fixture(scope="session")
def job_in(teacher_folder: Path, model_folder: Path, corpus_folder: Path) -> Callable[..., TrainingJob]:
    """Return a maker of jobs; what it is given replaces fields of the job or of its schedule."""

    def make(output_folder: Path, **changes: Any) -> TrainingJob:
        schedule = {name: changes.pop(name, value) for name, value in SCHEDULE.items()}
        schedule |= {name: changes.pop(name) for name in list(changes) if name in Schedule.model_fields}
        fields = {
            "arm": "child",
            "model_folder": model_folder,
            "initialisation": "checkpoint",
            "teacher_folder": teacher_folder,
            "corpus_folder": corpus_folder,
            "output_folder": output_folder,
            "learning_rate": 0.01,
            "heldout_windows": 4,
            "device": "cpu",
            "precision": "float32",
            "engine": Engine(compile_loss="off"),
        }
        return TrainingJob(**fields | {"schedule": Schedule(**schedule)} | changes)

    return make


@pytest.fixture
def make_job(job_in: Callable[..., TrainingJob], tmp_path: Path) -> Callable[..., TrainingJob]:
    """Return a maker of jobs in folders of this test."""
    return lambda folder="run", **changes: job_in(tmp_path / folder, **changes)
