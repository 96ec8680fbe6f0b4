"""Rows of a source: of its files, of data files of installed packages, or of the files of a dataset."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from budwood.corpus.files import File, find_files
from budwood.corpus.formats import RowFormat, read_rows
from budwood.corpus.hub import find_dataset
from budwood.corpus.settings import SourceSettings
from budwood.records.paths import resolve_path


class Rows:
    """Rows of all files of a source, identified by file and position or key."""

    def __init__(self, source: SourceSettings, root: Path) -> None:
        """Find the files of a source.

        Raises:
            ValueError: no file, package or dataset is found, or a dataset's card asks for what cannot be done.
        """
        self._source = source
        if source.dataset is None:
            self.how, self._files = RowFormat(source.format, source.text_field), _find_paths(source, root)
        else:
            self.how, self._files = _find_dataset(source, source.dataset, root)
        folders = [file.url.rpartition("/")[0] + "/" for file in self._files]
        common = os.path.commonprefix(folders)  # noqa: RUF071 - also of URLs; cut at a slash
        self._folder = common[: common.rfind("/") + 1]
        self._file, self._row, self._share_of_file = 0, 0, 0.0

    @property
    def position(self) -> list[int]:
        """Where reading continues."""
        return [self._file, self._row]

    @property
    def share(self) -> float:
        """Share of the bytes that has been read."""
        done = sum(file.size for file in self._files[: self._file])
        size = self._files[self._file].size if self._file < len(self._files) else 0
        return (done + self._share_of_file * size) / max(1, sum(file.size for file in self._files))

    def seek(self, position: list[int]) -> None:
        """Continue at a position."""
        self._file, self._row = position

    def origin(self, position: list[int]) -> list[Any]:
        """Return names, sizes and stamps of the files up to a position, and whether it is the end."""
        read = position[0] + (position[1] > 0)
        files = [(self._name(file), file.size, file.stamp) for file in self._files[:read]]
        return [files, position[0] == len(self._files)]

    def locate(self, identifier: str) -> str:
        """Return the whole name of a row."""
        return printable(self._folder) + identifier

    def _name(self, file: File) -> str:
        return file.url.removeprefix(self._folder)

    def __iter__(self) -> Iterator[tuple[str, object]]:
        """Give identifiers and rows.

        Raises:
            ValueError: a file is damaged, cannot be reached, or changes while it is read.
        """
        while self._file < len(self._files):
            file = self._files[self._file]
            name = self._name(file)
            try:
                rows = read_rows(file, self.how, self._row)
                for place, row, self._share_of_file in rows:
                    self._row += 1
                    yield printable(f"{name}:{place}" if place else name), row
            except Exception as error:  # what is below lets through whatever file systems and their libraries raise
                raise ValueError(
                    f"source {self._source.name!r}: {printable(file.url)}:{self._row + 1} cannot be read as "
                    f"format={self.how.format!r}: {str(error) or type(error).__name__}"
                ) from error
            self._file, self._row, self._share_of_file = self._file + 1, 0, 0.0


def printable(text: str) -> str:
    """Return a text with halves of surrogate pairs spelt out; names have them where they are no UTF-8."""
    return text.encode(errors="backslashreplace").decode()


@contextmanager
def _opening(source: SourceSettings, place: str) -> Iterator[None]:
    """Say of what fails which path or dataset it was: one that is missing, unreachable, gated or damaged."""
    try:
        yield
    except Exception as error:  # file systems and `datasets` let through whatever the libraries below them raise
        reason = str(error) or type(error).__name__
        raise ValueError(f"source {source.name!r}: {place} cannot be read: {reason}") from error


def _find_paths(source: SourceSettings, root: Path) -> list[File]:
    """The files of a source, each once, in the order of its paths."""
    files: dict[str, File] = {}
    for path in source.path:
        with _opening(source, f"path={path!r}"):
            files |= {file.url: file for file in find_files(resolve_path(path, root), source.format)}
    return list(files.values())


def _find_dataset(source: SourceSettings, dataset: str, root: Path) -> tuple[RowFormat, list[File]]:
    """How a dataset is read, and its files."""
    chosen = {"dataset": dataset, "dataset_config": source.dataset_config, "revision": source.revision}
    local = resolve_path(dataset, root)
    with _opening(source, ", ".join(f"{name}={value!r}" for name, value in chosen.items() if value is not None)):
        # A folder of that name comes before the hub, as `datasets` has it.
        return find_dataset(source, local if Path(local).exists() else dataset)
