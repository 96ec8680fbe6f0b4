"""A teacher's words in the catalog."""

from budwood.datasets.folder import place_folder
from budwood.datasets.path import DescribedDataset
from budwood.training.cache import CACHE_INDEX, TeacherCache


class TeacherCacheDataset(DescribedDataset[TeacherCache, TeacherCache]):
    """A folder of entries of a teacher's distribution, memory-mapped on load."""

    index = CACHE_INDEX

    def load(self) -> TeacherCache:
        """Open the cache; its entries stay on disk until they are read."""
        return TeacherCache.open(self._filepath)

    def save(self, data: TeacherCache) -> None:
        """Put a cache that was written elsewhere into place (see `place_folder`)."""
        place_folder(data.folder, self._filepath)
