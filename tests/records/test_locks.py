"""A folder has one user at a time, and one that has died gives it back."""

import errno
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from filelock import FileLock
from projects import ROOT

from budwood.records.locks import FolderInUseError, holding
from budwood.records.refusal import is_refusal

HOLD = (
    "import sys, time\nfrom pathlib import Path\nfrom budwood.records.locks import holding\n"
    "with holding(Path(sys.argv[1]), 'a test'):\n    print('held', flush=True)\n    time.sleep(600)"
)


@pytest.fixture
def holder(tmp_path: Path) -> Iterator[subprocess.Popen[str]]:
    """Yield a process that holds the folder."""
    environment = os.environ | {"PYTHONPATH": str(ROOT / "src")}
    command = [sys.executable, "-c", HOLD, str(tmp_path)]
    process = subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "held\n"
    yield process
    process.kill()
    process.wait()
    process.stdout.close()


def test_a_second_process_is_refused_and_learns_who_holds_the_folder(holder, tmp_path):
    with pytest.raises(FolderInUseError) as error, holding(tmp_path, "another test"):
        pytest.fail("held twice")
    message = str(error.value)
    assert message.startswith(
        f"{tmp_path} is in use: a test by process {holder.pid} on {socket.gethostname()} since 20"
    )
    assert "Wait until it has ended, or give this run a data folder of its own" in message


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGTERM])
def test_the_lock_of_a_dead_process_is_taken_over(holder, tmp_path, how):
    holder.send_signal(how)
    holder.wait()
    with holding(tmp_path, "the next test"):
        assert f'"pid": {os.getpid()}' in (tmp_path / ".lock.json").read_text()


def test_it_is_given_back_after_an_error(tmp_path):
    with pytest.raises(KeyError), holding(tmp_path / "new", "a test"):
        raise KeyError("x")
    with holding(tmp_path / "new", "a test"):
        assert (tmp_path / "new").is_dir()


def test_two_users_in_one_process_are_two(tmp_path):
    refused = pytest.raises(FolderInUseError, match="is in use: one by process")
    with holding(tmp_path, "one"), refused, holding(tmp_path, "other"):
        pytest.fail("held twice")


def test_a_holder_that_has_not_said_who_it_is_is_reported_too(tmp_path):
    with holding(tmp_path, "one"):
        (tmp_path / ".lock.json").write_text("{")
        refused = pytest.raises(FolderInUseError, match="is in use: by a process that has just begun")
        with refused, holding(tmp_path, "other"):
            pytest.fail("held twice")


@pytest.mark.parametrize("code", [errno.EROFS, errno.EACCES, errno.ENOSPC])
def test_a_folder_that_cannot_be_written_to_is_named(code, tmp_path, monkeypatch):
    def refuse(_: FileLock) -> None:
        raise OSError(code, os.strerror(code), str(tmp_path / ".lock"))

    monkeypatch.setattr(FileLock, "acquire", refuse)
    said = f"^{tmp_path} cannot be written to: {os.strerror(code)}. Make room"
    with pytest.raises(OSError, match=said) as error, holding(tmp_path, "a test"):
        pytest.fail("held")
    assert is_refusal(error.value), "one sentence, without a traceback"


def test_a_folder_that_cannot_be_made_is_named(tmp_path):
    (tmp_path / "file").touch()
    refused = pytest.raises(OSError, match=f"^{tmp_path}/file/data cannot be written to: Not a directory")
    with refused, holding(tmp_path / "file" / "data", "a test"):
        pytest.fail("held")
