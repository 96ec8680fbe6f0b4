"""Work folders that no recent run has used: `python -m budwood.study.prune data`."""

import argparse
import sys
from collections.abc import Sequence
from contextlib import nullcontext
from datetime import UTC, datetime, timedelta
from pathlib import Path

from budwood.arch.bytes import spell_bytes
from budwood.records.locks import holding
from budwood.records.runs import WORKSPACE, newest_whole_run
from budwood.study.stage import USED, Unused, remove, unused_since


def prune(data_root: Path, *, older_than_days: float | None = None, delete: bool = False) -> str:
    """Return which work folders are no longer used and what they take, having removed them where that is wanted.

    Args:
        data_root: folder in which an environment keeps its data, or that of a study in Python.
        older_than_days: since when a folder was not used; since the newest whole run began where this is not given.
        delete: whether they are removed.

    Raises:
        ValueError: there is no workspace, or no whole run has ended yet, which studies in Python do not note.
        FolderInUseError: a run is going on there.
    """
    workspace = _workspace(data_root)
    since = _since(data_root, older_than_days)
    with holding(data_root, "pruning") if delete else nullcontext():
        unused = unused_since(workspace, since)
        for each in unused if delete else ():
            remove(each)
    return _report(unused, since, deleted=delete)


def _workspace(data_root: Path) -> Path:
    """Return where the work folders are."""
    workspace = data_root / WORKSPACE
    if workspace.is_dir():
        return workspace
    if any(data_root.glob(f"*/{USED}")):
        return data_root  # of a study in Python
    raise ValueError(
        f"DATA_ROOT={data_root}: there is no {workspace}, and no work folder of a study in Python; name the folder "
        "where runs keep their data"
    )


def _since(data_root: Path, older_than_days: float | None) -> datetime:
    if older_than_days is not None:
        return datetime.now(UTC) - timedelta(days=older_than_days)
    newest = newest_whole_run(data_root)
    if newest is None:
        raise ValueError(
            f"DATA_ROOT={data_root}: no whole run has ended there yet, so all may still be needed; give "
            "--older-than-days to remove some all the same"
        )
    return newest


def _report(unused: Sequence[Unused], since: datetime, *, deleted: bool) -> str:
    day = f"{since:%Y-%m-%d %H:%M} UTC"
    if not unused:
        return f"Every work folder was used since {day}; there is nothing to remove."
    rows = [f"{spell_bytes(each.num_bytes):>10}  {each.last_used:%Y-%m-%d}  {each.folder}" for each in unused]
    total = f"{len(unused)} work folders with {spell_bytes(sum(each.num_bytes for each in unused))}"
    end = f"Removed {total}." if deleted else f"{total} would be removed; nothing was yet. Add --yes to remove them."
    return "\n".join([f"Not used since {day}, by size, with the day of the last use:", *rows, end])


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command."""
    parser = argparse.ArgumentParser(prog="python -m budwood.study.prune", description=__doc__)
    parser.add_argument(
        "data_root",
        type=Path,
        help="folder in which an environment keeps its data, such as data, or that of a study in Python",
    )
    parser.add_argument(
        "--older-than-days",
        type=float,
        metavar="N",
        help="what was not used for so long; default: not since the newest whole run began",
    )
    parser.add_argument("--yes", action="store_true", help="remove; without, only list")
    given = parser.parse_args(arguments)
    try:
        found = prune(given.data_root, older_than_days=given.older_than_days, delete=given.yes)
    except (ValueError, RuntimeError) as error:
        parser.exit(1, f"{error}\n")
    sys.stdout.write(f"{found}\n")


if __name__ == "__main__":
    main()
