"""A teacher's words in the catalog."""

from kedro_datasets._typing import JSONPreview

from budwood.datasets.folder import place_folder
from budwood.datasets.path import PathDataset
from budwood.training.cache import CACHE_INDEX, TeacherCache


class TeacherCacheDataset(PathDataset[TeacherCache, TeacherCache]):
    """A folder of entries of a teacher's distribution, memory-mapped on load."""

    def load(self) -> TeacherCache:
        """Open the cache; its entries stay on disk until they are read."""
        return TeacherCache.open(self._filepath)

    def save(self, data: TeacherCache) -> None:
        """Put a cache that was written elsewhere into place (see `place_folder`)."""
        place_folder(data.folder, self._filepath)

    def preview(self) -> JSONPreview:
        """Show in Kedro-Viz what the cache is of."""
        return JSONPreview((self._filepath / CACHE_INDEX).read_text(encoding="utf-8"))

    def _exists(self) -> bool:
        return (self._filepath / CACHE_INDEX).is_file()
