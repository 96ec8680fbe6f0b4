"""Law 6, in time: a run that is killed, stopped or damaged ends as one that nothing has happened to."""

import os
import shutil
import signal
import socket
import time
from pathlib import Path

import pytest
from processes import run_python, start_python
from projects import ROOT
from runs import KilledError, assert_same, kill_at, weights

from budwood.records.locks import FolderInUseError, holding
from budwood.training import callbacks
from budwood.training.checkpoints import checkpoints_of, step_of, whole_checkpoint
from budwood.training.curve import read_curve
from budwood.training.job import TrainingJob
from budwood.training.run import TrainingStoppedError, train
from budwood.training.settings import DistillationSettings, Engine
from budwood.training.student import Student

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def whole_and_killed(tmp_path_factory, job_in):
    """A run of six steps, and the same run killed in the last, with checkpoints at 2 and 4."""
    folder = tmp_path_factory.mktemp("runs")
    whole, killed = job_in(folder / "whole"), job_in(folder / "killed")
    train(whole)
    with pytest.raises(KilledError):
        train(killed, kill_at(6))
    assert [step_of(path) for path in checkpoints_of(killed.output_folder)] == [2, 4]
    return whole, killed


@pytest.fixture
def whole(whole_and_killed):
    return whole_and_killed[0]


@pytest.fixture
def again(whole_and_killed, make_job):
    """The killed run, in a folder of this test."""
    job = make_job("again")
    shutil.copytree(whole_and_killed[1].output_folder, job.output_folder)
    return job


@pytest.fixture
def forward_passes(monkeypatch):
    passes, forward = [], Student.forward
    monkeypatch.setattr(Student, "forward", lambda *args, **kwargs: passes.append(1) or forward(*args, **kwargs))
    return passes


@pytest.mark.parametrize("step", [1, 3, 5])
def test_a_killed_run_continues_to_the_same_end(whole, make_job, step, forward_passes):
    """Killed before the first checkpoint, between two, and after the last; a tracker hears of every step."""
    killed, told = make_job("killed"), []
    with pytest.raises(KilledError):
        train(killed, kill_at(step))
    assert not (killed.output_folder / "result.json").exists()
    forward_passes.clear()
    train(killed, lambda _, at: told.append(at))
    assert len(forward_passes) == 6 - (step - 1) // 2 * 2  # checkpoints are at 2, 4 and 6
    assert_same(killed, whole)
    assert told == [row["step"] for row in read_curve(killed.output_folder)]


@pytest.mark.parametrize(
    "settings",
    [
        {"distillation": DistillationSettings(), "warmup_ratio": 0.3},
        {"distillation": DistillationSettings(loss="sampled", num_samples=4)},
        {"distillation": DistillationSettings(), "optimizer": "muon"},
    ],
    ids=["distilled", "draws", "muon"],
)
def test_so_does_one_of_another_kind(make_job, settings):
    whole, killed = make_job("whole", **settings), make_job("killed", **settings)
    train(whole)
    with pytest.raises(KilledError):
        train(killed, kill_at(5))
    train(killed)
    assert_same(killed, whole)


def test_no_row_of_the_curve_is_cut_short_by_a_kill(make_job, monkeypatch):
    """A row of a long run averages several steps; here a checkpoint is in the middle of two of them."""
    monkeypatch.setattr(callbacks, "CURVE_ROWS", 2)
    settings = {"tokens": 8 * 8 * 12, "checkpoint_steps": 3}
    whole, killed = make_job("whole", **settings), make_job("killed", **settings)
    train(whole)
    assert [row["step"] for row in read_curve(whole.output_folder) if "train_loss" in row] == [4, 8]
    with pytest.raises(KilledError):
        train(killed, kill_at(4))
    train(killed)
    assert_same(killed, whole)


def test_a_finished_job_is_reported_again_but_not_trained_again(make_job, forward_passes):
    job = make_job(tokens=1)
    result, told = train(job), []
    forward_passes.clear()
    assert train(job, lambda metrics, _: told.append(metrics)) == result
    assert not forward_passes
    assert [list(metrics) for metrics in told] == [["heldout_loss"], ["train_loss", "learning_rate"], ["heldout_loss"]]


@pytest.mark.parametrize("how", [signal.SIGTERM, signal.SIGINT])
def test_a_run_that_is_stopped_saves_first_and_continues_to_the_same_end(whole, make_job, how):
    stopped = make_job("stopped")

    def terminate_at_3(_metrics, step):
        if step == 3:
            os.kill(os.getpid(), how)

    before = signal.getsignal(how)
    with pytest.raises(
        TrainingStoppedError, match=r"stopped by SIGTERM or Ctrl-C after step \d of 6; .*checkpoint-\d is complete"
    ):
        train(stopped, terminate_at_3)
    assert signal.getsignal(how) is before
    assert step_of(whole_checkpoint(stopped.output_folder)) in {3, 4}  # heard in step 3's log: at the next step's end
    train(stopped)
    assert_same(stopped, whole)


def test_a_longer_run_continues_a_shorter_one_from_before_its_decay(make_job, forward_passes):
    """5 steps, of which one decays; then 10, of which two do. The same as 10 steps in one go."""
    settings = {"shape": "warmup_stable_decay", "warmup_steps": 2, "num_evaluations": 1, "checkpoint_steps": 3}
    branches = {"branch_folder": make_job("branches").output_folder}
    short = make_job("short", tokens=5 * 8 * 12, **settings, **branches)
    long, whole = (
        make_job(name, tokens=10 * 8 * 12, **settings, **b) for name, b in (("long", branches), ("whole", {}))
    )
    train(short)
    assert [path.name for path in branches["branch_folder"].glob("checkpoint-*")] == ["checkpoint-4"]
    train(whole)
    forward_passes.clear()
    train(long)
    assert len(forward_passes) == 6
    one, other = weights(long), weights(whole)
    assert all(one[name].equal(other[name]) for name in other)
    losses = [[row for row in read_curve(job.output_folder) if row["step"] != 5] for job in (long, whole)]
    assert losses[0] == losses[1]
    assert [step_of(path) for path in sorted(branches["branch_folder"].glob("checkpoint-*"))] == [4, 8]


def test_as_many_checkpoints_stay_as_were_asked_for(make_job):
    """By default two: see `whole_and_killed`."""
    job = make_job(engine=Engine(kept_checkpoints=1, compile_loss="off"))
    with pytest.raises(KilledError):
        train(job, kill_at(6))
    assert [step_of(path) for path in job.output_folder.glob("checkpoint-*")] == [4]  # killed before step 6 is saved


def test_a_checkpoint_that_was_being_written_is_no_checkpoint(whole, again):
    partial = again.output_folder / "partial"
    shutil.copytree(again.output_folder / "checkpoint-4", partial / "checkpoint-5")
    (partial / "checkpoint-5" / "optimizer.pt").unlink()
    train(again)
    assert_same(again, whole)
    assert not partial.exists()


def alter(file):
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(content)


def cut(file):
    file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])


def empty(file):
    file.write_bytes(b"")


HARMS = {"altered": alter, "cut": cut, "emptied": empty, "removed": Path.unlink}


@pytest.mark.parametrize(
    ("name", "harm"),
    [
        *((f"{name}", "altered") for name in ("optimizer.pt", "rng_state.pth", "trainer_state.json", "curve.json")),
        *((name, "removed") for name in ("model.safetensors", "scheduler.pt", "seal.json")),
        ("optimizer.pt", "emptied"),
        ("seal.json", "cut"),
    ],
)
def test_a_damaged_checkpoint_is_passed_over(again, name, harm, caplog):
    HARMS[harm](again.output_folder / "checkpoint-4" / name)
    assert step_of(whole_checkpoint(again.output_folder)) == 2
    assert f"Passing over checkpoint {again.output_folder}/checkpoint-4: {name} " in caplog.text


@pytest.mark.parametrize("damaged", [(4,), (2, 4)])
def test_a_run_goes_on_before_damage_and_ends_the_same(whole, again, damaged, caplog, forward_passes):
    for step in damaged:
        (again.output_folder / f"checkpoint-{step}" / "optimizer.pt").unlink()
    train(again)
    assert caplog.text.count("Passing over checkpoint") == len(damaged)
    assert len(forward_passes) == 2 + 2 * len(damaged)
    assert_same(again, whole)


def test_a_curve_that_is_cut_during_a_run_is_whole_at_its_end(whole, make_job):
    job = make_job()

    def cut_at_5(_metrics, step):
        if step == 5:
            cut(job.output_folder / "curve.jsonl")

    train(job, cut_at_5)
    assert_same(job, whole)


@pytest.mark.parametrize(
    ("name", "harm"),
    [
        *(("result.json", harm) for harm in HARMS),
        *(("curve.jsonl", "cut"), ("model/model.safetensors", "altered"), ("model/config.json", "emptied")),
    ],
)
def test_a_damaged_result_is_refused(whole, make_job, name, harm):
    job = make_job()
    shutil.copytree(whole.output_folder, job.output_folder)
    train(job)
    HARMS[harm](job.output_folder / name)
    with pytest.raises(ValueError, match=rf"{job.output_folder} is damaged \({name} .*\): remove this folder and run"):
        train(job)


def test_a_damaged_job_is_named(tmp_path, make_job):
    file = tmp_path / "job.json"
    file.write_text(make_job().model_dump_json())
    assert TrainingJob.read(file) == make_job()
    for harm in (cut, empty):
        harm(file)
        with pytest.raises(ValueError, match=r"job\.json is not a training job: "):
            TrainingJob.read(file)
    file.unlink()
    with pytest.raises(ValueError, match=r"job\.json is not on .*: every node needs the data folder"):
        TrainingJob.read(file)


def test_two_runs_in_one_folder_are_refused(make_job):
    job = make_job(tokens=1)
    with (
        holding(job.output_folder, "training of another"),
        pytest.raises(FolderInUseError, match=rf"is in use: training of another by process {os.getpid()} on .* since "),
    ):
        train(job)
    train(job)


def test_two_processes_do_not_train_in_one_folder(whole, make_job, tmp_path):
    """The second is refused while the first lives; after its death the second takes over."""
    job, mark = make_job(), tmp_path / "mark"
    file = tmp_path / "job.json"
    file.write_text(job.model_dump_json())
    paths = os.pathsep.join([str(ROOT / "src"), str(ROOT / "tests")])
    environment = os.environ | {"PYTHONPATH": paths, "KILL_MARK": str(mark)}
    command = ["-m", "budwood.training", str(file)]
    first = start_python([*command, "--track", "kills:hold"], tmp_path, environment)
    try:
        while not mark.exists():
            assert first.poll() is None
            time.sleep(0.1)
        first.send_signal(signal.SIGSTOP)
        second = run_python(command, tmp_path, environment)
        assert second.returncode == 75
        assert f"training of arm child by process {first.pid} on {socket.gethostname()} since 20" in second.stderr
        assert "Traceback" not in second.stderr
    finally:
        first.kill()
        first.wait()
    train(job)
    assert_same(job, whole)
