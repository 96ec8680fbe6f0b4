"""Documents of a source: from files, data files of installed packages, and datasets of the hub."""

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from hashlib import sha256
from itertools import islice
from pathlib import Path
from typing import Any

from budwood.corpus.formats import RowFormat, Unreadable
from budwood.corpus.rows import Rows, printable
from budwood.corpus.settings import SourceSettings

_QUOTED_CHARACTERS = 40
_KEPT_FAULTS = 5


@dataclass(frozen=True, slots=True)
class Document:
    """One text and where it came from."""

    id: str
    """Unique within the source: the file, and the row or key within it."""
    source: str
    text: str


class SourceReader:
    """Reads the documents of a source one at a time, from any place on; those without text are left out."""

    def __init__(self, source: SourceSettings, root: Path, position: Any = None) -> None:
        """Open a source.

        Args:
            source: What to read.
            root: Where relative paths begin.
            position: Where to continue; from the beginning without it.

        Raises:
            ValueError: no file, package or dataset is found.
        """
        self.source = source
        self.num_skipped = 0
        """Rows that were left out because they cannot be used."""
        self.num_empty = 0
        """Rows that were left out because they have no text."""
        self.faults: tuple[str, ...] = ()
        """The first of them, with the reason."""
        self._start = re.compile(source.document_start) if source.document_start is not None else None
        self._rows = Rows(source, root)
        # Rows of other formats bring their line breaks along.
        self._break = "\n" if self._rows.how.format == "lines" else ""
        # A document that is not complete, by its id and rows: only the row after it shows its end.
        self._pending: tuple[str, list[str]] = ("", [])
        if position is not None:
            _, rows, identifier, parts = position
            self._pending = (identifier, parts)
            self._rows.seek(rows)

    @property
    def position(self) -> Any:
        """Where the reader is, as JSON: after the documents it gave."""
        identifier, parts = self._pending
        return [self._rows.how.format, self._rows.position, identifier, list(parts)]

    @property
    def share(self) -> float:
        """Share of the source that has been read."""
        return self._rows.share

    def fingerprint(self, position: Any) -> str:
        """Hash how the source is read, and which files, with sizes and dates, lie before a position.

        Of a position in a source that was read in another way nothing can be said: its hash is no other's.
        """
        kind, place = position[0], position[1]
        origin = self._rows.origin(place) if kind == self._rows.how.format else None
        return sha256(json.dumps([asdict(self._rows.how), origin]).encode()).hexdigest()

    def __iter__(self) -> Iterator[Document]:
        """Give the documents in the order of the source: files by name, rows in their order.

        Raises:
            ValueError: a file is damaged; a row is not in the format, lacks the text field or has no valid text in it,
                and `on_error` is "stop"; or the first row does not begin a document. The message names file and row.
        """
        for identifier, text in self._texts():
            if text and not text.isspace():
                yield Document(identifier, self.source.name, text)
            elif self._start is None and identifier:
                self.num_empty += 1

    def _texts(self) -> Iterator[tuple[str, str]]:
        """Ids and texts of rows, or of the documents that rows make up."""
        for identifier, text in self._usable_rows():
            if self._start is None:
                yield identifier, text
            elif self._start.match(text):
                (begun, parts), self._pending = self._pending, (identifier, [text])
                yield begun, self._break.join(parts)
            elif self._pending[1]:
                self._pending[1].append(text)
            elif text and not text.isspace():
                raise ValueError(
                    f"source {self.source.name!r}: document_start={self.source.document_start!r} does not match "
                    f"{self._rows.locate(identifier)}, the first row with text: {text[:_QUOTED_CHARACTERS]!r}"
                )
        (begun, parts), self._pending = self._pending, ("", [])
        yield begun, self._break.join(parts)

    def _usable_rows(self) -> Iterator[tuple[str, str]]:
        """Ids and texts of rows, without those that are skipped."""
        for identifier, row in self._rows:
            try:
                text = _text_of(row, self._rows.how)
            except ValueError as error:
                fault = f"{self._rows.locate(identifier)} {error}"
                if self.source.on_error == "stop":
                    advice = "; mend the row, or set on_error: skip" * isinstance(row, Unreadable)
                    raise ValueError(f"source {self.source.name!r}: {fault}{advice}") from error
                self.num_skipped += 1
                self.faults = (*self.faults, fault)[:_KEPT_FAULTS]
            else:
                yield identifier, text


def read_documents(source: SourceSettings, root: Path) -> Iterator[Document]:
    """Read the documents of a source one at a time (see `SourceReader`), `max_documents` of them.

    Raises:
        ValueError: as `SourceReader`, or the source has no text at all.
    """
    empty = True
    reader = SourceReader(source, root)
    for document in islice(reader, source.max_documents):
        empty = False
        yield document
    if empty:
        raise ValueError(describe_empty(source, reader.num_skipped, reader.faults))


def describe_empty(source: SourceSettings, num_skipped: int, faults: tuple[str, ...]) -> str:
    """Return what is said of a source without text."""
    skipped = f"; {num_skipped} rows were skipped, the first because {faults[0]}" if num_skipped else ""
    return f"source {source.name!r} is empty: no text in {source.place}{skipped}"


def _text_of(row: object, how: RowFormat) -> str:
    """The text of a row; a null counts as no text.

    Raises:
        ValueError: the row has none that can be used; the message follows the row's place.
    """
    if isinstance(row, Unreadable):
        raise ValueError(f"cannot be read as format={how.format!r}: {row.reason}")  # noqa: TRY004 - the data is wrong
    found = _find_field(row, how.text_field)
    if found is None:
        return ""
    if not isinstance(found, str):
        raise ValueError(  # noqa: TRY004 - the data is wrong
            f"must have text in text_field={how.text_field!r}, got {type(found).__name__}"
        )
    try:
        found.encode()
    except UnicodeEncodeError as error:
        raise ValueError(
            f"is no valid text: {found[error.start]!r}, its character {error.start + 1}, is half of a surrogate pair"
        ) from error
    return found


def _find_field(row: object, field: str) -> object:
    """The content of a field; dots in its name lead into nested rows, unless a field has them in its own name."""
    inner, left = row, field
    while isinstance(inner, Mapping) and left not in inner and (head := left.partition("."))[0] in inner and head[2]:
        inner, left = inner[head[0]], head[2]
    if inner is None and inner is not row:
        return None
    fields = inner if isinstance(inner, Mapping) else {}
    if left not in fields:
        present = printable(", ".join(map(str, fields))) or "none"
        within = f" in {field.removesuffix(left).rstrip('.')}" if left != field else ""
        raise ValueError(f"lacks text_field={field!r}; fields present{within}: {present}")
    return fields[left]
