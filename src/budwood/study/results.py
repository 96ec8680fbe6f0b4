"""Results of stages on disk: every part in the form that suits it, and one file that lists them."""

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import pandas as pd
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from budwood.corpus.packing import PackedCorpus
from budwood.models.checkpoint import Checkpoint
from budwood.records.files import write_atomically
from budwood.records.form import read_records, write_records
from budwood.records.hashes import hash_file
from budwood.search.genes import Genes
from budwood.subnet.moments import StoredMoments
from budwood.training.cache import TeacherCache

PARTS = "result.json"
"""Lists the parts of a finished stage's result; written last."""

Result = TypeVar("Result")
_ALONE = "value"
"""Name of a result of one part."""


@dataclass(frozen=True, slots=True)
class Kind:
    """How one kind of value is kept."""

    fits: Callable[[Any], bool]
    write: Callable[[Any, Path], Path]
    """Takes a value and a path without a suffix; returns where the value is."""
    read: Callable[[Path], Any]


def _write_table(table: pd.DataFrame, target: Path) -> Path:
    file = target.with_suffix(".parquet")
    table.to_parquet(file)
    return file


def _write_tensors(tensors: Mapping[str, Tensor], target: Path) -> Path:
    file = target.with_suffix(".safetensors")
    save_file(dict(tensors), file)
    return file


def _write_records(records: Any, target: Path) -> Path:
    file = target.with_suffix(".json")
    write_records(file, records)
    return file


KINDS_OF_VALUES = {
    "checkpoint": Kind(lambda value: isinstance(value, Checkpoint), lambda value, _: value.folder, Checkpoint.open),
    "corpus": Kind(lambda value: isinstance(value, PackedCorpus), lambda value, _: value.folder, PackedCorpus.open),
    "cache": Kind(lambda value: isinstance(value, TeacherCache), lambda value, _: value.folder, TeacherCache.open),
    "moments": Kind(lambda value: isinstance(value, StoredMoments), lambda value, _: value.folder, StoredMoments),
    "genes": Kind(lambda value: isinstance(value, Genes), lambda value, _: value.folder, Genes.open),
    "table": Kind(lambda value: isinstance(value, pd.DataFrame), _write_table, pd.read_parquet),
    "tensors": Kind(lambda value: isinstance(value, dict), _write_tensors, load_file),
    "records": Kind(lambda _: True, _write_records, read_records),
}
"""The first form that fits a value is taken."""


def save(result: Any, folder: Path) -> None:
    """Write a result, one value or a named tuple of several, into the folder of its stage."""
    parts = result._asdict() if hasattr(result, "_asdict") else {_ALONE: result}
    listed = {}
    for part, value in parts.items():
        name, form = next((name, form) for name, form in KINDS_OF_VALUES.items() if form.fits(value))
        place = form.write(value, folder / part).resolve()
        inside = place.is_relative_to(folder.resolve())
        at = str(place.relative_to(folder.resolve()) if inside else place)
        listed[part] = {"form": name, "at": at, "fingerprint": _fingerprint(value, place)}
    write_atomically(folder / PARTS, json.dumps(listed, indent=1))


def restore(kind: Any, folder: Path) -> Any:
    """Return what `save` wrote, a result of some type.

    Raises:
        ValueError: a file is missing or damaged; the message names it.
    """
    try:
        listed = json.loads((folder / PARTS).read_text(encoding="utf-8"))
        parts = {name: _read(folder / entry["at"], entry) for name, entry in listed.items()}
        return kind(**parts) if isinstance(kind, type) and issubclass(kind, tuple) else parts[_ALONE]
    except (OSError, ValueError, KeyError, TypeError, AttributeError, SafetensorError) as error:
        raise ValueError(
            f"{folder.resolve()} is damaged ({error}): remove this folder and run again to rebuild it"
        ) from error


def _read(place: Path, entry: Mapping[str, str]) -> Any:
    value = KINDS_OF_VALUES[entry["form"]].read(place)
    if _fingerprint(value, place) != entry["fingerprint"]:
        raise ValueError(f"{place} has changed since it was written")
    return value


def _fingerprint(value: Any, place: Path) -> str:
    """Return the hash of a file, or what identifies the content of a folder."""
    return str(value.fingerprint) if place.is_dir() else hash_file(place)
