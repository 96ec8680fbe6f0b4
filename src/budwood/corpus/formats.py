"""Rows of files in each format, one at a time and from any row on."""

import csv
import io
import json
import re
import sys
from codecs import BOM_UTF8, BOM_UTF16_BE, BOM_UTF16_LE
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from itertools import islice
from pathlib import PurePosixPath
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.parquet as pq

from budwood.corpus.files import File
from budwood.corpus.settings import Format

if TYPE_CHECKING:
    import _csv

_PARQUET_BATCH_ROWS = 1024
_PARQUET_LIST_ENTRIES = 10_000
"""Most row groups, and most nodes of a schema. Arrow ends the process when it opens one of 20,000 that are nested."""
_PARQUET_DEPTH = 100
"""Most nodes that are nested. Arrow ends the process when it reads 9,990."""
_JSON_MARKS = re.compile(rb'"[^"\\]*+(?:\\.[^"\\]*+)*+"|["{}\[\],]', re.DOTALL)
"""Strings, and what separates and nests values outside them."""
_CLOSING = {b"[": b"]", b"{": b"}"}
_QUOTED_BYTES = 40


@dataclass(frozen=True, slots=True)
class RowFormat:
    """How the files of a source are read."""

    format: Format
    text_field: str
    """The field with the text; other columns of parquet files are not read."""
    objects: bool = False
    """Whether an object of a `json` file is a row, as `datasets` has it, and not what has the rows."""
    rows_field: str | None = None
    """The field of a `json` file's object that has the rows."""
    columns: tuple[str, ...] | None = None
    """Names of the columns of `csv` files that have no header."""
    dialect: Mapping[str, Any] = field(default_factory=dict)
    """What else `csv.reader` takes."""


class DamagedError(ValueError):
    """A file whose rows cannot be separated."""


@dataclass(frozen=True, slots=True)
class Unreadable:
    """Takes the place of a row that cannot be read, where the rows after it can."""

    reason: str


Row = tuple[str, object, float]
"""Place in the file, content or `Unreadable`, and the share of the file that is read after it."""


def read_rows(file: File, how: RowFormat, skip: int) -> Iterator[Row]:
    """Read a file's rows without the first `skip`, in their order.

    Args:
        file: Of any size; only `json` and `text` are read whole.
        how: The format, and what differs from what is usual in it.
        skip: Rows to leave out; they are passed over without being parsed where the format allows it.

    Raises:
        Exception: the file is damaged, cannot be reached, or changes meanwhile.
    """
    yield from _READERS[how.format](file, how, skip)
    if file.is_changed:
        raise DamagedError("it changed while it was read")


def _text_rows(file: File, how: RowFormat, skip: int) -> Iterator[Row]:
    """The one row of a text file."""
    if skip:
        return
    with file.open() as (content, _):
        yield "", _text_row(content.read().replace(b"\r\n", b"\n").replace(b"\r", b"\n"), how), 1.0


def _line_rows(file: File, how: RowFormat, skip: int) -> Iterator[Row]:
    """A row per line without its break, numbered from 1; a carriage return is a break too."""
    number = 0
    for _, lines, share in _numbered_lines(file):
        for line in lines.removesuffix(b"\n").removesuffix(b"\r").split(b"\r"):
            number += 1
            if number > skip:
                yield str(number), _text_row(line, how), share


def _text_row(content: bytes, how: RowFormat) -> object:
    if b"\0" in content:
        return Unreadable("it has the byte 0, as binary data and UTF-16 do")
    try:
        return {how.text_field: content.decode("utf-8-sig")}
    except UnicodeDecodeError as error:
        return Unreadable(str(error))


def _jsonl_rows(file: File, how: RowFormat, skip: int) -> Iterator[Row]:
    """A row per line, numbered from 1; blank lines are rows without text."""
    for number, line, share in _numbered_lines(file):
        if number > skip:
            yield str(number), _parse(line) if line.strip() else {how.text_field: None}, share


def _numbered_lines(file: File) -> Iterator[tuple[int, bytes, float]]:
    """Lines with their breaks and without a mark of byte order, their numbers from 1, and the share that is read."""
    with file.open() as (lines, raw):
        for number, line in enumerate(lines, start=1):
            yield number, _without_mark(line) if number == 1 else line, raw.tell() / file.size


def _without_mark(beginning: bytes) -> bytes:
    """Return the beginning of a file without a mark of byte order.

    Raises:
        DamagedError: the file is UTF-16, some of whose rows would be read as UTF-8.
    """
    if beginning.startswith((BOM_UTF16_LE, BOM_UTF16_BE)):
        raise DamagedError("it is UTF-16 or UTF-32; write it as UTF-8")
    return beginning.removeprefix(BOM_UTF8)


def _parse(content: bytes) -> Any:
    """The JSON of a row."""
    try:
        return json.loads(content.decode(), object_pairs_hook=_unique)
    except (ValueError, RecursionError) as error:  # no JSON, no UTF-8, a number of too many digits, nested too deeply
        return Unreadable(str(error))


def _unique(pairs: list[tuple[str, object]]) -> dict[str, object]:
    """The object of some fields, none of which may be there twice: nothing says which one is meant."""
    found = dict(pairs)
    if len(found) < len(pairs):
        name, _ = Counter(name for name, _ in pairs).most_common(1)[0]
        raise ValueError(f"an object has two fields {name!r}")
    return found


def _json_rows(file: File, how: RowFormat, skip: int) -> Iterator[Row]:
    """A row per entry of the one array or object in a file, by its index or its key; a string is its own text.

    Where an object is a row, those outside an array are found by line, or by number if they go over several lines.
    """
    if how.objects and how.rows_field is None and _has_lines(file):
        yield from _jsonl_rows(file, how, skip)
        return
    with file.open() as (stream, _):
        content = _without_mark(stream.read()).strip()
    if how.rows_field is not None:
        content = _find_value(content, how.rows_field)
    is_array = content.startswith(b"[")
    parts = _objects(content) if how.objects and not is_array else _entries(content)
    for number, (part, end) in enumerate(parts):
        if number >= skip:
            place, row = (str(number), _parse(part)) if how.objects or is_array else _parse_named(part, number)
            yield place, {how.text_field: row} if isinstance(row, str) else row, end / len(content)


def _has_lines(file: File) -> bool:
    """Whether a file has a value per line, some of which may be damaged, and no array or object over several lines."""
    with file.open() as (stream, _):
        first, second = [*islice(filter(bytes.strip, stream), 2), b"", b""][:2]
    start = first.removeprefix(BOM_UTF8).lstrip()
    if start.startswith(b"["):
        return False
    marks = Counter(mark[0] for mark in _JSON_MARKS.finditer(start))
    is_open = marks[b"{"] + marks[b"["] > marks[b"}"] + marks[b"]"] and not marks[b'"']
    # A line that is cut has another one after it, an object over several lines has its first field.
    return not is_open or second.startswith(b"{")


def _find_value(content: bytes, name: str) -> bytes:
    """The JSON of a field of the one object in a file.

    Raises:
        DamagedError: there is none.
    """
    for entry, _ in _entries(content):
        key = _JSON_MARKS.match(entry.lstrip())
        if content.startswith(b"{") and key is not None and _parse(key[0]) == name:
            return entry.lstrip()[key.end() :].lstrip().removeprefix(b":").strip()
    raise DamagedError(f"it is no object with a field {name!r}")


def _entries(content: bytes) -> Iterator[tuple[bytes, int]]:
    """Cut an array or object into its entries, which may be damaged, with the position after each.

    Raises:
        DamagedError: the content is no array or object, or more than one, or its entries cannot be separated.
    """
    closing = _CLOSING.get(content[:1])
    if closing is None:
        raise DamagedError(f"it is no object or array but {content[:_QUOTED_BYTES].decode(errors='replace')}")
    if not content.endswith(closing):
        raise DamagedError(f"it is cut: it begins with {content[:1].decode()} and does not end with {closing.decode()}")
    begin = 1
    for sign, depth, at in _marks(content):
        if not depth or (depth == 1 and sign == b","):
            if depth or begin > 1 or content[begin:at].strip():
                yield content[begin:at], at + 1
            begin = at + 1
        if not depth and begin < len(content):
            raise DamagedError(f"more follows after its byte {begin}; a value per line is another format, 'jsonl'")


def _objects(content: bytes) -> Iterator[tuple[bytes, int]]:
    """Cut objects that follow each other, some of which may be damaged, with the position after each.

    Raises:
        DamagedError: they cannot be separated.
    """
    begin = 0
    for sign, depth, at in _marks(content):
        if not depth and sign != b",":
            yield content[begin : at + 1], at + 1
            begin = at + 1
    if content[begin:].strip():
        yield content[begin:], len(content)


def _marks(content: bytes) -> Iterator[tuple[bytes, int, int]]:
    """Brackets and commas of JSON outside strings, how many brackets are open after each, and where it is.

    Raises:
        DamagedError: a string does not end, or a bracket has no counterpart.
    """
    depth = 0
    for mark in _JSON_MARKS.finditer(content):
        sign = mark[0]
        if sign == b'"':
            raise DamagedError(f"the string that begins with its byte {mark.start() + 1} does not end")
        if len(sign) == 1:
            depth += (sign in b"{[") - (sign in b"}]")
            if depth < 0:
                raise DamagedError(f"its byte {mark.start() + 1} ends what did not begin")
            yield sign, depth, mark.start()
    if depth:
        raise DamagedError(f"{depth} of its objects and arrays do not end")


def _parse_named(entry: bytes, number: int) -> tuple[str, Any]:
    """The key and the value of an entry of an object; its number where the key cannot be read."""
    found = _parse(b"{%b}" % entry)
    if isinstance(found, Unreadable):
        return str(number), found
    return next(iter(found.items()), (str(number), Unreadable("nothing is before or after a comma")))


def _csv_rows(file: File, how: RowFormat, skip: int) -> Iterator[Row]:
    """A row per record below the header, by the number of its last line; blank lines are rows without text."""
    csv.field_size_limit(sys.maxsize)  # by default 131,072 characters, which documents may exceed
    dialect = {"delimiter": "\t" if ".tsv" in PurePosixPath(file.path.lower()).suffixes else ",", **how.dialect}
    with file.open() as (content, raw):
        # Bytes that are not UTF-8 become surrogates, and so are found in their own record.
        lines = io.TextIOWrapper(content, encoding="utf-8-sig", errors="surrogateescape", newline="")
        reader = csv.reader(lines, strict=True, **dialect)
        records = _read_records(reader)
        header = list(how.columns or _read_header(records, how.text_field))
        for number, record in enumerate(records, start=1):
            if number > skip:
                yield str(reader.line_num), _name_fields(record, header, how.text_field), raw.tell() / file.size


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


def _parquet_rows(file: File, how: RowFormat, skip: int) -> Iterator[Row]:
    """Rows with the text column only; with all columns where it is missing, so that the error can name them.

    Raises:
        DamagedError: two columns have the text's name, or columns are nested too deeply.
    """
    limit = _PARQUET_LIST_ENTRIES
    with file.open() as (raw, _), pq.ParquetFile(raw, thrift_container_size_limit=limit) as table:
        paths = [table.schema.column(number).path for number in range(len(table.schema))]
        if paths.count(how.text_field) > 1:
            raise DamagedError(f"it has {paths.count(how.text_field)} columns {how.text_field!r}")
        if max((path.count(".") for path in paths), default=0) > _PARQUET_DEPTH:
            raise DamagedError(f"its columns are nested more than {_PARQUET_DEPTH} deep")
        columns = [how.text_field] if how.text_field in paths else None
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


_READERS: dict[Format, Callable[[File, RowFormat, int], Iterator[Row]]] = {
    "text": _text_rows,
    "lines": _line_rows,
    "jsonl": _jsonl_rows,
    "csv": _csv_rows,
    "parquet": _parquet_rows,
    "json": _json_rows,
}
