"""Settings are refused before anything runs."""

import pytest
from transformers import TrainingArguments

from budwood.training import settings
from budwood.training.settings import Engine


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
