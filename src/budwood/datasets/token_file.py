"""Packed corpora in the catalog."""

from kedro_datasets._typing import JSONPreview

from budwood.corpus.packing import INDEX_FILE, TOKENS_FILE, PackedCorpus
from budwood.datasets.folder import place_folder
from budwood.datasets.path import PathDataset


class TokenFileDataset(PathDataset[PackedCorpus, PackedCorpus]):
    """A folder of tokens, memory-mapped on load."""

    def load(self) -> PackedCorpus:
        """Open the corpus; its tokens stay on disk until they are read."""
        return PackedCorpus.open(self._filepath)

    def save(self, data: PackedCorpus) -> None:
        """Put a corpus that was packed elsewhere into place (see `place_folder`)."""
        place_folder(data.folder, self._filepath)

    def preview(self) -> JSONPreview:
        """Show the index, with the tokens of every split and source, in Kedro-Viz."""
        return JSONPreview((self._filepath / INDEX_FILE).read_text(encoding="utf-8"))

    def _exists(self) -> bool:
        return all((self._filepath / name).is_file() for name in (INDEX_FILE, TOKENS_FILE))
