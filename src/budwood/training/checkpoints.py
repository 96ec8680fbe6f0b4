"""Checkpoints of a run: whole or not there, the newest few, and room for them."""

import os
import shutil
from pathlib import Path

from transformers.trainer_utils import PREFIX_CHECKPOINT_DIR

PARTIAL = "partial"
"""Folder in which checkpoints are written; a rename puts them into place."""
BYTES_PER_PARAMETER = 12
"""Of a checkpoint: weights and AdamW's two moments, all in float32."""
MODEL_BYTES_PER_PARAMETER = 4


def step_of(checkpoint: Path) -> int:
    """Return the optimiser step after which a checkpoint was taken."""
    return int(checkpoint.name.removeprefix(f"{PREFIX_CHECKPOINT_DIR}-"))


def newest_checkpoint(folder: Path | None, limit: int | None = None) -> Path | None:
    """Return the newest checkpoint of a folder, of those up to a step; none where there is none."""
    found = [] if folder is None else sorted(folder.glob(f"{PREFIX_CHECKPOINT_DIR}-*"), key=step_of)
    found = [checkpoint for checkpoint in found if limit is None or step_of(checkpoint) <= limit]
    return found[-1] if found else None


def place_checkpoint(folder: Path, step: int, kept: int) -> Path:
    """Rename a checkpoint out of `folder/partial`, and remove all but the newest few."""
    name = f"{PREFIX_CHECKPOINT_DIR}-{step}"
    placed = folder / name
    (folder / PARTIAL / name).rename(placed)
    for stale in sorted(folder.glob(f"{PREFIX_CHECKPOINT_DIR}-*"), key=step_of)[:-kept]:
        remove_checkpoint(stale)
    return placed


def remove_checkpoint(checkpoint: Path) -> None:
    """Remove a checkpoint; a kill meanwhile leaves nothing that could be taken for a whole one."""
    doomed = checkpoint.parent / PARTIAL / f"{checkpoint.name}.stale"
    shutil.rmtree(doomed, ignore_errors=True)
    doomed.parent.mkdir(exist_ok=True)
    checkpoint.rename(doomed)
    shutil.rmtree(doomed)


def keep_branch(checkpoint: Path, branch_folder: Path) -> None:
    """Put a second name of a checkpoint's files into a folder from which longer runs begin; it takes no space."""
    target, partial = branch_folder / checkpoint.name, branch_folder / PARTIAL / checkpoint.name
    if target.is_dir():
        return
    shutil.rmtree(partial, ignore_errors=True)
    shutil.copytree(checkpoint, partial, copy_function=_link_or_copy)
    partial.rename(target)


def _link_or_copy(source: str, target: str) -> None:
    try:
        os.link(source, target)
    except OSError:  # another file system
        shutil.copy2(source, target)


def require_space(folder: Path, num_parameters: int, kept: int) -> None:
    """Check that a run's checkpoints fit on the disk: those that are kept, the next one, and the trained model.

    Args:
        folder: where they go; what it holds already is made room of.
        num_parameters: of the model.
        kept: checkpoints that stay.

    Raises:
        OSError: there is too little space.
    """
    folder.mkdir(parents=True, exist_ok=True)
    there = sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())
    needed = num_parameters * ((kept + 1) * BYTES_PER_PARAMETER + MODEL_BYTES_PER_PARAMETER) - there
    free = shutil.disk_usage(folder).free
    if needed > free:
        raise OSError(
            f"{folder}: {kept + 1} checkpoints of {num_parameters:,} parameters and the trained model need another "
            f"{needed / 1e9:.2f} GB, {free / 1e9:.2f} GB are free; make room or lower engine.kept_checkpoints={kept}"
        )
