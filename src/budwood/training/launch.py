"""Run a job in this process, or in those of a launcher."""

import ctypes
import json
import os
import shlex
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from budwood.records.files import write_atomically
from budwood.training.curve import Track
from budwood.training.job import TrainingJob
from budwood.training.run import RESULT, TrainingStoppedError, check_job, train

JOB = "job.json"
_OF_A_RANK = {"RANK", "LOCAL_RANK", "GROUP_RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT"}
_PR_SET_PDEATHSIG = 1  # linux/prctl.h
_SECONDS_TO_SAVE = 120


def run_job(job: TrainingJob, track: Track, environment: Mapping[str, str]) -> dict[str, Any]:
    """Run a job where its engine says, and return its result.

    Args:
        job: what to train.
        track: receives losses and rates while they arise; a function of a module, which other processes import.
        environment: what `track` needs to know there.

    Raises:
        RuntimeError: the launcher failed; what it printed says why.
        TrainingStoppedError: SIGTERM ended it.
    """
    if not job.engine.launcher or (job.output_folder / RESULT).is_file():
        return train(job, track)
    check_job(job)
    file = job.output_folder / JOB
    write_atomically(file, job.model_dump_json(indent=1))
    told = ["--track", f"{track.__module__}:{getattr(track, '__name__', '')}"]
    command = [os.path.expandvars(word) for word in shlex.split(job.engine.launcher)]
    status = run_command([*command, "-m", "budwood.training", str(file), *told], environment)
    if status:
        raise RuntimeError(
            f"arm {job.arm}: `{job.engine.launcher}` ended with status {status}; what it printed stands above. "
            f"The same run continues from the newest checkpoint in {job.output_folder}"
        )
    return dict(json.loads((job.output_folder / RESULT).read_text()))


def run_command(command: Sequence[str], environment: Mapping[str, str]) -> int:
    """Run a launcher to its end and return its status; whatever ends this process ends the launcher and its workers.

    Raises:
        TrainingStoppedError: SIGTERM was received; the launcher has ended.
    """
    inherited = {name: value for name, value in os.environ.items() if name not in _OF_A_RANK}
    path = os.pathsep.join([str(Path(sys.executable).parent), inherited.get("PATH", "")])
    # Restarted workers would otherwise read the addresses of dead ones (pytorch#135712).
    own = {"PATH": path, "TORCH_DISABLE_SHARE_RDZV_TCP_STORE": "1"}
    heard = threading.current_thread() is threading.main_thread()
    before = signal.signal(signal.SIGTERM, _leave) if heard else None
    process = subprocess.Popen(  # noqa: S603 - the command is the user's own configuration
        command,
        env=inherited | own | dict(environment),
        preexec_fn=end_with_parent(),  # noqa: PLW1509 - calls prctl and nothing that takes a lock
    )
    try:
        return process.wait()
    finally:
        if process.poll() is None:
            process.terminate()
            try:
                process.wait(_SECONDS_TO_SAVE)
            except subprocess.TimeoutExpired:
                process.kill()
        if heard:
            signal.signal(signal.SIGTERM, before)


def _leave(*_: object) -> None:
    # An exception and no exit, so that Kedro's error hooks close the MLflow run as failed.
    raise TrainingStoppedError("stopped by SIGTERM; the same run continues from its newest checkpoint")


def end_with_parent() -> Callable[[], None]:
    """Return what makes a process receive SIGTERM when its parent ends, however that ends; nothing outside Linux."""
    if sys.platform != "linux":
        return lambda: None
    libc = ctypes.CDLL(None)
    return lambda: libc.prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
