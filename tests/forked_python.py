#!/usr/bin/env python3
"""Stands in for `python`: what it is asked to run is forked from a process that has imported the large libraries.

A launcher that starts this in place of an interpreter, as torchrun does where `PYTHON_EXEC` names it, sees a process
that passes its signals on, ends as the forked one ends, and takes that one with it. `forking` starts what forks.
"""

import ctypes
import json
import os
import select
import signal
import socket
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

_FORKS = "BUDWOOD_FORKS"
"""Variable that names the socket of what forks."""
_STREAMS = (0, 1, 2)
_LONGEST = 2**20
"""Bytes of a request: arguments, folder and variables."""
_PR_SET_PDEATHSIG = 1  # linux/prctl.h


@contextmanager
def forking() -> Iterator[dict[str, str]]:
    """Start what forks, and yield the variables by which torchrun finds this file, and this file what forks."""
    from processes import start_python

    with tempfile.TemporaryDirectory() as folder:
        address = Path(folder) / "forks"
        code = f"import forked_python; forked_python.serve({str(address)!r})"
        server = start_python(["-c", code], Path.cwd(), os.environ | {"PYTHONPATH": str(Path(__file__).parent)})
        try:
            while not address.exists():
                assert server.poll() is None
                time.sleep(0.01)
            yield {"PYTHON_EXEC": __file__, _FORKS: str(address)}
        finally:
            server.kill()
            server.wait()


def serve(address: str) -> None:
    """Fork for whoever connects, for ever; a process of its own looks after every fork."""
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(f"{address}-made")
        listening.listen()
        Path(f"{address}-made").rename(address)
        while True:
            asked, _ = listening.accept()
            if os.fork() == 0:
                signal.signal(signal.SIGCHLD, signal.SIG_DFL)
                listening.close()
                _look_after(asked)
                os._exit(0)
            asked.close()


def _look_after(asked: socket.socket) -> None:
    """Fork, pass on signals, and say how the fork ended; end it where nobody waits for it any more."""
    from processes import become

    request, streams, _, _ = socket.recv_fds(asked, _LONGEST, len(_STREAMS))
    fork = os.fork()
    if fork == 0:
        asked.close()
        for stream, number in zip(streams, _STREAMS, strict=True):
            os.dup2(stream, number)
        arguments, folder, variables = json.loads(request)
        become(arguments, Path(folder), variables)
    for stream in (*streams, *_STREAMS):
        os.close(stream)
    ended = os.pidfd_open(fork)
    while ended not in select.select([asked, ended], [], [])[0]:
        received = asked.recv(1)
        os.kill(fork, received[0] if received else signal.SIGKILL)
    _, status = os.waitpid(fork, 0)
    asked.sendall(str(os.waitstatus_to_exitcode(status)).encode())


def main(arguments: list[str]) -> None:
    """Have something run, and end as it ends."""
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
    with socket.socket(socket.AF_UNIX) as forks:
        forks.connect(os.environ[_FORKS])
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, lambda received, _: forks.send(bytes([received])))
        request = json.dumps([[word for word in arguments if word != "-u"], str(Path.cwd()), dict(os.environ)])
        socket.send_fds(forks, [request.encode()], _STREAMS)
        status = int(forks.recv(16) or -signal.SIGKILL)
    if status < 0:
        if -status != signal.SIGKILL:
            signal.signal(-status, signal.SIG_DFL)
        os.kill(os.getpid(), -status)
    sys.exit(status)


if __name__ == "__main__":
    main(sys.argv[1:])
