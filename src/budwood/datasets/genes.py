"""What the candidates of a search keep, in the catalog."""

import os
from pathlib import Path
from typing import Any

from kedro.io import AbstractDataset

from budwood.datasets.folder import place_folder
from budwood.search.genes import Genes


class GenesDataset(AbstractDataset[Genes, Genes]):
    """A folder of selections, read one at a time."""

    def __init__(self, *, filepath: str | os.PathLike[str], metadata: dict[str, Any] | None = None) -> None:
        """Point to the folder.

        Args:
            filepath: The folder on a local file system.
            metadata: For plugins, as in every dataset.
        """
        self._filepath = Path(filepath)
        self.metadata = metadata

    def load(self) -> Genes:
        """Open the folder; selections stay on disk until they are read."""
        return Genes.open(self._filepath)

    def save(self, data: Genes) -> None:
        """Put what a search has written into place (see `place_folder`)."""
        place_folder(data.folder, self._filepath, link=True)

    def _exists(self) -> bool:
        return self._filepath.is_dir()

    def _describe(self) -> dict[str, Any]:
        return {"filepath": str(self._filepath)}
