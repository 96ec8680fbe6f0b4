"""When runs began that used a workspace, so that what none of them needs can be found."""

from datetime import UTC, datetime
from pathlib import Path

from budwood.records.files import append_json_lines, read_json_lines

RUNS = "runs.jsonl"
WORKSPACE = Path("02_intermediate", "workspace")
"""Where the work folders of all stages are, beneath the folder in which an environment keeps its data."""


def note_run(data_root: Path, started: datetime, *, whole: bool) -> None:
    """Note that a run has ended well, and whether it ran every node of a study."""
    folder = data_root / WORKSPACE
    folder.mkdir(parents=True, exist_ok=True)
    ended = datetime.now(UTC)
    append_json_lines(
        folder / RUNS, [{"started": started.isoformat(), "ended": ended.isoformat(), "whole": bool(whole)}]
    )


def newest_whole_run(data_root: Path) -> datetime | None:
    """Return when the newest run of a whole study began; None where none has ended yet.

    Raises:
        ValueError: the file of runs is damaged.
    """
    rows = read_json_lines(data_root / WORKSPACE / RUNS)
    return max((datetime.fromisoformat(row["started"]) for row in rows if row["whole"]), default=None)
