"""Folders put into place whole or not at all."""

import os
import shutil
from contextlib import suppress
from pathlib import Path

# Safetensors and the corpus write these under another name and rename them. `save_pretrained` rewrites configurations
# and tokenizers in place, which would reach through a link into the other folder.
_LINKED_SUFFIXES = {".safetensors", ".bin"}


def place_folder(source: Path, target: Path) -> None:
    """Put a copy of a folder into place, replacing what is there.

    Weights and tokens become hard links where the file system allows, so that they take no space twice: replace such a
    file, never write into it. Everything else is copied. Symbolic links (as in snapshots of the hub) are followed. A
    kill leaves the old target or none, never a mixture.

    Args:
        source: The folder to place; it stays.
        target: Where to place it; nothing happens when it is the source itself.

    Raises:
        NotADirectoryError: `source` is no folder.
        ValueError: `target` lies inside `source`.
    """
    source, target = source.resolve(), target.resolve()
    if not source.is_dir():
        raise NotADirectoryError(f"source={source} is not a folder")
    if source == target:
        return
    if target.is_relative_to(source):
        raise ValueError(f"target={target} must not lie inside source={source}")
    partial, replaced = (target.with_name(f"{target.name}.{state}") for state in ("partial", "replaced"))
    for left_over in (partial, replaced):
        shutil.rmtree(left_over, ignore_errors=True)
    shutil.copytree(source, partial, copy_function=_link_or_copy)
    # Renamed before it is deleted: a half-deleted folder could still look whole.
    if target.exists():
        target.rename(replaced)
    partial.rename(target)
    shutil.rmtree(replaced, ignore_errors=True)


def _link_or_copy(source: str, target: str) -> None:
    """Hard-link the file behind `source` if it is a large one, or copy it where that is impossible."""
    if Path(source).suffix in _LINKED_SUFFIXES:
        with suppress(OSError):
            os.link(Path(source).resolve(), target)
            return
    shutil.copy2(source, target)
