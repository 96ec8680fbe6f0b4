"""Commands that are run one after another in one process, so that what they import is imported once.

Python's own, `-m module ...` and `-c code ...`, run in that process, others in processes of their own.
"""

import json
import os
import subprocess
import sys
import traceback
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from forks import execute
from processes import run_python


class Step(NamedTuple):
    """A command, where it runs, and variables that it adds to the environment."""

    arguments: tuple[str, ...]
    folder: str
    variables: tuple[tuple[str, str], ...] = ()


class Played(NamedTuple):
    """How a command ended."""

    status: int
    output: str


def play(steps: Sequence[Step], folder: Path, environment: Mapping[str, str], timeout: float) -> dict[Step, Played]:
    """Run steps in turn, equal ones once, and return how each ended."""
    steps = list(dict.fromkeys(steps))
    listed = folder / "steps.json"
    listed.write_text(json.dumps(steps))
    path = os.pathsep.join([environment["PYTHONPATH"], str(Path(__file__).parent)])
    done = run_python(["-m", "players", str(listed)], folder, {**environment, "PYTHONPATH": path}, timeout)
    played = listed.with_name("played.json")
    assert played.is_file(), done.stdout + done.stderr
    return {step: Played(*end) for step, end in zip(steps, json.loads(played.read_text()), strict=True)}


def _main(listed: Path) -> None:
    played = []
    for step in json.loads(listed.read_text()):
        played.append(_play(Step(*step), listed.with_name("step.log")))
        listed.with_name("played.json").write_text(json.dumps(played))


def _play(step: Step, log: Path) -> Played:
    before, streams = dict(os.environ), [os.dup(number) for number in (1, 2)]
    with log.open("wb") as file:
        for number in (1, 2):
            os.dup2(file.fileno(), number)
    os.environ.update(step.variables)
    os.chdir(step.folder)
    try:
        status = _status(step)
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        for number, stream in enumerate(streams, 1):
            os.dup2(stream, number)
            os.close(stream)
        os.environ.clear()
        os.environ.update(before)
    return Played(status, log.read_text(errors="replace"))


def _status(step: Step) -> int:
    if step.arguments[0] not in {"-m", "-c"}:
        return subprocess.run(step.arguments, check=False).returncode
    try:
        execute(step.arguments)
    except SystemExit as end:
        if isinstance(end.code, str):
            sys.stderr.write(end.code)
        return int(end.code) if isinstance(end.code, int) else int(end.code is not None)
    except BaseException:  # noqa: BLE001 - the next command runs all the same
        traceback.print_exc()
        return 1
    return 0


if __name__ == "__main__":
    _main(Path(sys.argv[1]))
