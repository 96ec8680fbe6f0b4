"""Rows of JSON are those that a parser of the whole file finds, however it is laid out and whatever is in it."""

import json

import fsspec
from hypothesis import given
from hypothesis import strategies as st

from budwood.corpus.files import find_files
from budwood.corpus.formats import DamagedError, RowFormat, Unreadable, read_rows

TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=8) | st.sampled_from(['"', "\\\\", "[{", "},", '\\"'])
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | TEXT,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXT, inner, max_size=3),
    max_leaves=6,
)
OBJECTS = st.lists(st.dictionaries(TEXT, VALUES, min_size=1, max_size=3), max_size=5)
INDENTS = st.sampled_from([None, 0, 1, 4, "\t"])


def rows_of(content: bytes, *, objects: bool, skip: int = 0) -> list[object]:
    """Return the rows that are read of a file with some content."""
    memory = fsspec.filesystem("memory")
    memory.pipe("/law/rows.json", content)
    (file,) = find_files("memory://law/rows.json", "json")
    return [row for _, row, _ in read_rows(file, RowFormat("json", "text", objects=objects), skip)]


@given(OBJECTS, INDENTS, st.booleans(), st.integers(0, 5))
def test_rows_are_the_values_of_every_layout(rows, indent, ascii_only, skip):
    def dumps(value: object, indent: int | str | None = indent) -> str:
        return json.dumps(value, indent=indent, ensure_ascii=ascii_only)

    layouts: list[tuple[bool, str]] = [
        (True, dumps(rows)),
        (True, "\n".join(map(dumps, rows))),
        (False, dumps(rows)),
        (False, dumps({f"key {number}": row for number, row in enumerate(rows)})),
    ]
    for objects, content in layouts:
        assert rows_of(content.encode(), objects=objects, skip=skip) == rows[skip:]


@given(OBJECTS, INDENTS, st.data())
def test_rows_of_a_damaged_array_are_those_of_a_parser_or_unreadable(rows, indent, data):
    content = bytearray(json.dumps(rows, indent=indent).encode())
    for _ in range(data.draw(st.integers(1, 2))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.sampled_from(b'"{}[],:\\\x00\n1a\xff'))
    try:
        whole = json.loads(content.decode())
    except ValueError:
        whole = None
    try:
        found = rows_of(bytes(content), objects=False)
    except DamagedError:
        assert not isinstance(whole, list)
        return
    damaged = any(isinstance(row, Unreadable) for row in found)
    if isinstance(whole, list):
        # Two fields of one name are the only JSON that is refused.
        assert found == [{"text": row} if isinstance(row, str) else row for row in whole] or "two fields" in str(found)
    else:
        assert damaged or isinstance(whole, dict)
