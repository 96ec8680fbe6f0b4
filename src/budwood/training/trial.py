"""What a launcher starts when it is tried: `python -m budwood.training.trial FOLDER DEVICE`, in every process.

The first process writes down how many there are, and the first of every machine whether it has a device for each of
its own.
"""

import os
import sys
from pathlib import Path

COUNT = "processes.txt"
REFUSED = "refused-{rank}.txt"


def try_process(folder: Path, device: str) -> None:
    """Write what the driver has to know of this process, if anything.

    Args:
        folder: of the trial, seen by all nodes.
        device: where the study trains; `cpu` is shared by any number of processes.
    """
    rank = os.environ.get("RANK", "0")
    if rank == "0":
        (folder / COUNT).write_text(os.environ.get("WORLD_SIZE", "1"), encoding="utf-8")
    if device == "cuda" and os.environ.get("LOCAL_RANK", "0") == "0":
        from budwood.models.device import require_device_for_each  # noqa: PLC0415 - imports torch, for seconds

        try:
            require_device_for_each(int(os.environ.get("LOCAL_WORLD_SIZE", "1")))
        except ValueError as error:
            (folder / REFUSED.format(rank=rank)).write_text(str(error), encoding="utf-8")


if __name__ == "__main__":
    try_process(Path(sys.argv[1]), sys.argv[2])
