"""Packed corpora in the catalog."""

import os
from pathlib import Path
from typing import Any

from kedro.io import AbstractDataset
from kedro_datasets._typing import JSONPreview

from budwood.corpus.packing import INDEX_FILE, TOKENS_FILE, PackedCorpus
from budwood.datasets.folder import place_folder


class TokenFileDataset(AbstractDataset[PackedCorpus, PackedCorpus]):
    """A folder of tokens, memory-mapped on load."""

    def __init__(self, *, filepath: str | os.PathLike[str], metadata: dict[str, Any] | None = None) -> None:
        """Point to the folder.

        Args:
            filepath: The corpus's folder on a local file system.
            metadata: For plugins, as in every dataset.
        """
        self._filepath = Path(filepath)
        self.metadata = metadata

    def load(self) -> PackedCorpus:
        """Open the corpus; its tokens stay on disk until they are read."""
        return PackedCorpus.open(self._filepath)

    def save(self, data: PackedCorpus) -> None:
        """Put a corpus that was packed elsewhere into place (see `place_folder`)."""
        place_folder(data.directory, self._filepath)

    def preview(self) -> JSONPreview:
        """Show the index, with the tokens of every split and source, in Kedro-Viz."""
        return JSONPreview((self._filepath / INDEX_FILE).read_text(encoding="utf-8"))

    def _exists(self) -> bool:
        return all((self._filepath / name).is_file() for name in (INDEX_FILE, TOKENS_FILE))

    def _describe(self) -> dict[str, Any]:
        return {"filepath": str(self._filepath)}
