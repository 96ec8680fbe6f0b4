"""What all tests share."""

import gc
import logging
import os
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any
from unittest.mock import patch

import pytest
from filelock import FileLock
from processes import FORKS, forking

# A fork is frozen, and Hypothesis asks the collector what refers to a generator of random numbers when it is imported:
# below, or by the conftest.py of a folder.
gc.unfreeze()
os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
os.environ.setdefault("DO_NOT_TRACK", "true")
# Nothing here may reach a hub, or the store of the user's runs.
os.environ["HF_HUB_OFFLINE"] = "1"
STORE = ("MLFLOW_TRACKING_URI", "MLFLOW_EXPERIMENT_ID", "MLFLOW_EXPERIMENT_NAME", "MLFLOW_RUN_ID")
for _name in STORE:
    os.environ.pop(_name, None)
# A shell ignores Ctrl-C in what it starts in the background. What the tests start must not inherit that.
signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.hookimpl(tryfirst=True)
def pytest_configure(config: pytest.Config) -> None:
    """Start what forks processes, once for all processes of pytest, and say how long Hypothesis looks."""
    from hypothesis import settings

    # A busy machine is slow, not wrong. `--hypothesis-profile=thorough` looks longer.
    settings.register_profile("suite", max_examples=25, deadline=None)
    settings.register_profile("thorough", max_examples=500, deadline=None)
    settings.load_profile("suite")
    if FORKS not in os.environ:
        forks = ExitStack()
        forks.enter_context(forking())
        config.add_cleanup(forks.close)


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_setupnodes(specs: list[Any]) -> None:
    """Fork the processes of pytest-xdist, too."""
    for spec in specs:
        spec.python = f"{sys.executable} {Path(__file__).with_name('forked_python.py')}"


def pytest_collection_modifyitems(items: list[pytest.Function]) -> None:
    """Begin with the modules that take long, so that no process ends with one of them alone.

    The very first makes `finished`. The others that share it come late: nobody waits until it is made.
    """
    slow = {item.path for item in items if item.get_closest_marker("slow")}
    sharing = list(dict.fromkeys(item.path for item in items if "finished" in item.fixturenames))
    items.sort(key=lambda item: (item.path not in sharing[:1], item.path not in slow, item.path in sharing))


def pytest_collection_finish() -> None:
    """Leave what is imported out of every later garbage collection, and torch's loggers to the root's handlers.

    Pytest adds its own to every logger that does not propagate, six times a test; torch has sixty of them.
    """
    gc.freeze()
    for name in [name for name in logging.root.manager.loggerDict if name.startswith("torch.")]:
        logging.getLogger(name).propagate = True


@pytest.fixture(scope="session")
def need() -> Callable[[object, str], None]:
    """Skip where something is missing, unless `BUDWOOD_REQUIRE_ALL` says that nothing may be."""

    def check(found: object, reason: str) -> None:
        if not found:
            (pytest.fail if os.environ.get("BUDWOOD_REQUIRE_ALL") else pytest.skip)(reason)

    return check


@pytest.fixture(scope="module", autouse=True)
def _little_to_collect() -> None:
    """Leave what earlier modules have imported and made out of every later garbage collection: trainings collect."""
    gc.collect()
    gc.freeze()


@pytest.fixture(scope="session", autouse=True)
def _own_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Keep the user's cache clean."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture(autouse=True)
def _no_store_is_left_behind() -> Iterator[None]:
    """Fail a test after which MLflow would lead other tests, and the processes that they start, to its own store."""
    yield
    assert not [name for name in STORE if name in os.environ]


@pytest.fixture
def own_mlflow() -> Iterator[None]:
    """Leave MLflow and its variables as they were."""
    import mlflow
    from mlflow.tracking import fluent

    with patch.dict(os.environ):  # MLflow itself sets variables
        yield
        while mlflow.active_run():
            mlflow.end_run()
        mlflow.set_tracking_uri(None)
        fluent._active_experiment_id = None


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """Return a throw-away copy of the project."""
    from projects import copy_project

    return copy_project(tmp_path / "project")


@pytest.fixture(scope="session")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a copy of the project in which the smoke environment has run to its end, with its output.

    All test processes share it. A test that changes something takes a copy first.
    """
    from projects import copy_project, kedro

    base = tmp_path_factory.getbasetemp()
    base = base.parent if "PYTEST_XDIST_WORKER" in os.environ else base
    folder = base / "finished"
    with FileLock(base / "finished.lock"):
        if not (folder / "run.log").is_file():
            copy_project(folder)
            done = kedro(folder, "run", "--env=smoke")
            output = done.stdout + done.stderr
            assert done.returncode == 0, output[-4000:]
            (folder / "run.log").write_text(output)
    return folder
