"""Settings are refused before anything runs."""

import pytest
from transformers import TrainingArguments

from budwood.training import settings
from budwood.training.settings import Engine, Schedule


def test_a_tracker_that_is_not_installed_is_named(monkeypatch):
    monkeypatch.setattr(settings, "find_spec", lambda _name: None)
    with pytest.raises(ValueError, match="report_to: wandb is not installed; pip install wandb"):
        Engine(report_to=("wandb",))


def test_tensorboard_needs_a_folder_that_stays(monkeypatch):
    monkeypatch.setattr(settings, "find_spec", lambda name: name)
    monkeypatch.delenv("TENSORBOARD_LOGGING_DIR", raising=False)
    with pytest.raises(ValueError, match="report_to: tensorboard needs TENSORBOARD_LOGGING_DIR"):
        Engine(report_to=("tensorboard",))
    monkeypatch.setenv("TENSORBOARD_LOGGING_DIR", "runs")
    assert Engine(report_to=("tensorboard",)).report_to == ("tensorboard",)


def test_trackers_have_the_trainers_names(tmp_path):
    trackers = list(settings.Tracker.__args__)
    assert TrainingArguments(output_dir=str(tmp_path), report_to=trackers).report_to == trackers
    assert Engine().report_to == ()


@pytest.mark.parametrize(("interval", "kept", "count"), [(500, 2, 1), (8, 2, 1), (4, 2, 2), (3, 1, 2), (1, 2, 3)])
def test_checkpoints_that_are_there_at_once_are_no_more_than_a_run_writes(interval, kept, count):
    """Of 8 steps, the last of which writes one too."""
    schedule = Schedule(tokens=8, sequence_length=1, global_batch=1, micro_batch=1, checkpoint_steps=interval)
    assert schedule.num_checkpoints(kept) == count
