"""What all datasets at one path share."""

import os
from pathlib import Path
from typing import Any, ClassVar, TypeVar

from kedro.io import AbstractDataset
from kedro_datasets._typing import JSONPreview

Saved = TypeVar("Saved")
Loaded = TypeVar("Loaded")


class PathDataset(AbstractDataset[Saved, Loaded]):
    """A file or a folder on a local file system."""

    def __init__(self, *, filepath: str | os.PathLike[str], metadata: dict[str, Any] | None = None) -> None:
        """Point to it."""
        self._filepath = Path(filepath)
        self.metadata = metadata

    def _describe(self) -> dict[str, Any]:
        return {"filepath": str(self._filepath)}


class DescribedDataset(PathDataset[Saved, Loaded]):
    """A JSON file, or a folder that one describes; Kedro-Viz shows it."""

    index: ClassVar[str] = ""
    """Name of that file in its folder; empty for a file by itself."""

    def preview(self) -> JSONPreview:
        """Show the file."""
        return JSONPreview((self._filepath / self.index).read_text(encoding="utf-8"))

    def _exists(self) -> bool:
        return (self._filepath / self.index).is_file()
