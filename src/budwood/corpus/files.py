"""Local files: rows read one at a time from any row on, and text written whole or not at all."""

import io
import json
from collections.abc import Callable, Iterator
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

Row = tuple[str, object, float]
"""Place in the file, content, and the share of the file that is read after it."""

SUFFIXES = {
    "text": (".txt",),
    "jsonl": (".jsonl", ".jsonl.gz", ".jsonl.bz2", ".jsonl.zst", ".jsonl.zstd"),
    "parquet": (".parquet",),
    "json_mapping": (".json",),
}
"""The formats, and the files of each that a folder stands for."""

UNREADABLE = (OSError, EOFError, UnicodeError, json.JSONDecodeError, pa.ArrowException)
"""What damaged files raise."""

_COMPRESSIONS = {".gz": "gzip", ".bz2": "bz2", ".zst": "zstd", ".zstd": "zstd"}
_PARQUET_BATCH_ROWS = 1024


def read_rows(file: Path, file_format: str, text_field: str, skip: int) -> Iterator[Row]:
    """Read a file's rows without the first `skip`, in their order.

    Args:
        file: Of any size; only `json_mapping` and `text` are read whole.
        file_format: A key of `SUFFIXES`.
        text_field: The field that holds the text; other columns of parquet files are not read.
        skip: Rows to leave out; they are passed over without being parsed where the format allows it.

    Raises:
        ValueError: a `json_mapping` holds no object, or one of `UNREADABLE`: the file is damaged.
    """
    return _READERS[file_format](file, text_field, skip)


def _text_rows(file: Path, text_field: str, skip: int) -> Iterator[Row]:
    """The one row of a text file."""
    if not skip:
        yield "", {text_field: file.read_text(encoding="utf-8")}, 1.0


def _jsonl_rows(file: Path, text_field: str, skip: int) -> Iterator[Row]:
    """A row per line, numbered from 1; blank lines are rows without text."""
    size = file.stat().st_size
    with file.open("rb") as raw:
        codec = _COMPRESSIONS.get(file.suffix)
        lines = io.BufferedReader(pa.CompressedInputStream(raw, codec)) if codec else raw
        for number, line in enumerate(lines, start=1):
            if number > skip:
                yield str(number), json.loads(line) if line.strip() else {text_field: None}, raw.tell() / size


def _parquet_rows(file: Path, text_field: str, skip: int) -> Iterator[Row]:
    """Rows with the text column only; with all columns where it is missing, so that the error can name them."""
    with pq.ParquetFile(file) as table:
        columns = [text_field] if text_field in table.schema_arrow.names else None
        group = number = 0
        while group < table.num_row_groups and number + table.metadata.row_group(group).num_rows <= skip:
            number += table.metadata.row_group(group).num_rows
            group += 1
        groups = range(group, table.num_row_groups)
        for batch in table.iter_batches(batch_size=_PARQUET_BATCH_ROWS, row_groups=groups, columns=columns):
            for row in batch.to_pylist():
                number += 1
                if number > skip:
                    yield str(number - 1), row, number / table.metadata.num_rows


def _mapping_rows(file: Path, text_field: str, skip: int) -> Iterator[Row]:
    """A row per entry of the one JSON object in a file, by its key."""
    del text_field
    mapping = json.loads(file.read_bytes())
    if not isinstance(mapping, dict):
        raise ValueError(  # noqa: TRY004 - the data is wrong, not the caller's type
            f"format='json_mapping' needs a JSON object in {file}, got {type(mapping).__name__}"
        )
    for number, (key, row) in enumerate(mapping.items(), start=1):
        if number > skip:
            yield key, row, number / len(mapping)


_READERS: dict[str, Callable[[Path, str, int], Iterator[Row]]] = {
    "text": _text_rows,
    "jsonl": _jsonl_rows,
    "parquet": _parquet_rows,
    "json_mapping": _mapping_rows,
}
