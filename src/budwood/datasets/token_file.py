"""Packed corpora in the catalog."""

from budwood.corpus.packing import INDEX_FILE, TOKENS_FILE, PackedCorpus
from budwood.datasets.folder import place_folder
from budwood.datasets.path import DescribedDataset


class TokenFileDataset(DescribedDataset[PackedCorpus, PackedCorpus]):
    """A folder of tokens, memory-mapped on load."""

    index = INDEX_FILE

    def load(self) -> PackedCorpus:
        """Open the corpus; its tokens stay on disk until they are read."""
        return PackedCorpus.open(self._filepath)

    def save(self, data: PackedCorpus) -> None:
        """Put a corpus that was packed elsewhere into place (see `place_folder`)."""
        place_folder(data.folder, self._filepath)

    def _exists(self) -> bool:
        return super()._exists() and (self._filepath / TOKENS_FILE).is_file()
