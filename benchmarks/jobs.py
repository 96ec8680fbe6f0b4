"""Models of random weights, a text of random letters, and training jobs on them, for benchmarks of speed."""

import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from budwood.corpus.ingestion import tokenize_sources
from budwood.corpus.settings import CorpusSettings, SourceSettings
from budwood.models.settings import TeacherSettings
from budwood.models.teacher import byte_tokenizer, fetch_teacher
from budwood.training.job import TrainingJob
from budwood.training.settings import Schedule


class Workbench:
    """A folder with models and text for jobs."""

    def __init__(
        self, folder: Path, sizes: Mapping[str, Mapping[str, Any]], letters: tuple[int, int], how: Mapping[str, Any]
    ) -> None:
        """Write models and text.

        Args:
            folder: of all that is written.
            sizes: of the models, by name; one is the teacher.
            letters: documents, and letters of each.
            how: device, precision and engine of all jobs.
        """
        self.folder, self.how = folder, how
        self.models = {
            name: fetch_teacher(TeacherSettings(random=dict(own)), folder / name).checkpoint.folder
            for name, own in sizes.items()
        }
        text = np.random.default_rng(0).choice(list("abcdefgh "), letters)
        file, directory = folder / "random.jsonl", folder / "corpus"
        file.write_text("".join(json.dumps({"text": "".join(row)}) + "\n" for row in text), encoding="utf-8")
        source = SourceSettings(path=(str(file),), format="jsonl", splits={"train": 0.9, "validation": 0.1})
        settings = CorpusSettings(sources={"random": source})
        self.corpus = tokenize_sources(settings, byte_tokenizer(), folder=directory, root=folder, progress=False)

    def job(self, name: str, model: str, schedule: Schedule, **changes: Any) -> TrainingJob:
        """Return a job in a new folder."""
        output = self.folder / "runs" / name
        shutil.rmtree(output, ignore_errors=True)
        fields = {
            "arm": name,
            "model_folder": self.models[model],
            "initialisation": "checkpoint",
            "teacher_folder": self.models["teacher"],
            "corpus_folder": self.corpus.folder,
            "output_folder": output,
            "learning_rate": 1e-4,
            "schedule": schedule,
            "heldout_windows": 1,
        }
        return TrainingJob(**fields | dict(self.how) | changes)


def steps_of(length: int, micro_batch: int, accumulation: int, steps: int) -> Schedule:
    """Return a schedule of so many steps, without checkpoints."""
    batch = micro_batch * accumulation
    return Schedule(
        tokens=steps * batch * length,
        sequence_length=length,
        global_batch=batch,
        micro_batch=micro_batch,
        num_evaluations=1,
        checkpoint_steps=10**9,
    )
