"""Folders in which long nodes keep their state."""

from pathlib import Path
from typing import NoReturn

from kedro.io import DatasetError

from budwood.datasets.path import PathDataset


class WorkDirDataset(PathDataset[None, Path]):
    """A folder for a node's own checkpoints: an input that always exists."""

    def load(self) -> Path:
        """Make the folder where it is missing, and name it."""
        self._filepath.mkdir(parents=True, exist_ok=True)
        return self._filepath

    def save(self, data: None) -> NoReturn:  # noqa: ARG002 - the name is Kedro's
        """Refuse: nodes write into the folder themselves.

        Raises:
            DatasetError: always.
        """
        raise DatasetError(f"{self._filepath} is a work directory: only an input, never an output")

    def _exists(self) -> bool:
        return True
