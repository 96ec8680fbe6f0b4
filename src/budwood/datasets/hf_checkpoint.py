"""Folders that `from_pretrained` opens."""

import os
from pathlib import Path
from typing import Any

from kedro.io import AbstractDataset, DatasetError
from kedro_datasets._typing import JSONPreview

from budwood.datasets.folder import place_folder

_CONFIG_FILE = "config.json"


class HFCheckpointDataset(AbstractDataset[Path, Path]):
    """A Hugging Face checkpoint, handed between nodes as its folder and never as a live model."""

    def __init__(self, *, filepath: str | os.PathLike[str], metadata: dict[str, Any] | None = None) -> None:
        """Point to the folder.

        Args:
            filepath: The checkpoint's folder on a local file system.
            metadata: For plugins, as in every dataset.
        """
        self._filepath = Path(filepath)
        self.metadata = metadata

    def load(self) -> Path:
        """Name the checkpoint's folder.

        Raises:
            DatasetError: there is no checkpoint.
        """
        if not self._exists():
            raise DatasetError(f"{self._filepath} is no checkpoint: it has no {_CONFIG_FILE}")
        return self._filepath

    def save(self, data: Path) -> None:
        """Put a checkpoint that was written elsewhere into place (see `place_folder`).

        Args:
            data: A folder with a `config.json`: from a work directory or a snapshot of the hub.

        Raises:
            DatasetError: `data` is no checkpoint.
        """
        if not (Path(data) / _CONFIG_FILE).is_file():
            raise DatasetError(f"{data} is no checkpoint: it has no {_CONFIG_FILE}")
        place_folder(Path(data), self._filepath)

    def preview(self) -> JSONPreview:
        """Show the checkpoint's configuration in Kedro-Viz."""
        return JSONPreview((self._filepath / _CONFIG_FILE).read_text(encoding="utf-8"))

    def _exists(self) -> bool:
        return (self._filepath / _CONFIG_FILE).is_file()

    def _describe(self) -> dict[str, Any]:
        return {"filepath": str(self._filepath)}
