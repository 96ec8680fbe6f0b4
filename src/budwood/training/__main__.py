"""Train a job: `python -m budwood.training job.json`, once in every process that a launcher starts.

A run that SIGTERM stopped has saved its state and exits with 143; the same command continues it. A job that another
process is training exits with 75.
"""

import argparse
import os
import pkgutil
import sys
from pathlib import Path

from torch import distributed

from budwood.records.files import write_atomically
from budwood.records.locks import FolderInUseError
from budwood.training.job import TrainingJob
from budwood.training.launch import DIVERGED, end_with_parent
from budwood.training.run import TrainingStoppedError, train

_STOPPED = 143  # 128 + SIGTERM, as in shells
_IN_USE = 75  # EX_TEMPFAIL of sysexits.h


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
    except (TrainingStoppedError, FolderInUseError) as reason:
        sys.stderr.write(f"{reason}\n")
        sys.exit(_STOPPED if isinstance(reason, TrainingStoppedError) else _IN_USE)
    except FloatingPointError as error:
        write_atomically(job.output_folder / DIVERGED, str(error))
        raise
    if distributed.is_initialized():
        # At the interpreter's end it would sometimes abort, which the launcher counts as a failure.
        distributed.destroy_process_group()


if __name__ == "__main__":
    main()
