"""Trackers beside MLflow show every training as a run of its own."""

import sys
from types import SimpleNamespace

import pytest
from runs import KilledError, kill_at
from transformers.integrations.integration_utils import TensorBoardCallback

from budwood.training.run import train
from budwood.training.trackers import name_of, own_run


class Tracker(SimpleNamespace):
    """What W&B has of a run."""

    run: str | None = None

    def init(self, *_: object) -> None:
        """Begin a run where there is none, as the Trainer's callback does."""
        self.run = self.run or "new"

    def finish(self, exit_code: int) -> None:
        """End it."""
        self.ended = [*self.ended, (self.run, exit_code)]
        self.run = None


@pytest.fixture
def tracker(monkeypatch: pytest.MonkeyPatch) -> Tracker:
    tracker = Tracker(ended=[])
    monkeypatch.setitem(sys.modules, "wandb", tracker)
    return tracker


@pytest.mark.slow
def test_a_training_ends_its_run(make_job, tracker):
    train(make_job(), tracker.init)
    assert tracker.ended == [("new", 0)]

    def kill(*given: object) -> None:
        tracker.init()
        kill_at(1)(*given)

    with pytest.raises(KilledError):
        train(make_job("other"), kill)
    assert tracker.ended == [("new", 0), ("new", 1)]


@pytest.mark.slow
def test_a_run_that_was_open_before_stays_open(make_job, tracker):
    tracker.run = "mine"
    train(make_job(), tracker.init)
    assert (tracker.run, tracker.ended) == ("mine", [])


def test_every_training_writes_into_a_folder_of_its_own(make_job):
    for job in (make_job("a/run"), make_job("b/run")):
        callback = object.__new__(TensorBoardCallback)  # which cannot be made without TensorBoard
        callback.logging_dir = "curves"
        trainer = SimpleNamespace(callback_handler=SimpleNamespace(callbacks=[callback]))
        with own_run(trainer, name_of(job)):
            assert callback.logging_dir == f"curves/child-{job.output_folder.parent.name}"
