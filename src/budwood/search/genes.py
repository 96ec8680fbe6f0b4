"""What every candidate of a search keeps, on disk: a fine one of a large teacher has hundreds of thousands of indices.

A Parquet file for every generation, in which every candidate is a row group of its own, so that one is read without the
others. A prefix is stored as its length, negated.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import pyarrow as pa
import pyarrow.parquet as pq

from budwood.arch.selection import LAYER_AXES, Indices, LayerSelection, Selection
from budwood.records.files import write_file_atomically
from budwood.records.hashes import fingerprint_folder

_INDICES = pa.list_(pa.int32())
_LAYER = pa.struct([("layer", pa.int32()), *((axis, _INDICES) for axis in LAYER_AXES)])
SCHEMA = pa.schema([("evaluation", pa.int64()), ("hidden", _INDICES), ("layers", pa.list_(_LAYER))])
# Bytes of one place together: the upper two of an index are zeros.
FORMAT: dict[str, Any] = {
    "row_group_size": 1,
    "compression": "zstd",
    "use_dictionary": False,
    "use_byte_stream_split": True,
}


@dataclass(frozen=True, slots=True)
class Genes:
    """The selections of all candidates of a search, by their number in its history."""

    folder: Path

    @classmethod
    def open(cls, folder: Path) -> Self:
        """Return what a search has written.

        Raises:
            ValueError: there is nothing.
        """
        genes = cls(folder)
        if not genes._files():
            raise ValueError(f"{folder} has no genes of a search")
        return genes

    @property
    def fingerprint(self) -> str:
        """Distinguishes these selections from others."""
        return fingerprint_folder(self.folder, "*.parquet")

    def write(self, first: int, selections: Sequence[Selection]) -> None:
        """Write down a generation, unless a search that was interrupted has done so."""
        file = self.folder / f"{first:08d}.parquet"
        if file.exists():
            return
        with write_file_atomically(file) as partial:
            pq.write_table(_table(first, selections), partial, **FORMAT)

    def read(self, evaluation: int) -> Selection:
        """Return what one candidate keeps.

        Raises:
            ValueError: the search has no candidate of this number.
        """
        found = [file for file in self._files() if int(file.stem) <= evaluation]
        opened = pq.ParquetFile(found[-1]) if found and evaluation >= 0 else None
        place = evaluation - int(found[-1].stem) if found else 0
        if opened is None or place >= opened.num_row_groups:
            raise ValueError(f"evaluation={evaluation}: {self.folder} has no candidate of this number")
        (row,) = opened.read_row_group(place).to_pylist()
        layers = (
            LayerSelection(layer=layer["layer"], **{axis: _from_stored(layer[axis]) for axis in LAYER_AXES})
            for layer in row["layers"]
        )
        return Selection(hidden=_from_stored(row["hidden"]), layers=tuple(layers))

    def _files(self) -> list[Path]:
        return sorted(self.folder.glob("*.parquet"))


def stored_bytes(selections: Sequence[Selection]) -> int:
    """Return what selections take on disk."""
    sink = pa.BufferOutputStream()
    pq.write_table(_table(0, selections), sink, **FORMAT)
    return int(sink.getvalue().size)


def _table(first: int, selections: Sequence[Selection]) -> pa.Table:
    rows: list[dict[str, Any]] = [
        {
            "evaluation": first + place,
            "hidden": _to_stored(selection.hidden),
            "layers": [
                {"layer": layer.layer, **{axis: _to_stored(getattr(layer, axis)) for axis in LAYER_AXES}}
                for layer in selection.layers
            ],
        }
        for place, selection in enumerate(selections)
    ]
    return pa.Table.from_pylist(rows, schema=SCHEMA)


def _to_stored(indices: Indices) -> Sequence[int]:
    return [-len(indices)] if isinstance(indices, range) else indices


def _from_stored(indices: list[int]) -> Indices:
    return range(-indices[0]) if indices[0] < 0 else tuple(indices)
