"""What all datasets at one path share."""

import os
from pathlib import Path
from typing import Any, TypeVar

from kedro.io import AbstractDataset

Saved = TypeVar("Saved")
Loaded = TypeVar("Loaded")


class PathDataset(AbstractDataset[Saved, Loaded]):
    """A file or a folder on a local file system."""

    def __init__(self, *, filepath: str | os.PathLike[str], metadata: dict[str, Any] | None = None) -> None:
        """Point to it.

        Args:
            filepath: The file or the folder.
            metadata: For plugins, as in every dataset.
        """
        self._filepath = Path(filepath)
        self.metadata = metadata

    def _describe(self) -> dict[str, Any]:
        return {"filepath": str(self._filepath)}
