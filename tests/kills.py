"""Trackers for runs in other processes: they kill, wait, or take notes where the environment says."""

import os
import signal
import time
from collections.abc import Mapping
from pathlib import Path


def kill_once(metrics: Mapping[str, float], step: int) -> None:
    """Kill this process at the step `KILL_STEP`, unless the file `KILL_MARK` says that it was done."""
    del metrics
    mark = Path(os.environ["KILL_MARK"])
    if step == int(os.environ["KILL_STEP"]) and not mark.exists():
        mark.touch()
        os.kill(os.getpid(), signal.SIGKILL)


def hold(metrics: Mapping[str, float], step: int) -> None:
    """Say in the file `KILL_MARK` that training goes on, and slow it down."""
    del metrics
    Path(os.environ["KILL_MARK"]).write_text(str(step))
    time.sleep(0.2)
