#!/usr/bin/env python3
"""Stands in for `python`: what it is asked to run is forked from a process that has imported the large libraries.

A launcher that starts this in place of an interpreter, as torchrun does where `PYTHON_EXEC` names it, sees a process
that passes its signals on, ends as the forked one ends, and takes that one with it.
"""

import ctypes
import os
import signal
import sys
from pathlib import Path

from processes import PythonProcess

_PR_SET_PDEATHSIG = 1  # linux/prctl.h


def main(arguments: list[str]) -> None:
    """Have something run, and end as it ends."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
    process = PythonProcess([word for word in arguments if word != "-u"], Path.cwd(), os.environ, (0, 1, 2))
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda received, _: process.send_signal(received))
    status = process.wait()
    if status < 0:
        if -status != signal.SIGKILL:
            signal.signal(-status, signal.SIG_DFL)
        os.kill(os.getpid(), -status)
    sys.exit(status)


if __name__ == "__main__":
    main(sys.argv[1:])
