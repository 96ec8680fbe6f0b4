"""Records in the catalog."""

from typing import Any

from budwood.datasets.path import DescribedDataset
from budwood.records.form import read_records, write_records


class RecordDataset(DescribedDataset[Any, Any]):
    """A typed record, or a list of them, as JSON that says what it is and in which version of the schema."""

    def load(self) -> Any:
        """Return the record, or the list.

        Raises:
            ValueError: the file is damaged, or was written in another version of the schema.
        """
        return read_records(self._filepath)

    def save(self, data: Any) -> None:
        """Write the record, or the list, whole or not at all."""
        write_records(self._filepath, data)
