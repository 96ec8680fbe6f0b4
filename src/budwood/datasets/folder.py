"""Folders put into place whole or not at all."""

import os
import shutil
from collections.abc import Collection, Sequence
from contextlib import suppress
from pathlib import Path

from budwood.records.files import check_links, write_folder_atomically

_LINKED_SUFFIXES = {".bin", ".parquet"}
"""Of tokens, of what a teacher has said, and of genes, which are written under another name and renamed."""


def place_folder(
    source: Path, target: Path, *, link: bool = False, homes: Collection[Path] = (), leave_out: Sequence[str] = ()
) -> None:
    """Put a copy of a folder without its hidden files into place, replacing what is there.

    A kill leaves the old target or none, never a mixture.

    Args:
        source: The folder to place; it stays.
        target: Where to place it; nothing happens when it is the source itself.
        link: Whether `.bin` and `.parquet` files become hard links where the file system allows, so that they take no
            space twice. Only for folders that budwood wrote in its workspace: damage reaches both.
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
    with write_folder_atomically(target) as partial:
        shutil.copytree(
            source,
            partial,
            copy_function=_link_or_copy if link else shutil.copyfile,
            dirs_exist_ok=True,
            ignore=shutil.ignore_patterns(".*", *leave_out),
        )


def _link_or_copy(source: str, target: str) -> None:
    """Hard-link a large file, or copy it where that is impossible."""
    if Path(source).suffix in _LINKED_SUFFIXES:
        with suppress(OSError):
            os.link(Path(source).resolve(), target)
            return
    shutil.copyfile(source, target)
