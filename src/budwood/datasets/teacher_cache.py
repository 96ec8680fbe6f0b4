"""A teacher's words in the catalog."""

import os
from pathlib import Path
from typing import Any

from kedro.io import AbstractDataset
from kedro_datasets._typing import JSONPreview

from budwood.datasets.folder import place_folder
from budwood.training.cache import INDEX, TeacherCache


class TeacherCacheDataset(AbstractDataset[TeacherCache, TeacherCache]):
    """A folder of entries of a teacher's distribution, memory-mapped on load."""

    def __init__(self, *, filepath: str | os.PathLike[str], metadata: dict[str, Any] | None = None) -> None:
        """Point to the folder.

        Args:
            filepath: The cache's folder on a local file system.
            metadata: For plugins, as in every dataset.
        """
        self._filepath = Path(filepath)
        self.metadata = metadata

    def load(self) -> TeacherCache:
        """Open the cache; its entries stay on disk until they are read."""
        return TeacherCache.open(self._filepath)

    def save(self, data: TeacherCache) -> None:
        """Put a cache that was written elsewhere into place (see `place_folder`)."""
        place_folder(data.folder, self._filepath)

    def preview(self) -> JSONPreview:
        """Show in Kedro-Viz what the cache is of."""
        return JSONPreview((self._filepath / INDEX).read_text(encoding="utf-8"))

    def _exists(self) -> bool:
        return (self._filepath / INDEX).is_file()

    def _describe(self) -> dict[str, Any]:
        return {"filepath": str(self._filepath)}
