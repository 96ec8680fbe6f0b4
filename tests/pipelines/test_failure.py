"""What budwood refuses is one message; a bug has its traceback."""

import errno
import os
import subprocess
import sys

import pytest
from kedro.io import DatasetError
from kedro.pipeline import Pipeline
from safetensors import SafetensorError

from budwood.pipelines.failure import show
from budwood.records.names import require_name


def refuse() -> None:
    """Be refused by budwood."""
    require_name("bins", "0.5b")


def refuse_wrapped() -> None:
    """Be refused while Kedro loads a dataset."""
    try:
        refuse()
    except ValueError as error:
        raise DatasetError("Failed while loading data") from error


def fail_in_a_library() -> None:
    """Raise in a function of Python that budwood calls."""
    require_name("bins", 3)  # type: ignore[arg-type]


def fail_elsewhere() -> None:
    """Raise the same kind of error outside of budwood."""
    raise ValueError("a bug")


@pytest.mark.parametrize("fail", [refuse, refuse_wrapped])
def test_a_refusal_is_shown_as_its_message_alone(fail, capsys):
    with pytest.raises((ValueError, DatasetError)) as caught:
        fail()
    show(caught.type, caught.value, caught.tb)
    said = capsys.readouterr().err
    assert said.startswith("\nError: bins: the name '0.5b' must be made of letters and digits")
    assert said.count("\n") == 2, "one message"


def test_a_node_that_is_not_there_is_no_bug(capsys):
    with pytest.raises(ValueError, match="nope") as caught:
        Pipeline([]).filter(node_names=["nope"])
    show(caught.type, caught.value, caught.tb)
    assert capsys.readouterr().err == "\nError: Pipeline does not contain nodes named ['nope'].\n"


@pytest.mark.parametrize("wrapped", [False, True])
@pytest.mark.parametrize(
    "full",
    [
        OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), "report.html"),
        SafetensorError("I/O error: No space left on device (os error 28)"),
    ],
)
def test_a_full_disk_is_no_bug(full, wrapped, capsys):
    error, where = full, str(full)
    if wrapped:
        error, where = DatasetError(f"report: cannot be saved.\n{full}"), f"report: cannot be saved. {full}"
        error.__cause__ = full
    show(type(error), error, None)
    said = f"\nError: the disk is full: make room, and the same command continues ({where})\n"
    assert capsys.readouterr().err == said


def test_a_full_disk_is_found_behind_another_error(capsys):
    error = RuntimeError("cannot be saved")
    error.__cause__ = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    show(RuntimeError, error, None)
    assert capsys.readouterr().err.endswith("continues ([Errno 28] No space left on device)\n")


@pytest.mark.parametrize("fail", [fail_in_a_library, fail_elsewhere])
def test_a_bug_has_its_traceback(fail, capsys):
    with pytest.raises((TypeError, ValueError)) as caught:
        fail()
    show(caught.type, caught.value, caught.tb)
    assert capsys.readouterr().err.startswith("Traceback (most recent call last)")


@pytest.mark.slow
def test_the_settings_of_the_project_install_it():
    code = "import sys, budwood.settings; sys.exit(sys.excepthook.__module__ != 'budwood.pipelines.failure')"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
