"""Trackers beside MLflow: every training is a run of its own, where the Trainer's callbacks would put all into one."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from transformers import Trainer
from transformers.integrations.integration_utils import TensorBoardCallback

from budwood.training.job import TrainingJob


def name_of(job: TrainingJob) -> str:
    """Return the name of a training in trackers: its arm and its work folder."""
    return f"{job.arm}-{job.output_folder.resolve().parent.name}"


@contextmanager
def own_run(trainer: Trainer, name: str) -> Iterator[None]:
    """Let a training write into a folder of its own for TensorBoard, and end its run in W&B.

    A run that was open in W&B before is the user's: it gets the losses and stays open.
    """
    for callback in trainer.callback_handler.callbacks:
        if isinstance(callback, TensorBoardCallback):
            assert callback.logging_dir is not None, "settings ask for TENSORBOARD_LOGGING_DIR"
            callback.logging_dir = str(Path(callback.logging_dir, name))
    users = _open_run()
    try:
        yield
    except BaseException:
        _finish(users, failed=True)
        raise
    _finish(users, failed=False)


def _open_run() -> Any:
    return getattr(sys.modules.get("wandb"), "run", None)


def _finish(users: Any, *, failed: bool) -> None:
    if users is None and _open_run() is not None:
        sys.modules["wandb"].finish(exit_code=int(failed))
