"""Files of text, here or behind a URL: found by path, and read one row at a time from any row on."""

import csv
import io
import json
import lzma
import re
import sys
from codecs import BOM_UTF8, BOM_UTF16_BE, BOM_UTF16_LE
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import islice
from pathlib import PurePosixPath
from typing import TYPE_CHECKING, Any, BinaryIO, cast

import fsspec
import pyarrow as pa
import pyarrow.parquet as pq
from fsspec.implementations.local import LocalFileSystem

from budwood.corpus.settings import Format

if TYPE_CHECKING:
    import _csv

SUFFIXES: dict[Format, tuple[str, ...]] = {
    "text": (".txt",),
    "lines": (".txt",),
    "jsonl": (".jsonl", ".ndjson"),
    "csv": (".csv",),
    "parquet": (".parquet",),
    "json": (".json",),
}
"""The formats, and the files of each that a folder means; all but parquet may be compressed too."""


class DamagedError(ValueError):
    """A file whose rows cannot be separated."""


UNREADABLE = (OSError, EOFError, lzma.LZMAError, csv.Error, pa.ArrowException, DamagedError)
"""What damaged files raise."""

_COMPRESSIONS = {".gz": "gzip", ".bz2": "bz2", ".xz": "xz", ".zst": "zstd", ".zstd": "zstd"}
_PARQUET_BATCH_ROWS = 1024
_WILDCARD = re.compile(r"[*?\[]")
_LISTED_SUFFIXES = 5
_LAYOUT_LINES = 20


@dataclass(frozen=True, slots=True)
class File:
    """A file, wherever it is."""

    system: fsspec.AbstractFileSystem
    path: str
    size: int
    stamp: str
    """Changes when the file does: its date, or what its file system offers instead."""

    @property
    def url(self) -> str:
        """The path of a local file; of others with the protocol in front."""
        return self.path if isinstance(self.system, LocalFileSystem) else self.system.unstrip_protocol(self.path)


@dataclass(frozen=True, slots=True)
class Unreadable:
    """Takes the place of a row that cannot be read, where the rows after it can."""

    reason: str


Row = tuple[str, object, float]
"""Place in the file, content or `Unreadable`, and the share of the file that is read after it."""


def find_files(path: str, file_format: Format) -> list[File]:
    """Find the files that a path means, in the order of their names.

    Args:
        path: An absolute path or a URL, of a file, a folder or a glob. Below a folder, and where a glob has wildcards,
            hidden files and folders are left out.
        file_format: Of a folder, the files with its suffixes are taken.

    Raises:
        ValueError: there is none; the message lists what is there instead, and what is accepted. Or all are to be
            read as text and named as files of another format.
        ImportError: the package for the URL's protocol is not installed.
    """
    system, place = fsspec.url_to_fs(path)
    accepted = suffixes(file_format)
    if system.isdir(place):
        present = [found for found in system.find(place) if _is_visible(found, place)]
        names = [found for found in present if found.endswith(accepted)]
        if not names:
            held = Counter(PurePosixPath(found).suffix or "files without a suffix" for found in present)
            listed = ", ".join(f"{count} {suffix}" for suffix, count in held.most_common(_LISTED_SUFFIXES))
            raise ValueError(
                f"the folder {path} has no file of format={file_format!r}: it has {listed or 'no files'}, and "
                f"{', '.join(accepted)} are accepted; a file or a glob may have any name"
            )
    elif system.isfile(place):
        names = [place]
    else:
        fixed = _WILDCARD.split(place)[0].rpartition("/")[0]
        names = [found for found in system.glob(place) if _is_visible(found, fixed) and system.isfile(found)]
        if not names:
            raise ValueError(f"no file is found at {path}")
    if SUFFIXES[file_format] == SUFFIXES["text"]:
        _refuse_structured(path, names, file_format)
    return [_describe(system, name) for name in sorted(names, key=lambda name: PurePosixPath(name).parts)]


def suffixes(file_format: Format) -> tuple[str, ...]:
    """Return how the names of a format's files may end."""
    stems = SUFFIXES[file_format]
    packed = () if file_format == "parquet" else tuple(_COMPRESSIONS)
    return (*stems, *(stem + ending for stem in stems for ending in packed))


def _refuse_structured(path: str, names: list[str], file_format: Format) -> None:
    """Refuse to read as plain text what is named as rows or entries throughout."""
    for other, stems in SUFFIXES.items():
        if stems != SUFFIXES[file_format] and all(name.endswith(suffixes(other)) for name in names):
            raise ValueError(
                f"{path} is format={other!r} by its name, and format={file_format!r} would read the markup too"
            )


def find_layout(file: File) -> Format | None:
    """Return the format of a `.json` file as `datasets` takes it: lines or an array; None for one object over lines.

    Raises:
        Exception: one of `UNREADABLE`: the file is damaged.
    """
    with _opened(file) as (lines, _):
        first = list(islice(filter(None, map(bytes.strip, lines)), _LAYOUT_LINES))
    if first and first[0].removeprefix(BOM_UTF8).startswith(b"["):
        return "json"
    return "jsonl" if any(isinstance(_parse(line.removeprefix(BOM_UTF8)), dict) for line in first) else None


def find_undecodable(file: File) -> int | None:
    """Return the number of the first line of a file that is no UTF-8, from 1."""
    with _opened(file) as (lines, _):
        for number, line in enumerate(lines, start=1):
            try:
                line.decode()
            except UnicodeDecodeError:
                return number
    return None


def printable(text: str) -> str:
    """Return a text with halves of surrogate pairs spelt out; names have them where they are no UTF-8."""
    return text.encode(errors="backslashreplace").decode()


def read_rows(file: File, file_format: Format, text_field: str, skip: int) -> Iterator[Row]:
    """Read a file's rows without the first `skip`, in their order.

    Args:
        file: Of any size; only `json` and `text` are read whole.
        file_format: A key of `SUFFIXES`.
        text_field: The field with the text; other columns of parquet files are not read.
        skip: Rows to leave out; they are passed over without being parsed where the format allows it.

    Raises:
        Exception: one of `UNREADABLE`: the file is damaged.
    """
    return _READERS[file_format](file, text_field, skip)


def _is_visible(path: str, place: str) -> bool:
    """Whether no part of a path below a place begins with a dot."""
    return not any(part.startswith(".") for part in PurePosixPath(path[len(place) :]).parts)


def _describe(system: fsspec.AbstractFileSystem, path: str) -> File:
    info = system.info(path)
    return File(system, path, int(info["size"]), str(info.get("mtime") or system.ukey(path)))


@contextmanager
def _opened(file: File) -> Iterator[tuple[BinaryIO, BinaryIO]]:
    """Open a file; give its bytes without compression, and as they are stored."""
    with file.system.open(file.path, "rb") as raw:
        codec = _COMPRESSIONS.get(PurePosixPath(file.path).suffix)
        if codec is None:
            yield raw, raw
        elif not file.size:
            raise EOFError("it is empty, which a compressed file never is")
        elif codec == "xz":
            with lzma.LZMAFile(raw) as unpacked:
                yield cast("BinaryIO", unpacked), raw
        else:
            yield cast("BinaryIO", io.BufferedReader(pa.CompressedInputStream(raw, codec))), raw


def _parse(content: bytes) -> object:
    try:
        return json.loads(content)
    except (ValueError, RecursionError) as error:  # no JSON, no UTF-8, a number of too many digits, nested too deeply
        return Unreadable(str(error))


def _text_rows(file: File, text_field: str, skip: int) -> Iterator[Row]:
    """The one row of a text file."""
    if skip:
        return
    with _opened(file) as (content, _):
        try:
            text = content.read().decode("utf-8-sig").replace("\r\n", "\n").replace("\r", "\n")
        except UnicodeDecodeError as error:
            yield "", Unreadable(str(error)), 1.0
        else:
            yield "", {text_field: text}, 1.0


def _line_rows(file: File, text_field: str, skip: int) -> Iterator[Row]:
    """A row per line without its break, numbered from 1; a carriage return is a break too."""
    number = 0
    for _, lines, share in _numbered_lines(file):
        for line in lines.removesuffix(b"\n").removesuffix(b"\r").split(b"\r"):
            number += 1
            if number > skip:
                try:
                    row: object = {text_field: line.decode()}
                except UnicodeDecodeError as error:
                    row = Unreadable(str(error))
                yield str(number), row, share


def _jsonl_rows(file: File, text_field: str, skip: int) -> Iterator[Row]:
    """A row per line, numbered from 1; blank lines are rows without text."""
    for number, line, share in _numbered_lines(file):
        if number > skip:
            yield str(number), _parse(line) if line.strip() else {text_field: None}, share


def _numbered_lines(file: File) -> Iterator[tuple[int, bytes, float]]:
    """Lines with their breaks and without a mark of byte order, their numbers from 1, and the share that is read.

    Raises:
        DamagedError: the file is UTF-16, some of whose lines would be read as UTF-8.
    """
    with _opened(file) as (lines, raw):
        for number, line in enumerate(lines, start=1):
            if number == 1 and line.startswith((BOM_UTF16_LE, BOM_UTF16_BE)):
                raise DamagedError("it is UTF-16; write it as UTF-8")
            yield number, line.removeprefix(BOM_UTF8) if number == 1 else line, raw.tell() / file.size


def _csv_rows(file: File, text_field: str, skip: int) -> Iterator[Row]:
    """A row per record below the header, by the number of its last line; blank lines are rows without text."""
    csv.field_size_limit(sys.maxsize)  # by default 131,072 characters, which documents may exceed
    with _opened(file) as (content, raw):
        # Bytes that are not UTF-8 become surrogates, and so are found in their own record.
        lines = io.TextIOWrapper(content, encoding="utf-8-sig", errors="surrogateescape", newline="")
        reader = csv.reader(lines, strict=True)
        records = _read_records(reader)
        header = _read_header(records, text_field)
        for number, record in enumerate(records, start=1):
            if number > skip:
                yield str(reader.line_num), _name_fields(record, header, text_field), raw.tell() / file.size


def _read_records(reader: "_csv.Reader") -> Iterator[list[str] | Unreadable]:
    """Records, empty for a blank line.

    Raises:
        DamagedError: a quoted field does not end where it could, so that lines after it may belong to it.
    """
    while True:
        begin = reader.line_num + 1
        try:
            record = next(reader)
            # A comma keeps bytes of two fields from making up a character.
            ",".join(record).encode(errors="surrogateescape").decode()
        except StopIteration:
            return
        except UnicodeDecodeError as error:
            yield Unreadable(str(error))
        except csv.Error as error:
            if reader.line_num > begin:
                raise DamagedError(f"the record that begins in line {begin}: {error}") from error
            yield Unreadable(str(error))
        else:
            yield record if any(map(str.strip, record)) else []


def _read_header(records: Iterator[list[str] | Unreadable], text_field: str) -> list[str]:
    """The names of columns: the first record that is not blank.

    Raises:
        DamagedError: it cannot be read, or two columns have the text's name.
    """
    header: list[str] | Unreadable = next((record for record in records if record), [])
    if isinstance(header, Unreadable):
        raise DamagedError(f"its header: {header.reason}")
    if header.count(text_field) > 1:
        raise DamagedError(f"its header names {header.count(text_field)} columns {text_field!r}")
    return header


def _name_fields(record: list[str] | Unreadable, header: list[str], text_field: str) -> object:
    if isinstance(record, Unreadable):
        return record
    if len(record) > len(header):
        return Unreadable(f"{len(record)} fields below a header of {len(header)}")
    return dict(zip(header, record, strict=False)) if record else {text_field: None}


def _parquet_rows(file: File, text_field: str, skip: int) -> Iterator[Row]:
    """Rows with the text column only; with all columns where it is missing, so that the error can name them."""
    with file.system.open(file.path, "rb") as raw, pq.ParquetFile(raw) as table:
        paths = {table.schema.column(number).path for number in range(len(table.schema))}
        columns = [text_field] if text_field in paths else None
        group = number = 0
        while group < table.num_row_groups and number + table.metadata.row_group(group).num_rows <= skip:
            number += table.metadata.row_group(group).num_rows
            group += 1
        groups = range(group, table.num_row_groups)
        for batch in table.iter_batches(batch_size=_PARQUET_BATCH_ROWS, row_groups=groups, columns=columns):
            for row in _to_rows(batch):
                number += 1
                if number > skip:
                    yield str(number - 1), row, number / table.metadata.num_rows


def _to_rows(batch: pa.RecordBatch) -> list[Any]:
    try:
        rows: list[Any] = batch.to_pylist()
    except UnicodeDecodeError as error:
        if batch.num_rows == 1:
            return [Unreadable(str(error))]
        return [row for number in range(batch.num_rows) for row in _to_rows(batch.slice(number, 1))]
    else:
        return rows


def _json_rows(file: File, text_field: str, skip: int) -> Iterator[Row]:
    """A row per entry of the one JSON object or array in a file, by its key or its index; a string is its own text."""
    with _opened(file) as (content, _):
        whole = _parse(content.read())
    if not isinstance(whole, dict | list):
        kind = f"it is no object or array but {whole!r:.40}"
        raise DamagedError(whole.reason if isinstance(whole, Unreadable) else kind)
    entries = whole.items() if isinstance(whole, dict) else enumerate(whole)
    for number, (key, row) in enumerate(entries, start=1):
        if number > skip:
            yield str(key), {text_field: row} if isinstance(row, str) else row, number / len(whole)


_READERS: dict[Format, Callable[[File, str, int], Iterator[Row]]] = {
    "text": _text_rows,
    "lines": _line_rows,
    "jsonl": _jsonl_rows,
    "csv": _csv_rows,
    "parquet": _parquet_rows,
    "json": _json_rows,
}
