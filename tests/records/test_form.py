"""Records come back from their files as they were, and what is no record is refused."""

import json
import types
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, Union, get_args, get_origin

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pydantic import BaseModel, JsonValue
from strategies import architectures, members

from budwood.arch.selection import Selection
from budwood.arch.spec import Architecture
from budwood.records.cost import Cost
from budwood.records.form import RECORD_KINDS, SCHEMA_VERSION, read_records, write_records
from budwood.records.names import Variant
from budwood.records.strict import Strict

TEXTS = st.text(max_size=6)
PLAIN = {
    Architecture: architectures(),
    Selection: members().map(lambda pair: pair[1]),
    bool: st.booleans(),
    int: st.integers(),
    str: TEXTS,
    type(None): st.none(),
    JsonValue: st.one_of(st.integers(), TEXTS, st.none(), st.booleans()),
}


def values(annotation: Any, *, finite: bool) -> st.SearchStrategy[Any]:  # noqa: PLR0911 - a case for every kind of type
    """Return everything that a field may hold."""
    if annotation in PLAIN:
        return PLAIN[annotation]
    if annotation is float:
        return st.floats(allow_nan=not finite, allow_infinity=not finite)
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return records(annotation)
    origin, parts = get_origin(annotation), get_args(annotation)
    if annotation is Variant:
        return st.builds(Variant, st.text(max_size=3), st.text(max_size=3))
    if origin is Literal:
        return st.sampled_from(parts)
    if origin in (Union, types.UnionType):
        return st.one_of(*(values(part, finite=finite) for part in parts))
    if origin in (dict, Mapping):
        return st.dictionaries(values(parts[0], finite=finite), values(parts[1], finite=finite), max_size=2)
    if origin is tuple and parts[-1] is not Ellipsis:
        return st.tuples(*(values(part, finite=finite) for part in parts))
    assert origin in (list, tuple), f"no strategy for {annotation}"
    return st.lists(values(parts[0], finite=finite), max_size=2).map(origin)


def records(kind: type[BaseModel]) -> st.SearchStrategy[Any]:
    """Return records of a kind, with numbers that are none where it allows them."""
    finite = kind.model_config.get("allow_inf_nan") is False
    fields = {field.alias or name: values(field.annotation, finite=finite) for name, field in kind.model_fields.items()}
    return st.fixed_dictionaries(fields).map(kind.model_validate)


def content(record: Strict) -> str:
    """Return a record as text, in which one NaN is like another."""
    return json.dumps(record.model_dump(mode="json"), sort_keys=True)


@pytest.mark.slow
@pytest.mark.parametrize("kind", RECORD_KINDS)
@settings(max_examples=10, suppress_health_check=list(HealthCheck))
@given(data=st.data())
def test_a_record_comes_back_as_it_was(kind: str, tmp_path_factory: pytest.TempPathFactory, data: st.DataObject):
    file = tmp_path_factory.getbasetemp() / f"{kind}.json"
    one = data.draw(records(RECORD_KINDS[kind]))
    write_records(file, one)
    back = read_records(file)
    assert type(back) is type(one)
    assert content(back) == content(one)
    write_records(file, [one, one])
    assert [content(record) for record in read_records(file)] == [content(one)] * 2


@pytest.mark.parametrize("number", ["NaN", "Infinity", "-Infinity"])
def test_numbers_that_are_none_come_back(tmp_path: Path, number: str) -> None:
    """A training that diverged is reported as such."""
    cost = Cost(stage="training", flops=float(number), tokens=1)
    write_records(tmp_path / "cost.json", cost)
    assert f": {number}" in (tmp_path / "cost.json").read_text()
    assert content(read_records(tmp_path / "cost.json")) == content(cost)


def test_an_empty_list_needs_no_kind(tmp_path: Path) -> None:
    write_records(tmp_path / "none.json", [])
    assert read_records(tmp_path / "none.json") == []


def test_records_of_two_kinds_have_two_files(tmp_path: Path) -> None:
    cost = Cost(stage="training", flops=1.0, tokens=1)
    other = RECORD_KINDS["Finalists"](
        fitness="kl", parameter_bin=(1, 2), num_evaluations=0, paper_flops=0.0, candidates=(), costs=()
    )
    with pytest.raises(AssertionError, match="of one kind"):
        write_records(tmp_path / "both.json", [cost, other])


WHOLE = {"schema_version": SCHEMA_VERSION, "kind": "Cost", "value": {"stage": "search", "flops": 1.0, "tokens": 2}}


def without(name: str) -> dict[str, Any]:
    """Return a file's content without one of its entries."""
    return {key: value for key, value in WHOLE.items() if key != name}


@pytest.mark.parametrize(
    ("written", "expected"),
    [
        ("", "is damaged"),
        (json.dumps(WHOLE)[:-10], "is damaged"),
        ("[]", "is damaged"),
        ("null", "is damaged"),
        (json.dumps(without("kind")), "is damaged"),
        (json.dumps(without("schema_version")), "is damaged"),
        (json.dumps(without("value")), "is damaged"),
        (json.dumps(WHOLE | {"schema_version": SCHEMA_VERSION + 1}), f"in version {SCHEMA_VERSION + 1} of the schema"),
        (json.dumps(WHOLE | {"kind": "Invoice"}), "has Invoice in version"),
        (json.dumps(WHOLE | {"kind": None}), "is damaged"),
        (json.dumps(WHOLE | {"kind": ["Cost"]}), "is damaged"),
        (json.dumps(WHOLE | {"value": {"stage": "search"}}), "is damaged (2 fields are wrong)"),
        (json.dumps(WHOLE | {"value": [WHOLE["value"], {"stage": "sleep"}]}), "is damaged (3 fields are wrong)"),
        (json.dumps(WHOLE | {"value": WHOLE["value"] | {"more": 1}}), "is damaged (1 fields are wrong)"),
        (json.dumps(WHOLE | {"value": 3}), "is damaged"),
    ],
)
def test_what_is_no_record_is_refused_with_the_file_and_what_to_do(tmp_path, written, expected):
    file = tmp_path / "cost.json"
    file.write_text(written)
    with pytest.raises(ValueError, match="remove it and run again to rebuild it") as error:
        read_records(file)
    assert str(error.value).startswith(f"{file} ")
    assert expected in str(error.value)


def test_bytes_that_are_no_text_are_refused_too(tmp_path: Path) -> None:
    (tmp_path / "cost.json").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ValueError, match="is damaged"):
        read_records(tmp_path / "cost.json")
