"""Train a job: `python -m budwood.training job.json`, once in every process that a launcher starts.

A run that SIGTERM stopped has saved its state and exits with 143; the same command continues it. A job that another
process is training exits with 75. A job that is refused exits with 1 after one sentence.
"""

import argparse
import os
import pkgutil
import sys
from pathlib import Path

from torch import distributed

from budwood.records.files import write_file_atomically
from budwood.records.locks import FolderInUseError
from budwood.records.refusal import is_refusal
from budwood.training.job import TrainingJob
from budwood.training.launch import VERDICTS, end_with_parent
from budwood.training.run import TrainingStoppedError, train

_STATUSES = {
    TrainingStoppedError: 143,  # 128 + SIGTERM, as in shells
    FolderInUseError: 75,  # EX_TEMPFAIL of sysexits.h
}


def main() -> None:
    """Train, and leave the process group in order."""
    parser = argparse.ArgumentParser(prog="python -m budwood.training", description="Train a job.")
    parser.add_argument("job", type=Path, help="a TrainingJob as JSON")
    parser.add_argument("--track", metavar="MODULE:FUNCTION", help="called with (metrics, step) in the first process")
    arguments = parser.parse_args()
    end_with_parent()()
    first = os.environ.get("RANK", "0") == "0"
    track = pkgutil.resolve_name(arguments.track) if arguments.track and first else None
    try:
        job = TrainingJob.read(arguments.job)
    except ValueError as error:
        sys.exit(str(error))
    try:
        train(job, track)
    except Exception as error:
        if not is_refusal(error):
            raise
        sys.stderr.write(f"{error}\n")
        _leave_verdict(error, job)
        sys.exit(next((status for kind, status in _STATUSES.items() if isinstance(error, kind)), 1))
    if distributed.is_initialized():
        # At the interpreter's end it would sometimes abort, which the launcher counts as a failure.
        distributed.destroy_process_group()


def _leave_verdict(error: Exception, job: TrainingJob) -> None:
    """Write down for whatever started the launcher that no restart will help."""
    for kind, name in VERDICTS.items():
        if isinstance(error, kind):
            with write_file_atomically(job.output_folder / name, shared=True) as partial:
                partial.write_text(str(error), encoding="utf-8")


if __name__ == "__main__":
    main()
