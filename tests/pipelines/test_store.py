"""Where runs and artifacts go: databases, servers, buckets, moved projects, deleted experiments, registered models."""

import contextlib
import os
import re
import shutil
import socket
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import mlflow
import pytest
from pydantic import ValidationError

from budwood.pipelines.store import TrackingSettings, artifact_root, open_experiment, register_model

pytestmark = pytest.mark.slow


@pytest.fixture(autouse=True)
def _stores(new_store: Callable[[Path], str], tmp_path: Path) -> None:
    for name in (".", "ours", "one", "two", "old", "store"):
        new_store(tmp_path / name)


def settings(folder: Path, **fields: object) -> TrackingSettings:
    return TrackingSettings(**{"tracking_uri": f"sqlite:///{folder}/mlflow.db", "experiment": "study"} | fields)


def log(text: str) -> Path:
    """Log an artifact in a run of the experiment and return where it is."""
    with mlflow.start_run() as run:
        mlflow.log_text(text, "note.txt")
    return Path(run.info.artifact_uri.removeprefix("file://")) / "note.txt"


def test_a_database_has_its_artifacts_beside_it(tmp_path):
    open_experiment(settings(tmp_path / "made"))
    assert log("one").is_relative_to(tmp_path / "made/artifacts")


@pytest.mark.parametrize(
    ("uri", "configured", "expected"),
    [
        ("sqlite:////data/mlflow.db", None, "file:///data/artifacts"),
        ("sqlite:////data/mlflow.db", "/other", "file:///other"),
        ("sqlite:////data/mlflow.db", "s3://bucket/x", "s3://bucket/x"),
        ("http://host:5000", None, None),
        ("http://host:5000", "mlflow-artifacts:/", "mlflow-artifacts:/"),
        ("databricks", None, None),
        ("/data/mlruns", None, None),
        ("postgresql://db/x", "gs://bucket", "gs://bucket"),
    ],
)
def test_where_artifacts_are_kept(uri, configured, expected):
    assert artifact_root(uri, configured) == expected


@pytest.mark.parametrize(
    ("uri", "artifacts", "expected"),
    [
        ("sqlite:///data/mlflow.db", "kept", ("sqlite:////project/data/mlflow.db", "/project/kept")),
        ("sqlite:////data/mlflow.db", "/kept", ("sqlite:////data/mlflow.db", "/kept")),
        ("sqlite:///~/mlflow.db", "~/kept", ("sqlite:////home/me/mlflow.db", "/home/me/kept")),
        ("sqlite:///a%20b/wh?t%/x.db?timeout=9", None, ("sqlite:////project/a%2520b/wh%3Ft%/x.db?timeout=9", None)),
        ("mlruns", None, ("/project/mlruns", None)),
        ("databricks", "s3://bucket/x", ("databricks", "s3://bucket/x")),
        ("http://host:5000", "mlflow-artifacts:/", ("http://host:5000", "mlflow-artifacts:/")),
    ],
)
def test_relative_places_begin_at_the_root_of_the_project(monkeypatch, uri, artifacts, expected):
    monkeypatch.setenv("HOME", "/home/me")
    monkeypatch.chdir("/")
    found = TrackingSettings(tracking_uri=uri, experiment="study", artifacts=artifacts).rooted(Path("/project"))
    assert (found.tracking_uri, found.artifacts) == expected


def test_a_project_may_have_any_name(tmp_path, new_store):
    """Addresses of databases have escapes, and options after a question mark."""
    folder = tmp_path / "my%20proj?ct #1 é 100%"
    new_store(folder)
    open_experiment(settings(folder).rooted(tmp_path))
    log("one")
    assert len(list((folder / "artifacts").rglob("note.txt"))) == 1
    with contextlib.closing(sqlite3.connect(folder / "mlflow.db")) as database:
        assert database.execute("SELECT count(*) FROM runs").fetchone() == (1,)
    shutil.move(folder, tmp_path / "moved %41")
    open_experiment(settings(tmp_path / "moved %41").rooted(tmp_path))
    (run,) = mlflow.search_runs(output_format="list")
    assert run.info.artifact_uri.startswith((tmp_path / "moved %41/artifacts").as_uri())


@pytest.mark.parametrize("uri", ["mlruns", "file:///data/mlruns"])
def test_runs_in_a_folder_are_refused(tmp_path, monkeypatch, uri):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    with pytest.raises(ValueError, match=f"mlflow.tracking_uri: MLflow keeps no runs in a folder .* got {uri}; name a"):
        open_experiment(settings(tmp_path))


def test_a_database_without_a_folder_needs_a_place_for_artifacts():
    with pytest.raises(ValueError, match=re.escape("mlflow.artifacts: name a folder") + ".*me:\\*\\*\\*@db"):
        artifact_root("postgresql://me:pw@db/x", None)


def test_an_address_is_taken_as_it_is(tmp_path):
    open_experiment(settings(tmp_path, artifacts="s3://bucket/budwood"))
    assert mlflow.get_experiment_by_name("study").artifact_location == "s3://bucket/budwood"


def test_the_environment_overrides_the_configuration_and_the_log_says_so(tmp_path, monkeypatch, caplog):
    caplog.set_level("INFO")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path}/mlflow.db")
    monkeypatch.setenv("MLFLOW_EXPERIMENT_NAME", "theirs")
    open_experiment(settings(tmp_path / "ours"))
    assert mlflow.get_tracking_uri() == f"sqlite:///{tmp_path}/mlflow.db"
    assert mlflow.get_experiment_by_name("theirs") is not None
    assert f"{tmp_path}/mlflow.db overrides sqlite:///{tmp_path}/ours/mlflow.db" in caplog.text
    assert "MLFLOW_EXPERIMENT_NAME=theirs overrides study" in caplog.text
    assert os.environ["MLFLOW_TRACKING_URI"] == f"sqlite:///{tmp_path}/mlflow.db"


def test_a_second_run_of_a_process_is_not_bound_to_the_store_of_the_first(tmp_path):
    open_experiment(settings(tmp_path / "one"))
    assert "MLFLOW_TRACKING_URI" not in os.environ
    open_experiment(settings(tmp_path / "two"))
    assert log("two").is_relative_to(tmp_path / "two")


@pytest.mark.parametrize(
    ("given", "environment", "expected"),
    [(None, None, "quickstart"), (None, "mine", "mine"), ("shared", "mine", "shared")],
)
def test_an_experiment_is_named_after_its_environment(tmp_path, given, environment, expected):
    assert settings(tmp_path, experiment=given).named(environment).experiment == expected


def test_a_deleted_experiment_is_restored(tmp_path, caplog):
    caplog.set_level("INFO")
    open_experiment(settings(tmp_path))
    mlflow.delete_experiment(mlflow.get_experiment_by_name("study").experiment_id)
    open_experiment(settings(tmp_path))
    assert mlflow.get_experiment_by_name("study").lifecycle_stage == "active"
    assert "experiment study was deleted: restored" in caplog.text


@pytest.mark.parametrize("how", [shutil.move, shutil.copytree])
def test_artifacts_follow_a_project_that_is_moved_or_copied(tmp_path, how):
    """The new runs write into the new place, the old ones are found there, and a neighbour's name is left alone."""
    for name, artifacts in (("study", None), ("apart", str(tmp_path / "old/artifacts2"))):
        open_experiment(settings(tmp_path / "old", experiment=name, artifacts=artifacts))
        log(name)
    how(str(tmp_path / "old"), str(tmp_path / "new"))
    open_experiment(settings(tmp_path / "new"))
    assert log("after").is_relative_to(tmp_path / "new/artifacts")
    for run in mlflow.search_runs(output_format="list"):
        assert Path(run.info.artifact_uri.removeprefix("file://")).is_relative_to(tmp_path / "new/artifacts")
        assert (Path(run.info.artifact_uri.removeprefix("file://")) / "note.txt").is_file()
    apart = mlflow.get_experiment_by_name("apart").artifact_location
    assert apart == (tmp_path / "old/artifacts2").as_uri()


def test_artifacts_that_a_user_has_put_elsewhere_stay_there(tmp_path):
    open_experiment(settings(tmp_path / "store", artifacts=str(tmp_path / "elsewhere")))
    log("one")
    open_experiment(settings(tmp_path / "store"))
    assert log("two").is_relative_to(tmp_path / "elsewhere")


def test_another_place_for_an_experiment_that_has_one_is_refused(tmp_path):
    open_experiment(settings(tmp_path))
    with pytest.raises(
        ValueError, match=r"mlflow.artifacts: the experiment 'study' keeps its artifacts in file://.*s3"
    ):
        open_experiment(settings(tmp_path, artifacts="s3://bucket"))


def test_unknown_settings_are_refused(tmp_path):
    with pytest.raises(ValidationError, match="tracking_url"):
        settings(tmp_path, tracking_url="x")


def test_a_checkpoint_is_registered_once_by_reference(tmp_path):
    open_experiment(settings(tmp_path, register=True))
    folder = tmp_path / "model"
    folder.mkdir()
    with mlflow.start_run() as run:
        for fingerprint in ("a", "a", "b"):
            register_model("half.coarse.distilled", run.info.run_id, folder, fingerprint)
    versions = mlflow.MlflowClient().search_model_versions("name = 'half.coarse.distilled'")
    assert [(v.version, v.source, v.tags["fingerprint"]) for v in sorted(versions, key=lambda v: int(v.version))] == [
        (version, folder.as_uri(), fingerprint) for version, fingerprint in ((1, "a"), (2, "b"))
    ]
    assert versions[0].run_id == run.info.run_id
    assert not list((tmp_path / "artifacts").rglob("*"))


def test_a_server_takes_no_models_by_reference(tmp_path):
    with pytest.raises(ValueError, match=r"mlflow.register: true needs a database as tracking_uri, got http://host"):
        open_experiment(settings(tmp_path, tracking_uri="http://host", register=True))


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, Path]]:
    """Start a tracking server that keeps artifacts itself; return its address and where it keeps them."""
    folder = tmp_path_factory.mktemp("server")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    store = [
        "--backend-store-uri",
        f"sqlite:///{folder}/server.db",
        "--artifacts-destination",
        str(folder / "kept"),
    ]
    command = [sys.executable, "-m", "mlflow", "server", *store, "--workers", "1", "--port", str(port)]
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    environment = os.environ | {"MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}
    process = subprocess.Popen(command, env=environment, start_new_session=True, **quiet)
    address = f"http://127.0.0.1:{port}"
    try:
        for _ in range(600):
            assert process.poll() is None
            try:
                socket.create_connection(("127.0.0.1", port), timeout=5).close()
                break
            except OSError:
                time.sleep(0.2)
        yield address, folder / "kept"
    finally:
        os.killpg(process.pid, 15)
        process.wait()


@pytest.mark.parametrize("artifacts", [None, "mlflow-artifacts:/budwood"])
def test_a_server_gets_the_artifacts(tmp_path, server, artifacts):
    address, folder = server
    before = set(folder.rglob("note.txt"))
    open_experiment(settings(tmp_path, tracking_uri=address, artifacts=artifacts, experiment=f"in {artifacts}"))
    log("to the server")
    (kept,) = set(folder.rglob("note.txt")) - before
    assert kept.read_text() == "to the server"
    assert ("budwood" in kept.parts) == (artifacts is not None)
