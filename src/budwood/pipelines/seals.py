"""Every file of the catalog carries its hash, so that a node reads what an earlier one has written or nothing."""

from pathlib import Path

from kedro.framework.hooks import hook_impl
from kedro.io import DataCatalog

from budwood.records.files import write_atomically
from budwood.records.hashes import hash_file


class SealHook:
    """Writes the hash of every file beside it, and compares it before a node reads the file.

    Folders have hashes of their own. A file without a hash is the user's, or was written by another tool.
    """

    def __init__(self) -> None:
        """Begin without a catalog."""
        self._catalog: DataCatalog | None = None

    @hook_impl
    def after_catalog_created(self, catalog: DataCatalog) -> None:
        """Keep the catalog: it says where datasets are."""
        self._catalog = catalog

    @hook_impl
    def before_dataset_saved(self, dataset_name: str) -> None:
        """Note that a file is being written."""
        file = self._file_of(dataset_name)
        if file is not None and not file.is_dir():
            write_atomically(seal_of(file), "")

    @hook_impl
    def after_dataset_saved(self, dataset_name: str) -> None:
        """Write a file's hash."""
        file = self._file_of(dataset_name)
        if file is None:
            return
        if file.is_file():
            write_atomically(seal_of(file), hash_file(file))
        else:
            seal_of(file).unlink(missing_ok=True)

    @hook_impl
    def before_dataset_loaded(self, dataset_name: str) -> None:
        """Compare a file with its hash.

        Raises:
            ValueError: they differ.
        """
        file = self._file_of(dataset_name)
        if file is None or not file.is_file() or not seal_of(file).is_file():
            return
        written = seal_of(file).read_text(encoding="utf-8")
        if written != hash_file(file):
            reason = "has changed since it was written" if written else "was not written to its end"
            raise ValueError(f"{file.absolute()} {reason}: remove it and run again to rebuild it")

    def _file_of(self, dataset_name: str) -> Path | None:
        """Return where a dataset is; Kedro has no public name for it."""
        assert self._catalog is not None, "nodes run after the catalog was made"
        path = getattr(self._catalog.get(dataset_name), "_filepath", None)
        return None if path is None else Path(str(path))


def seal_of(file: Path) -> Path:
    """Return where the hash of a file is."""
    return file.with_name(f".{file.name}.sha256")
