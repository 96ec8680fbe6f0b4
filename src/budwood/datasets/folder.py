"""Folders put into place whole or not at all."""

import shutil
from collections.abc import Collection, Sequence
from pathlib import Path

from budwood.records.files import check_links, link_large, write_folder_atomically
from budwood.records.runs import WORKSPACE


def place_folder(source: Path, target: Path, *, homes: Collection[Path] = (), leave_out: Sequence[str] = ()) -> None:
    """Put a copy of a folder without its hidden files into place, replacing what is there.

    A kill leaves the old target or none, never a mixture. What comes from the workspace of the same data folder is
    linked where it is large, so that it takes no space twice. The user's own files are copied.

    Args:
        source: The folder to place; it stays.
        target: Where to place it; nothing happens when it is the source itself.
        homes: Folders into which links are followed.
        leave_out: Patterns of names that are not copied.

    Raises:
        NotADirectoryError: `source` is no folder.
        ValueError: `target` lies inside `source`, or a file of it is a link that leads elsewhere.
    """
    source, target = source.resolve(), target.resolve()
    if not source.is_dir():
        raise NotADirectoryError(f"source={source} is not a folder")
    if source == target:
        return
    if target.is_relative_to(source):
        raise ValueError(f"target={target} must not lie inside source={source}")
    check_links(source, homes)
    own = any(source.is_relative_to(root / WORKSPACE) for root in target.parents)
    with write_folder_atomically(target) as partial:
        shutil.copytree(
            source,
            partial,
            copy_function=link_large if own else shutil.copyfile,
            dirs_exist_ok=True,
            ignore=shutil.ignore_patterns(".*", *leave_out),
        )
