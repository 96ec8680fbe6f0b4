"""Folders that `from_pretrained` opens."""

from pathlib import Path

from kedro.io import DatasetError

from budwood.datasets.folder import place_folder
from budwood.datasets.path import DescribedDataset
from budwood.models.checkpoint import Checkpoint
from budwood.models.fingerprint import homes_of_weights
from budwood.models.kind import CONFIG
from budwood.models.weights import PICKLES
from budwood.records.files import write_atomically
from budwood.records.seal import SEAL


class HFCheckpointDataset(DescribedDataset[Checkpoint, Checkpoint]):
    """A Hugging Face checkpoint, described and never a live model."""

    index = CONFIG

    def load(self) -> Checkpoint:
        """Open the checkpoint; its weights stay on disk.

        Raises:
            DatasetError: there is no checkpoint, or its files are no longer those that were saved.
        """
        if not self._exists():
            raise DatasetError(f"{self._filepath} is no checkpoint: it has no {CONFIG}")
        found = Checkpoint.open(self._filepath)
        if self._note.is_file() and self._note.read_text(encoding="utf-8") != found.fingerprint:
            raise DatasetError(
                f"{self._filepath.resolve()} has changed since it was written; remove it and run again to rebuild it"
            )
        return found

    def save(self, data: Checkpoint) -> None:
        """Put a checkpoint that was written elsewhere into place (see `place_folder`), without pickles beside it."""
        self._note.unlink(missing_ok=True)
        place_folder(data.folder, self._filepath, homes=homes_of_weights(data.folder), leave_out=(*PICKLES, SEAL))
        write_atomically(self._note, data.fingerprint)

    @property
    def _note(self) -> Path:
        """The fingerprint of what was saved."""
        return self._filepath.with_name(f"{self._filepath.name}.fingerprint")
