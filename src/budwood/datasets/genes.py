"""What the candidates of a search keep, in the catalog."""

from budwood.datasets.folder import place_folder
from budwood.datasets.path import PathDataset
from budwood.search.genes import Genes


class GenesDataset(PathDataset[Genes, Genes]):
    """A folder of selections, read one at a time."""

    def load(self) -> Genes:
        """Open the folder; selections stay on disk until they are read."""
        return Genes.open(self._filepath)

    def save(self, data: Genes) -> None:
        """Put what a search has written into place (see `place_folder`)."""
        place_folder(data.folder, self._filepath)

    def _exists(self) -> bool:
        return self._filepath.is_dir()
