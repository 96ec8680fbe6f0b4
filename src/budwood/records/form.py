"""The one JSON form of records: what they are, in which version of the schema, and their fields."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from budwood.records.account import SearchFindings, TrainingFindings
from budwood.records.certificate import Certificate
from budwood.records.cost import Cost
from budwood.records.evaluation import Downstream, Efficiency, Sample
from budwood.records.files import write_atomically
from budwood.records.gate import Gate
from budwood.records.search import Finalists, Winner
from budwood.records.strict import Strict
from budwood.records.teacher import IntakeRecord, TeacherEvaluation, TeacherRecord
from budwood.records.training import ProbeScore, Score, SweptRates, TrainingRecord

SCHEMA_VERSION = 1

RECORD_KINDS: dict[str, type[Strict]] = {
    kind.__name__: kind
    for kind in (
        *(Certificate, SearchFindings, TrainingFindings),
        *(Cost, IntakeRecord, TeacherRecord, TeacherEvaluation, Finalists, Winner),
        *(TrainingRecord, Score, ProbeScore, SweptRates, Downstream, Efficiency, Sample, Gate),
    )
}
"""All records that are written, by the name that the file gives."""


def write_records(file: Path, value: Strict | Sequence[Strict]) -> None:
    """Write a record, or several of one kind, whole or not at all."""
    many = not isinstance(value, Strict)
    records: Sequence[Strict] = value if isinstance(value, Sequence) else [value]
    kinds = {type(record).__name__ for record in records}
    assert kinds <= set(RECORD_KINDS), f"records of unknown kinds: {kinds}"
    assert len(kinds) <= 1, f"records of one kind are written together, got {kinds}"
    plain = [record.model_dump(mode="json") for record in records]
    content = {"schema_version": SCHEMA_VERSION, "kind": next(iter(kinds), None), "value": plain if many else plain[0]}
    write_atomically(file, json.dumps(content, indent=1))


def read_records(file: Path) -> Any:
    """Return what `write_records` wrote: a record, or a list of them.

    Raises:
        ValueError: the file is damaged, or was written by a version with another schema.
    """
    remedy = "remove it and run again to rebuild it"
    try:
        version, kind, value = _parts(json.loads(file.read_text(encoding="utf-8")))
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{file.resolve()} is damaged ({type(error).__name__}: {error}): {remedy}") from None
    if version != SCHEMA_VERSION or (kind and kind not in RECORD_KINDS):
        raise ValueError(
            f"{file.resolve()} has {kind} in version {version} of the schema, this budwood reads version "
            f"{SCHEMA_VERSION}: {remedy}"
        )
    try:
        if isinstance(value, list):
            return [RECORD_KINDS[kind].model_validate(part) for part in value]
        return RECORD_KINDS[kind].model_validate(value)
    except ValidationError as error:
        raise ValueError(f"{file.resolve()} is damaged ({error.error_count()} fields are wrong): {remedy}") from None


def _parts(content: Mapping[str, Any]) -> tuple[Any, str, Any]:
    """Return version, kind and value; only of an empty list there is no kind."""
    version, kind, value = content["schema_version"], content["kind"], content["value"]
    if not isinstance(kind, str) and (kind is not None or value != []):
        raise ValueError(f"kind {kind}")
    return version, kind or "", value
