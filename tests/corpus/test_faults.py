"""What cannot be read is one error with file, row and reason, or is skipped and counted where that is wanted."""

import gzip

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from documents import NOWHERE, changed, source, texts, write_jsonl

from budwood.corpus.documents import SourceReader


@pytest.mark.parametrize(
    ("content", "changes", "message"),
    [
        ('{"title": "x", "body": "y"}', {"format": "jsonl"}, "lacks text_field='text'; fields present: title, body"),
        ('"text"', {"format": "jsonl"}, "lacks text_field='text'; fields present: none"),
        ('{"text": 3}', {"format": "jsonl"}, "file:1 must have text in text_field='text', got int"),
        ('{"text": "x"}\n{"text"', {"format": "jsonl"}, r"file:2 cannot be read as format='jsonl': Expecting"),
        ('["text"]', {"format": "json"}, "file:0 lacks text_field='text'; fields present: none"),
        ("3", {"format": "json"}, "file cannot be read as format='json': it is no object or array but 3"),
        ('{"text": "x"}\n{"text": "y"}', {"format": "json"}, "cannot be read as format='json': Extra data: line 2"),
        (
            '{"text": "a"}\n{"text": "x\\ud83dy"}',
            {"format": "jsonl"},
            r"file:2 is no valid text: '\\ud83d', its character 2",
        ),
        ('{"text": %s}' % ("[" * 200_000), {"format": "jsonl"}, "file:1 cannot be read as format='jsonl': .*recursion"),
        ('{"text": "a", "n": %s}' % ("1" * 5000), {"format": "jsonl"}, r"file:1 cannot be read .* \(4300 digits\)"),
        ('{"meta": {"id": 1}}', {"format": "jsonl", "text_field": "meta.text"}, "fields present in meta: id"),
        ('{"text": null}', {"format": "jsonl"}, "is empty"),
        (" \n", {}, "is empty"),
    ],
)
def test_unreadable_content_is_refused(tmp_path, content, changes, message):
    (tmp_path / "file").write_text(content)
    with pytest.raises(ValueError, match=message):
        texts(source(path=str(tmp_path / "file"), **changes))


def test_a_missing_column_names_those_present(tmp_path):
    pd.DataFrame({"title": ["x"], "body": ["y"]}).to_parquet(tmp_path / "rows.parquet")
    with pytest.raises(ValueError, match="lacks text_field='text'; fields present: title, body"):
        texts(source(path=str(tmp_path), format="parquet"))


def test_bad_rows_are_skipped_and_counted_where_that_is_wanted(tmp_path):
    file = tmp_path / "rows.jsonl"
    file.write_bytes(
        b'{"text": "one"}\n{"tex\n{"body": "x"}\n{"text": "caf\xe9"}\n{"text": "\\ud800"}\n{"text": "two"}\n{"te'
    )
    skipping = source(path=str(file), format="jsonl", on_error="skip")
    reader = SourceReader(skipping, NOWHERE)
    assert [document.text for document in reader] == ["one", "two"]
    assert reader.num_skipped == 5
    assert [fault.partition(" ")[0] for fault in reader.faults] == [f"{file}:{line}" for line in (2, 3, 4, 5, 7)]
    with pytest.raises(
        ValueError, match=r"rows.jsonl:2 cannot be read as format='jsonl': Invalid control|Unterminated"
    ):
        texts(changed(skipping, on_error="stop"))
    (tmp_path / "latin.txt").write_bytes("café".encode("latin-1"))
    with pytest.raises(ValueError, match=r"latin.txt cannot be read as format='text': 'utf-8' codec"):
        texts(source(path=str(tmp_path)))
    with pytest.raises(
        ValueError, match=r"is empty: .*; 1 rows were skipped, the first because .*latin.txt cannot be read"
    ):
        texts(source(path=str(tmp_path), on_error="skip"))


def test_text_of_parquet_that_is_no_utf8_is_named_by_row(tmp_path):
    column = pa.array([b"one", "é".encode("latin-1"), b"two"]).cast(pa.binary())
    column = pa.Array.from_buffers(pa.string(), 3, column.buffers())
    pq.write_table(pa.table({"text": column}), tmp_path / "rows.parquet")
    rows = source(path=str(tmp_path), format="parquet")
    with pytest.raises(ValueError, match=r"rows.parquet:1 cannot be read as format='parquet': 'utf-8' codec"):
        texts(rows)
    assert texts(changed(rows, on_error="skip")) == ["one", "two"]


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b'{"text": "b"}\n{"te', "ArrowInvalid: JSON parse error"),
        (b'{"other": {"x": 1}}\n', "Cast|schema|column"),
        (b'{"text": "caf\xe9"}\n', "utf-8|UTF8|UTF-8"),
        (b'{"text": ["b"]}\n', "Cast|convert|type"),
    ],
    ids=["broken last line", "schema drift", "latin-1", "other type"],
)
def test_faults_of_a_dataset_name_file_row_and_reason(tmp_path, content, reason):
    """By their names these files could be JSON of any kind, which `datasets` reads as a whole."""
    write_jsonl(tmp_path / "train-1.json", [{"text": "one"}, {"text": "two"}])
    (tmp_path / "train-2.json").write_bytes(content)
    with pytest.raises(ValueError, match=rf"source 's': row 2 of {tmp_path}, in {tmp_path}/train-2.json.*({reason})"):
        texts(source(path=None, dataset=str(tmp_path)))


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b'{"te', "cannot be read as format='jsonl': Expecting|Unterminated|Invalid"),
        (b'{"other": {"x": 1}}', "lacks text_field='text'; fields present: other"),
        (b'{"text": "caf\xe9"}', "cannot be read as format='jsonl': 'utf-8'"),
        (b'{"text": ["b"]}', "must have text in text_field='text', got list"),
    ],
    ids=["broken line", "schema drift", "latin-1", "other type"],
)
@pytest.mark.parametrize("name", ["train-2.jsonl", "train-2.ndjson.gz"])
def test_a_bad_line_of_a_dataset_is_skipped_alone(tmp_path, content, reason, name):
    write_jsonl(tmp_path / "train-1.jsonl", [{"text": "one"}, {"text": "two"}])
    lines = b'{"text": "three"}\n' + content + b'\n{"text": "four"}\n'
    (tmp_path / name).write_bytes(gzip.compress(lines) if name.endswith(".gz") else lines)
    of = source(path=None, dataset=str(tmp_path))
    with pytest.raises(ValueError, match=rf"source 's': {tmp_path}/{name}:2 .*({reason})"):
        texts(of)
    reader = SourceReader(changed(of, on_error="skip"), NOWHERE)
    assert [document.text for document in reader] == ["one", "two", "three", "four"]
    assert reader.num_skipped == 1


def test_unusable_rows_of_a_dataset_are_faults_too(tmp_path):
    write_jsonl(tmp_path / "train.json", [{"text": 1}, {"text": 2}])
    numbers = source(path=None, dataset=str(tmp_path))
    with pytest.raises(ValueError, match=r"row 0 of .*, in .*train.json must have text in text_field='text', got int"):
        texts(numbers)
    with pytest.raises(ValueError, match=r"is empty: .*; 2 rows were skipped, the first because row 0 of"):
        texts(changed(numbers, on_error="skip"))


def test_a_torn_parquet_file_is_refused(tmp_path):
    file = tmp_path / "rows.parquet"
    pd.DataFrame({"text": ["one", "two"]}).to_parquet(file)
    file.write_bytes(file.read_bytes()[:-5])
    with pytest.raises(ValueError, match=r"rows.parquet:1 cannot be read as format='parquet'"):
        texts(source(path=str(file), format="parquet"))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"dataset": "no/such/folder"}, r"dataset='no/such/folder' cannot be opened with dataset_config=None"),
        ({"dataset_split": "test"}, r"dataset_split='test' and revision=None: Bad split"),
        ({"dataset_config": "other"}, r"dataset_config='other'"),
    ],
)
def test_a_dataset_that_is_not_there_is_refused(tmp_path, changes, message):
    write_jsonl(tmp_path / "train.jsonl", [{"text": "one"}])
    with pytest.raises(ValueError, match=message):
        texts(source(path=None, **{"dataset": str(tmp_path)} | changes))
