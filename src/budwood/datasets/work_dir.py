"""Folders in which long nodes keep their state."""

import os
from pathlib import Path
from typing import Any, NoReturn

from kedro.io import AbstractDataset, DatasetError


class WorkDirDataset(AbstractDataset[None, Path]):
    """A folder for a node's own checkpoints: an input that always exists."""

    def __init__(self, *, filepath: str | os.PathLike[str], metadata: dict[str, Any] | None = None) -> None:
        """Point to the folder.

        Args:
            filepath: The work directory on a local file system.
            metadata: For plugins, as in every dataset.
        """
        self._filepath = Path(filepath)
        self.metadata = metadata

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

    def _describe(self) -> dict[str, Any]:
        return {"filepath": str(self._filepath)}
