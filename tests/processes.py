"""Python processes that are forked from one that has imported the large libraries once.

A test that needs a new interpreter, as for another hash seed or for what is imported, starts a subprocess instead.
"""

import os
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from multiprocessing.connection import Connection
from pathlib import Path

FORKS = "BUDWOOD_FORKS"
"""Variable that names the socket of `forks.py`."""


@contextmanager
def forking() -> Iterator[None]:
    """Start what forks, for this process and for all that it starts. It imports nothing before it is asked to fork."""
    with tempfile.TemporaryDirectory() as folder:
        with socket.socket(socket.AF_UNIX) as listening:
            os.environ[FORKS] = f"{folder}/forks"
            listening.bind(os.environ[FORKS])
            listening.listen()
            number = listening.fileno()
            command = [sys.executable, str(Path(__file__).with_name("forks.py")), str(number)]
            # Libraries ask on import where they keep what they have loaded.
            own = os.environ | {"XDG_CACHE_HOME": f"{folder}/cache", "HF_HOME": f"{folder}/cache/huggingface"}
            server = subprocess.Popen(command, stdin=subprocess.PIPE, pass_fds=[number], env=own)
        try:
            yield
        finally:
            del os.environ[FORKS]
            server.communicate()


class PythonProcess:
    """A forked process, as `subprocess.Popen` has it. It is killed when the last reference to it goes."""

    def __init__(
        self, arguments: Sequence[str], folder: Path, environment: Mapping[str, str], streams: Sequence[int]
    ) -> None:
        """Start `python <arguments>` in a folder.

        Args:
            arguments: `-c` or `-m`, and what follows.
            folder: in which it starts.
            environment: all of its variables.
            streams: what it reads, what it writes, and what it writes of errors.
        """
        self._arguments, self._status = list(arguments), None
        with socket.socket(socket.AF_UNIX) as opened:
            opened.connect(os.environ[FORKS])
            socket.send_fds(opened, [b"\0"], streams)
            self._server = Connection(opened.detach())
        self._server.send((self._arguments, str(folder), dict(environment)))
        self.pid: int = self._server.recv()

    def poll(self) -> int | None:
        """Return the exit status, or None while it runs; negative where a signal ended it."""
        return self._receive(0)

    def wait(self, timeout: float | None = None) -> int:
        """Return the exit status when it has ended.

        Raises:
            TimeoutExpired: it ran longer than this many seconds, and was killed.
        """
        status = self._receive(timeout)
        if status is None:
            self.kill()
            raise subprocess.TimeoutExpired(self._arguments, timeout or 0.0)
        return status

    def _receive(self, timeout: float | None) -> int | None:
        if self._status is None and self._server.poll(timeout):
            with self._server:
                self._status = self._server.recv()
        return self._status

    def send_signal(self, number: int) -> None:
        """Send a signal, if it still runs."""
        with suppress(OSError):
            self._server.send(int(number))

    def kill(self) -> None:
        """Kill it."""
        self.send_signal(signal.SIGKILL)


def start_python(
    arguments: Sequence[str], folder: Path, environment: Mapping[str, str], output: Path | None = None
) -> PythonProcess:
    """Start `python <arguments>` and return at once.

    Args:
        arguments: `-c` or `-m`, and what follows.
        folder: in which it starts.
        environment: all of its variables.
        output: the folder for the files `stdout` and `stderr`; without one, what it writes is lost.
    """
    files = [os.devnull] * 3 if output is None else [os.devnull, output / "stdout", output / "stderr"]
    with ExitStack() as opened:
        streams = [
            opened.enter_context(Path(file).open(mode)) for file, mode in zip(files, ("rb", "ab", "ab"), strict=True)
        ]
        return PythonProcess(arguments, folder, environment, [stream.fileno() for stream in streams])


def run_python(
    arguments: Sequence[str], folder: Path, environment: Mapping[str, str], timeout: float | None = None
) -> subprocess.CompletedProcess[str]:
    """Run `python <arguments>` to its end."""
    with tempfile.TemporaryDirectory() as name:
        output = Path(name)
        status = start_python(arguments, folder, environment, output).wait(timeout)
        said = ((output / stream).read_text() for stream in ("stdout", "stderr"))
        return subprocess.CompletedProcess(list(arguments), status, *said)
