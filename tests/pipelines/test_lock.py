"""Two runs never work in one data folder at a time."""

import json
import shutil
import signal
import time
from pathlib import Path
from types import SimpleNamespace

import pytest
from kedro.framework.project import pipelines
from kedro.pipeline import Pipeline
from projects import kedro, start_kedro

from budwood.pipelines.lock import LockHook
from budwood.records.locks import HOLDER, FolderInUseError, holding
from budwood.records.runs import RUNS, WORKSPACE, newest_whole_run

ONE_NODE = ("run", "--env=smoke", "--to-outputs=teacher")


@pytest.fixture
def hook(tmp_path: Path) -> LockHook:
    hook = LockHook()
    loader = {"globals": {"data": "data/one"}}
    hook.after_context_created(SimpleNamespace(project_path=tmp_path, config_loader=loader))
    return hook


@pytest.fixture
def whole(smoke_project: None) -> Pipeline:
    """Return all nodes of the smoke study."""
    del smoke_project
    return pipelines["__default__"]


def test_a_run_holds_its_data_folder_until_it_ends(hook, tmp_path, whole):
    hook.before_pipeline_run()
    folder = tmp_path / "data" / "one"
    with pytest.raises(FolderInUseError, match="is in use: a run by process"), holding(folder, "another"):
        pytest.fail("held twice")
    hook.after_pipeline_run({}, whole)
    with holding(folder, "another"):
        pass


def test_an_error_ends_it_too_and_is_no_whole_run(hook, tmp_path):
    hook.before_pipeline_run()
    hook.on_pipeline_error()
    with holding(tmp_path / "data" / "one", "another"):
        pass
    assert newest_whole_run(tmp_path / "data" / "one") is None


def test_a_run_that_ctrl_c_ended_does_not_stop_the_next_in_the_same_process(hook):
    hook.before_pipeline_run()
    hook.before_pipeline_run()


def test_only_a_run_of_everything_counts_as_whole(hook, tmp_path, whole):
    root = tmp_path / "data" / "one"
    for run_params, pipeline in (
        ({}, Pipeline(whole.nodes[:-1])),
        ({"only_missing_outputs": True}, whole),
    ):
        hook.before_pipeline_run()
        hook.after_pipeline_run(run_params, pipeline)
        assert newest_whole_run(root) is None
    hook.before_pipeline_run()
    began = hook._started
    hook.after_pipeline_run({"only_missing_outputs": False}, whole)
    assert newest_whole_run(root) == began
    assert len((root / WORKSPACE / RUNS).read_text().splitlines()) == 3


@pytest.mark.slow
def test_the_second_of_two_runs_is_refused_and_the_first_ends_well(project, monkeypatch):
    """The first is stopped while it holds the folder, so that the second surely comes too early."""
    root = project / "data/smoke"
    first = start_kedro(project, *ONE_NODE)
    deadline = time.monotonic() + 240
    while not (root / HOLDER).is_file():
        assert first.poll() is None
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.01)
    first.send_signal(signal.SIGSTOP)
    try:
        before = sorted(path for path in root.rglob("*") if path.is_file())
        second = kedro(project, *ONE_NODE)
        output = second.stdout + second.stderr
        assert second.returncode != 0
        assert f"{root} is in use: a run by process {first.pid} on " in output.replace("\n", " "), output[-3000:]
        assert "1 of " not in output
        assert sorted(path for path in root.rglob("*") if path.is_file()) == before
        monkeypatch.setenv("KEDRO_ENV", "smoke")
        listed = kedro(project, "registry", "list")
        assert listed.returncode == 0, "what runs nothing holds nothing"
    except BaseException:
        first.kill()
        first.wait()
        raise
    first.send_signal(signal.SIGCONT)
    assert first.wait(240) == 0
    (row,) = [json.loads(line) for line in (root / WORKSPACE / RUNS).read_text().splitlines()]
    assert row["whole"] is False


@pytest.mark.slow
def test_the_lock_of_a_killed_run_is_taken_over(project):
    first = start_kedro(project, *ONE_NODE)
    deadline = time.monotonic() + 240
    while not (project / "data/smoke" / HOLDER).is_file():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.01)
    first.kill()
    assert first.wait() == -signal.SIGKILL
    assert kedro(project, *ONE_NODE).returncode == 0


@pytest.mark.slow
def test_a_whole_run_is_noted_where_prune_looks(finished, tmp_path):
    root = tmp_path / "smoke"
    shutil.copytree(finished / "data/smoke/02_intermediate", root / "02_intermediate")
    assert newest_whole_run(root) is not None
