"""Files of text, here or behind a URL: found by path, and opened without their compression."""

import io
import lzma
import math
import os
import re
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any, BinaryIO, cast

import fsspec
import pyarrow as pa
from fsspec.implementations.local import LocalFileSystem
from fsspec.utils import glob_translate

from budwood.corpus.settings import Format

if TYPE_CHECKING:
    from _typeshed import WriteableBuffer

SUFFIXES: dict[Format, tuple[str, ...]] = {
    "text": (".txt",),
    "lines": (".txt",),
    "jsonl": (".jsonl", ".jsonlines", ".ndjson"),
    "csv": (".csv", ".tsv"),
    "parquet": (".parquet",),
    "json": (".json",),
}
"""The formats, and the files of each that a folder means, in either case; all but parquet may be compressed too."""

_COMPRESSIONS = {".gz": "gzip", ".bz2": "bz2", ".xz": "xz", ".zst": "zstd", ".zstd": "zstd"}
_STAMPS = ("mtime", "ETag", "blob_id", "Last-Modified")
_WILDCARD = re.compile(r"[*?\[]")
_LISTED_SUFFIXES = 5


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

    @property
    def is_changed(self) -> bool:
        """Whether a local file is another one than when it was found; others' descriptions are kept by fsspec."""
        return isinstance(self.system, LocalFileSystem) and _describe(self.system, self.path) != self

    @contextmanager
    def open(self) -> Iterator[tuple[BinaryIO, BinaryIO]]:
        """Open it; give its bytes without compression, and as they are stored.

        Raises:
            EOFError: it is compressed and empty; later, where it is cut.
            OSError: it cannot be read.
        """
        with self.system.open(self.path, "rb") as raw:
            codec = _COMPRESSIONS.get(PurePosixPath(self.path).suffix.lower())
            if codec is None:
                yield raw, raw
            elif not self.size:
                raise EOFError("it is empty, which a compressed file never is")
            elif codec == "xz":
                yield cast("BinaryIO", io.BufferedReader(_XzStream(raw))), raw
            else:
                yield cast("BinaryIO", io.BufferedReader(pa.CompressedInputStream(raw, codec))), raw


class _XzStream(io.RawIOBase):
    """The content of an xz file. `lzma.LZMAFile` says nothing where a second stream is damaged, and ends before it."""

    def __init__(self, packed: BinaryIO) -> None:
        self._packed, self._decoder = packed, lzma.LZMADecompressor(lzma.FORMAT_XZ)

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: "WriteableBuffer") -> int:
        view, content = memoryview(buffer), b""
        while not content:
            packed = b""
            if self._decoder.eof:
                packed = self._decoder.unused_data.lstrip(b"\0")  # which fills the space up to the next stream
                while not packed and (more := self._packed.read(io.DEFAULT_BUFFER_SIZE)):
                    packed = more.lstrip(b"\0")
                if not packed:
                    return 0
                self._decoder = lzma.LZMADecompressor(lzma.FORMAT_XZ)
            elif self._decoder.needs_input and not (packed := self._packed.read(io.DEFAULT_BUFFER_SIZE)):
                raise EOFError("it ends within a compressed stream")
            content = self._decoder.decompress(packed, len(view))
        view[: len(content)] = content
        return len(content)


def find_files(path: str, file_format: Format) -> list[File]:
    """Find the files that a path means, in the order of their names.

    Args:
        path: An absolute path or a URL, of a file, a folder or a glob. Below a folder, and where a glob has wildcards,
            hidden files and folders are left out.
        file_format: Of a folder, the files with its suffixes are taken.

    Raises:
        ValueError: there is none; the message lists what is there instead, and what is accepted. Or all are to be
            read as text and named as files of another format.
        OSError: a file or folder cannot be read.
        ImportError: the package for the URL's protocol is not installed.
    """
    system, place = fsspec.url_to_fs(path)
    if not place.endswith("/") and system.isfile(place):
        names = [place]
    elif system.isdir(place):
        present = _list_folder(system, place)
        names = [found for found in present if is_named_as(found, file_format)]
        if not names:
            held = Counter(PurePosixPath(found).suffix or "files without a suffix" for found in present)
            listed = ", ".join(f"{count} {suffix}" for suffix, count in held.most_common(_LISTED_SUFFIXES))
            raise ValueError(
                f"the folder {path} has no file of format={file_format!r}: it has {listed or 'no files'}, and "
                f"{', '.join(_suffixes(file_format))} are accepted; a file or a glob may have any name"
            )
    else:
        names = _expand(system, place)
        if not names:
            raise ValueError(f"no file is found at {path}")
    if SUFFIXES[file_format] == SUFFIXES["text"]:
        _refuse_structured(path, names, file_format)
    return [_describe(system, name) for name in sorted(names, key=lambda name: PurePosixPath(name).parts)]


def is_named_as(path: str, *formats: Format) -> bool:
    """Whether a name ends as those of files of one of some formats do, in upper or lower case."""
    return path.lower().endswith(_suffixes(*formats))


def _suffixes(*formats: Format) -> tuple[str, ...]:
    """Return how the names of files of some formats may end, in lower case."""
    return tuple(
        stem + packed
        for file_format in formats
        for packed in ("", *_COMPRESSIONS)
        for stem in SUFFIXES[file_format]
        if not packed or file_format != "parquet"
    )


def _refuse_structured(path: str, names: list[str], file_format: Format) -> None:
    """Refuse to read as plain text what is named as rows or entries throughout."""
    for other, stems in SUFFIXES.items():
        if stems != SUFFIXES[file_format] and all(is_named_as(name, other) for name in names):
            raise ValueError(
                f"{path} is format={other!r} by its name, and format={file_format!r} would read the markup too"
            )


def _list_folder(system: fsspec.AbstractFileSystem, folder: str, depth: float = math.inf) -> list[str]:
    """Return the files below a folder, without hidden ones; here those behind links too, of each folder once.

    Raises:
        OSError: a folder cannot be read.
    """
    if not isinstance(system, LocalFileSystem):
        return [found for found in system.find(folder) if _is_visible(found, folder)]
    # fsspec passes over folders that are links, or that it may not read.
    files, seen, top = list[str](), set[str](), folder.rstrip("/")
    for place, folders, names in os.walk(top or "/", onerror=_raise, followlinks=True):
        real, level = os.path.realpath(place), 1 + place.rstrip("/").count("/") - top.count("/")
        files += [f"{place.rstrip('/')}/{name}" for name in names if real not in seen and not name.startswith(".")]
        folders[:] = sorted(name for name in folders if real not in seen and level < depth and not name.startswith("."))
        seen.add(real)
    return files


def _expand(system: fsspec.AbstractFileSystem, pattern: str) -> list[str]:
    """Return the files that a glob means, without hidden ones that it does not name."""
    folder = _WILDCARD.split(pattern)[0].rpartition("/")[0]
    if not isinstance(system, LocalFileSystem):
        return [found for found in system.glob(pattern) if _is_visible(found, folder) and system.isfile(found)]
    depth = math.inf if "**" in pattern else pattern.count("/") - folder.count("/")
    present = _list_folder(system, folder or "/", depth) if Path(folder or "/").is_dir() else []
    return list(filter(re.compile(glob_translate(pattern)).match, present))


def _raise(error: OSError) -> None:
    raise error


def _is_visible(path: str, folder: str) -> bool:
    """Whether no part of a path below a folder begins with a dot."""
    return not any(part.startswith(".") for part in PurePosixPath(path[len(folder) :]).parts)


def _describe(system: fsspec.AbstractFileSystem, path: str) -> File:
    info: dict[str, Any] = system.info(path)
    if info["type"] != "file":
        raise ValueError(f"{path} is no file")
    stamp = next(filter(None, map(info.get, _STAMPS)), None) or system.ukey(path)
    if info["size"] is None:
        raise ValueError(f"{path} cannot be read in parts: its server does not say its size")
    return File(system, path, int(info["size"]), str(stamp))
