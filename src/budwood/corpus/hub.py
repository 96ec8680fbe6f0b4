"""Files of a dataset on the Hugging Face hub, or in a folder like one, and how its card has them read."""

import csv
from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING

from budwood.corpus.files import File, find_files, is_named_as
from budwood.corpus.formats import RowFormat
from budwood.corpus.settings import Format, SourceSettings

if TYPE_CHECKING:
    from datasets import DatasetBuilder

_FORMATS: dict[str, tuple[Format, ...]] = {
    "text": ("lines",),
    "json": ("json", "jsonl"),
    "csv": ("csv",),
    "parquet": ("parquet",),
}
"""What `datasets` calls a kind of files; the format it is read as, and all whose endings it has."""
_WITHOUT_EFFECT = {
    # Types of columns, sizes of portions, columns beside the text; `sep` and `names` take over the last two.
    *("features", "chunksize", "batch_size", "block_size", "use_threads", "columns", "delimiter", "column_names"),
    # Text is never taken for a missing value or an object.
    *("keep_default_na", "na_filter", "on_mixed_types", "parse_agent_traces"),
}
_DIALECT = {"sep": "delimiter"} | {
    name: name for name in ("quotechar", "quoting", "escapechar", "doublequote", "skipinitialspace")
}
"""Options of a card, as `csv.reader` calls them."""
_VALUES: dict[str, tuple[object, ...]] = {
    "encoding": ("utf-8", "utf8", "utf-8-sig"),
    "quoting": (csv.QUOTE_MINIMAL, csv.QUOTE_ALL, csv.QUOTE_NONE),
    "sample_by": ("document",),
}
"""Options of a card of which some values are followed."""


def find_dataset(source: SourceSettings, name: str) -> tuple[RowFormat, list[File]]:
    """Let `datasets` find the files of a dataset; they are read without it, a row at a time.

    Args:
        source: What to read.
        name: The dataset: an absolute path of a folder, or an id of the hub.

    Raises:
        ValueError: the split does not exist, or files or options of the card cannot be read so.
        Exception: whatever else `datasets` raises: it is missing, unreachable, gated or damaged.
    """
    from datasets import load_dataset_builder  # noqa: PLC0415 - takes seconds, and only datasets need it

    is_local = Path(name).is_absolute()
    if is_local and source.revision is not None:
        raise ValueError("a folder has no revision")
    if not is_local and "/" not in name:  # `datasets` would read the working directory if asked for "text"
        raise ValueError("it is no folder, and datasets of the hub are called owner/name")
    builder = load_dataset_builder(name, source.dataset_config, revision=source.revision)
    how = _row_format(builder, source.text_field)
    files = builder.config.data_files or {}
    if source.dataset_split not in files:
        raise ValueError(f"dataset_split={source.dataset_split!r} is none of its splits {list(map(str, files))}")
    urls = list(dict.fromkeys(map(str, files[source.dataset_split])))
    unread = [url for url in urls if not is_named_as(url, *_FORMATS[builder.name])]
    if unread:
        raise ValueError(
            f"{unread[0]} is no file of the kind {builder.name!r}, as which `datasets` reads the dataset; unpack or "
            "convert it, or give the files by path"
        )
    return how, [file for url in urls for file in find_files(url, how.format)]


def _row_format(builder: "DatasetBuilder", text_field: str) -> RowFormat:
    """How the files of a dataset are read.

    Raises:
        ValueError: they are of another kind, or the card has options that are not known.
        TypeError: the card has an option with a value that `csv` does not take.
    """
    from datasets import BuilderConfig  # noqa: PLC0415 - takes seconds, and only datasets need it

    if builder.name not in _FORMATS:
        raise ValueError(f"its files are of the kind {builder.name!r}; allowed are {list(_FORMATS)}: convert them")
    config, common = builder.config, {field.name for field in fields(BuilderConfig)} | _WITHOUT_EFFECT
    own = {field.name: field.default for field in fields(config) if field.name not in common}
    asked = {name: getattr(config, name) for name, default in own.items() if getattr(config, name) != default}
    names = asked.get("names")
    limited = {**_VALUES, "header": (None if names else 0,)}
    free = {"names", "field", *_DIALECT} - limited.keys()
    unknown = {name: value for name, value in asked.items() if name not in free and value not in limited.get(name, ())}
    if unknown:
        raise ValueError(f"its card sets {unknown}, which is not followed; convert the files, or give them by path")
    dialect = {ours: asked[name] for name, ours in _DIALECT.items() if name in asked}
    csv.reader((), strict=True, **dialect)  # refuses what it does not take before anything is read
    return RowFormat(
        format="text" if "sample_by" in asked else _FORMATS[builder.name][0],
        text_field=text_field,
        objects=builder.name == "json",
        rows_field=asked.get("field"),
        columns=names and tuple(names),
        dialect=dialect,
    )
