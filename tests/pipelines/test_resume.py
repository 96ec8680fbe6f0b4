"""A run that is killed continues; one with other parameters does not reuse what no longer matches."""

import shutil
import signal
import time
from pathlib import Path

import mlflow
import pandas as pd
import pytest
import torch
from projects import copy_finished, kedro, start_kedro
from safetensors.torch import load_file

from budwood.records.files import read_json_lines
from budwood.records.form import read_records

pytestmark = pytest.mark.slow

VARIANT = "--namespaces=subnets.quarter.coarse_uniform"


@pytest.fixture
def started(finished: Path, tmp_path: Path) -> Path:
    """Return a project whose shared stages are done and whose variants are not."""
    project = copy_finished(finished, tmp_path / "project", "02_intermediate", "03_primary", "04_feature")
    for folder in workspace(project).glob("*-*"):
        if not folder.name.startswith(("teacher", "corpus")):
            shutil.rmtree(folder)
    return project


def workspace(project: Path) -> Path:
    return project / "data/smoke/02_intermediate/workspace"


def kill_when(project: Path, pattern: str, condition, *arguments: str) -> Path:
    """Start a run, kill it as soon as a file of the workspace meets a condition, and return that file."""
    process = start_kedro(project, "run", "--env=smoke", *(arguments or [VARIANT]))
    deadline = time.monotonic() + 240
    while time.monotonic() < deadline and process.poll() is None:
        for file in workspace(project).glob(pattern):
            if condition(file):
                process.kill()
                assert process.wait() == -signal.SIGKILL
                return file
        time.sleep(0.01)
    process.kill()
    pytest.fail(f"{pattern} never met the condition; the run ended with {process.wait()}")


def finish(project: Path, *arguments: str) -> str:
    done = kedro(project, "run", "--env=smoke", VARIANT, *arguments)
    output = done.stdout + done.stderr
    assert done.returncode == 0, output[-3000:]
    return output


def reused(output: str) -> list[Path]:
    """Return the work folders that answered."""
    return [Path(line.split()[-1]) for line in output.splitlines() if "Reusing" in line]


def results(project: Path) -> dict[str, pd.DataFrame]:
    variant = Path("quarter/coarse_uniform")
    data = project / "data/smoke"
    history = pd.read_parquet(data / "05_model_input" / variant / "history.parquet").drop(columns="seconds")
    curve = pd.read_parquet(data / "06_models" / variant / "distilled_curve.parquet")
    return {"history": history, "curve": curve}


def test_a_search_killed_midway_ends_with_the_history_of_an_uninterrupted_one_and_is_closed_in_mlflow(
    finished, started
):
    file = kill_when(started, "search-*/history.jsonl", lambda f: f.read_bytes().count(b"\n") >= 3)
    evaluated = file.read_bytes().count(b"\n")
    finish(started)
    pd.testing.assert_frame_equal(results(started)["history"], results(finished)["history"])
    assert 3 <= evaluated < 12
    client = mlflow.MlflowClient(f"sqlite:///{started}/data/09_tracking/mlflow.db")
    runs = client.search_runs([client.get_experiment_by_name("smoke").experiment_id])
    # Of the study and the variant; when they have gone on, also of three trainings.
    assert sorted(run.info.status for run in runs) == ["FINISHED"] * 5 + ["KILLED"] * 2


def test_a_training_killed_midway_ends_with_the_curve_of_an_uninterrupted_one(finished, started):
    kill_when(started, "training-*/run/checkpoint-4/trainer_state.json", lambda f: f.stat().st_size > 0)
    finish(started)
    pd.testing.assert_frame_equal(results(started)["curve"], results(finished)["curve"])


def test_an_elimination_killed_midway_continues_after_its_last_trial(finished, started):
    """The trials before are not made again, and layers have the importance of an uninterrupted run."""
    only = "--to-outputs=importance"
    file = kill_when(started, "importance-*/trials.jsonl", lambda f: f.read_bytes().count(b"\n") >= 2, only)
    made = file.read_bytes()
    made = made[: made.rfind(b"\n") + 1]
    (whole,) = (finished / "data/smoke/02_intermediate/workspace").glob("importance-*/trials.jsonl")
    assert 2 <= made.count(b"\n") < whole.read_bytes().count(b"\n")
    done = kedro(started, "run", "--env=smoke", only)
    assert done.returncode == 0, (done.stdout + done.stderr)[-3000:]
    # The lines are those of before, with the times that they took.
    assert file.read_bytes().startswith(made)
    kept = [[row["kept"], row["sequence_losses"]] for row in read_json_lines(file)]
    assert kept == [[row["kept"], row["sequence_losses"]] for row in read_json_lines(whole)]
    ours, theirs = (load_file(each / "data/smoke/04_feature/importance.safetensors") for each in (started, finished))
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)
    ours, theirs = (read_records(each / "data/smoke/04_feature/calibration_costs.json") for each in (started, finished))
    assert [cost.tokens for cost in ours] == [cost.tokens for cost in theirs]
    # Layers that trials of one call share are run again where the kill came between them, and that is charged.
    once = read_json_lines(whole)[0]["flops"]
    assert theirs[1].flops <= ours[1].flops <= theirs[1].flops + once


def test_other_parameters_reuse_only_what_still_matches(finished, tmp_path):
    project = copy_finished(finished, tmp_path / "project")
    output = finish(project, "--params=schedule.tokens=4096")
    assert {folder.name.rpartition("-")[0] for folder in reused(output)} == {"search", "choice", "export", "start_gate"}
    curve = results(project)["curve"]
    assert curve["tokens"].max() == 4096
