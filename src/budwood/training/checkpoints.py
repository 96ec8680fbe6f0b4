"""Checkpoints of a run: sealed, the newest few kept, and room for them."""

import logging
import re
import shutil
from pathlib import Path

from transformers.trainer_utils import PREFIX_CHECKPOINT_DIR

from budwood.records.files import link_or_copy, write_folder_atomically
from budwood.records.locks import FolderInUseError, holding
from budwood.records.seal import damage, seal

logger = logging.getLogger(__name__)

PARTIAL = "partial"
"""Folder in which the Trainer writes checkpoints, before they are put into place."""
BYTES_PER_PARAMETER = 12
"""Of a checkpoint: weights and AdamW's two moments, all in float32."""
MODEL_BYTES_PER_PARAMETER = 4
_NAME = re.compile(rf"{PREFIX_CHECKPOINT_DIR}-(\d+)")


def step_of(checkpoint: Path) -> int:
    """Return the optimiser step after which a checkpoint was taken."""
    return int(checkpoint.name.removeprefix(f"{PREFIX_CHECKPOINT_DIR}-"))


def checkpoints_of(folder: Path) -> list[Path]:
    """Return the checkpoints of a folder, by rising step."""
    return sorted((path for path in folder.glob("*") if _NAME.fullmatch(path.name)), key=step_of)


def whole_checkpoint(folder: Path | None, limit: int | None = None) -> Path | None:
    """Return the newest undamaged checkpoint of a folder, if there is one; the log names those that are damaged.

    Args:
        folder: of a run, or of the starts of longer runs.
        limit: the last step to consider; all without it.
    """
    for checkpoint in reversed([] if folder is None else checkpoints_of(folder)):
        if limit is not None and step_of(checkpoint) > limit:
            continue
        reason = damage(checkpoint)
        if reason is None:
            return checkpoint
        logger.warning("Passing over checkpoint %s: %s", checkpoint, reason)
    return None


def place_checkpoint(folder: Path, step: int, kept: int) -> Path:
    """Seal the checkpoint in `folder/partial`, put it into place, and keep only the newest few.

    Checkpoints of this step or later ones go: the run has passed them over as damaged.
    """
    written = folder / PARTIAL / f"{PREFIX_CHECKPOINT_DIR}-{step}"
    seal(written)
    for later in checkpoints_of(folder):
        if step_of(later) >= step:
            shutil.rmtree(later)
    placed = written.rename(folder / written.name)
    for stale in checkpoints_of(folder)[:-kept]:
        shutil.rmtree(stale)
    return placed


def keep_branch(checkpoint: Path, branch_folder: Path) -> None:
    """Keep a checkpoint as the start of longer runs; its files get second names, which take no space."""
    target = branch_folder / checkpoint.name
    try:
        with holding(branch_folder, f"keeping {checkpoint}"):
            if target.is_dir() and damage(target) is None:
                return
            with write_folder_atomically(target) as partial:
                shutil.copytree(checkpoint, partial, copy_function=link_or_copy, dirs_exist_ok=True)
    except FolderInUseError as error:
        # The run itself needs no branch.
        logger.warning("No longer run can begin with %s: %s", checkpoint, error)


def require_space(folder: Path, num_parameters: int, count: int) -> None:
    """Check that a run's checkpoints and the trained model fit on the disk.

    Raises:
        OSError: there is too little space.
    """
    folder.mkdir(parents=True, exist_ok=True)
    there = sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())
    needed = num_parameters * (count * BYTES_PER_PARAMETER + MODEL_BYTES_PER_PARAMETER) - there
    free = shutil.disk_usage(folder).free
    if needed > free:
        raise OSError(
            f"{folder}: {count} checkpoints of {num_parameters:,} parameters and the trained model need another "
            f"{needed / 1e9:.2f} GB, {free / 1e9:.2f} GB are free; make room, lower engine.kept_checkpoints, or raise "
            "schedule.checkpoint_steps"
        )
