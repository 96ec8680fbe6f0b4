"""Questions of random words, and models that answer them."""

from pathlib import Path
from typing import Any

import numpy as np

from budwood.evaluation.harness import run_benchmarks
from budwood.evaluation.settings import EvaluationSettings
from budwood.models.device import choose_compute

QUESTIONS = 100
CPU = choose_compute("cpu", "float32")


def texts(count: int) -> list[str]:
    """Return documents of random words."""
    rng = np.random.default_rng(0)
    words = ["".join(rng.choice(list("abcdefgh"), rng.integers(2, 7))) for _ in range(300)]
    return [" ".join(rng.choice(words, 12)) for _ in range(count)]


def ask(folder: Path, heldout: Path, output: Path, **settings: object) -> list[dict[str, Any]]:
    """Return the records of all tasks."""
    asked = EvaluationSettings(**{"batch_size": 16} | settings)
    answers = run_benchmarks(folder, heldout, asked, CPU, output, bos_token_id=None)
    return [task.model_dump() for task in answers.tasks]
