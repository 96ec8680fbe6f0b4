"""Run a job in this process, or in processes that a launcher starts."""

import ctypes
import os
import shlex
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from tempfile import TemporaryDirectory

from budwood.records.files import write_atomically
from budwood.records.locks import holding
from budwood.records.tracking import Track
from budwood.records.training import Run
from budwood.training.checks import check_job
from budwood.training.job import TrainingJob
from budwood.training.run import TrainingStoppedError, read_result, train
from budwood.training.trial import COUNT, REFUSED

JOB = "job.json"
VERDICTS: dict[type[Exception], str] = {FloatingPointError: "diverged.txt", ValueError: "refused.txt"}
"""Files in which a process says why no restart will help, by what is raised then."""
_OF_A_RANK = {"RANK", "LOCAL_RANK", "GROUP_RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT"}
_PR_SET_PDEATHSIG = 1  # linux/prctl.h
_SECONDS_TO_SAVE = 120
_SECONDS_BETWEEN_LOOKS = 1.0


def run_job(job: TrainingJob, track: Track, environment: Mapping[str, str]) -> Run:
    """Run a job where its engine says, and return what it did.

    Args:
        job: what to train.
        track: receives losses and rates during training; a function of a module, which other processes import.
        environment: variables that `track` needs there.

    Raises:
        RuntimeError: the launcher failed; its output says why.
        ValueError: a process refused the job; the launcher is ended, and restarts nothing.
        FloatingPointError: training diverged; the same.
        FolderInUseError: another process is training in the job's folder.
        TrainingStoppedError: SIGTERM or Ctrl-C stopped it.
    """
    if not job.engine.launcher or read_result(job.output_folder) is not None:
        return train(job, track)
    check_job(job)
    file = job.output_folder / JOB
    with holding(job.output_folder, f"training of arm {job.arm}"):  # afterwards the first rank does
        write_atomically(file, job.model_dump_json(indent=1))
        for name in VERDICTS.values():
            (job.output_folder / name).unlink(missing_ok=True)
    tracked = ["--track", f"{track.__module__}:{getattr(track, '__name__', '')}"]
    command = [*_words(job.engine.launcher), "-m", "budwood.training", str(file), *tracked]
    status = run_command(command, environment, lambda: _verdict(job.output_folder) is not None)
    result, verdict = read_result(job.output_folder), _verdict(job.output_folder)
    if verdict is not None:
        raise verdict
    if status or result is None:
        raise RuntimeError(
            f"arm {job.arm}: `{job.engine.launcher}` ended with status {status}; see its output above. "
            f"The same run continues from the newest checkpoint in {job.output_folder}"
        )
    return result


def count_processes(launcher: str, folder: Path, device: str) -> int:
    """Start a launcher for a moment, and return how many processes it starts.

    Args:
        launcher: its command.
        folder: exists, and is seen by all nodes.
        device: where they are to train.

    Raises:
        ValueError: the launcher fails; its output says why. Or a machine has fewer devices than it starts processes
            there.
    """
    with TemporaryDirectory(prefix="launcher-", dir=folder) as name:
        status = run_command([*_words(launcher), "-m", "budwood.training.trial", name, device], {})
        for refused in sorted(Path(name).glob(REFUSED.format(rank="*"))):
            raise ValueError(refused.read_text(encoding="utf-8"))
        file = Path(name) / COUNT
        if status or not file.is_file():
            raise ValueError(
                f"engine.launcher: `{launcher}` ended with status {status} when it was tried; see its output above"
            )
        return int(file.read_text(encoding="utf-8"))


def _words(launcher: str) -> list[str]:
    return [os.path.expandvars(word) for word in shlex.split(launcher)]


def _verdict(folder: Path) -> Exception | None:
    for kind, name in VERDICTS.items():
        if (folder / name).is_file():
            return kind((folder / name).read_text(encoding="utf-8"))
    return None


def run_command(
    command: Sequence[str], environment: Mapping[str, str], is_hopeless: Callable[[], bool] = lambda: False
) -> int:
    """Run a launcher to its end and return its status; when this process ends, the launcher and its workers end too.

    Args:
        command: the launcher and what it starts.
        environment: variables that are set there beside those of this process.
        is_hopeless: asked every second; the launcher is ended where it is.

    Raises:
        TrainingStoppedError: SIGTERM or Ctrl-C was received; the launcher has ended.
    """
    inherited = {name: value for name, value in os.environ.items() if name not in _OF_A_RANK}
    path = os.pathsep.join([str(Path(sys.executable).parent), inherited.get("PATH", "")])
    # Restarted workers would otherwise read the addresses of dead ones (pytorch#135712).
    own = {"PATH": path, "TORCH_DISABLE_SHARE_RDZV_TCP_STORE": "1"}
    signals = (signal.SIGTERM, signal.SIGINT) if threading.current_thread() is threading.main_thread() else ()
    before = {number: signal.signal(number, _leave) for number in signals}
    process = subprocess.Popen(  # noqa: S603 - the command is the user's own configuration
        command,
        env=inherited | own | dict(environment),
        preexec_fn=end_with_parent(),  # noqa: PLW1509 - calls prctl and nothing that takes a lock
    )
    try:
        while process.poll() is None and not is_hopeless():
            with suppress(subprocess.TimeoutExpired):
                process.wait(_SECONDS_BETWEEN_LOOKS)
    finally:
        if process.poll() is None:
            process.terminate()
            try:
                process.wait(_SECONDS_TO_SAVE)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
        for number, handler in before.items():
            signal.signal(number, handler)
    return process.returncode


def _leave(*_: object) -> None:
    # An exception and no exit, so that Kedro's error hooks close the MLflow run.
    raise TrainingStoppedError("stopped by SIGTERM or Ctrl-C; the same run continues from its newest checkpoint")


def end_with_parent() -> Callable[[], None]:
    """Return a function by which a process gets SIGTERM when its parent ends in any way; only Linux can do that."""
    if sys.platform != "linux":
        return lambda: None
    libc = ctypes.CDLL(None)
    return lambda: libc.prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
