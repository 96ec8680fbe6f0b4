"""What cannot be read is one error with file, row and reason, or is skipped and counted where that is wanted."""

import gzip
import os
from pathlib import Path

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from documents import NOWHERE, changed, source, texts, write_card, write_jsonl

from budwood.corpus.documents import SourceReader


@pytest.mark.parametrize(
    ("content", "changes", "message"),
    [
        ('{"title": "x", "body": "y"}', {"format": "jsonl"}, "lacks text_field='text'; fields present: title, body"),
        ('"text"', {"format": "jsonl"}, "lacks text_field='text'; fields present: none"),
        ('{"text": 3}', {"format": "jsonl"}, "file:1 must have text in text_field='text', got int"),
        (
            '{"text": "x"}\n{"text"',
            {"format": "jsonl"},
            r"file:2 cannot be read as format='jsonl': Expecting.*; mend the row, or set on_error: skip",
        ),
        ('["x",\n]', {"format": "json"}, "file:1 cannot be read as format='json': Expecting value"),
        (
            '{"a": "x", }',
            {"format": "json"},
            "file:1 cannot be read as format='json': nothing is before or after a comma",
        ),
        ("[3]", {"format": "json"}, "file:0 lacks text_field='text'; fields present: none"),
        ("3", {"format": "json"}, "file:1 cannot be read as format='json': it is no object or array but 3"),
        ('{"text": "x"}\n{"text": "y"}', {"format": "json"}, "file:2 cannot be .*: more follows after its byte 13"),
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
        ("o\0n\0e\0", {}, "file cannot be read as format='text': it has the byte 0, as .* UTF-16 do; mend the row, or"),
        ("one\no\0n\0e\0", {"format": "lines"}, "file:2 cannot be read as format='lines': it has the byte 0"),
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


@pytest.mark.parametrize("name", ["train-2.jsonl", "train-2.ndjson.gz", "train-2.json"])
@pytest.mark.parametrize("line", [b'{"te', b'{"text": "b"', b"}", b'"'])
def test_a_bad_line_of_a_dataset_is_skipped_alone(tmp_path, name, line):
    write_jsonl(tmp_path / f"train-1{name[7:]}".removesuffix(".gz"), [{"text": "one"}, {"text": "two"}])
    for lines in ((b'{"text": "3"}', line, b'{"text": "4"}'), (line, b'{"text": "3"}', b'{"text": "4"}', line)):
        content = b"\n".join(lines)
        (tmp_path / name).write_bytes(gzip.compress(content) if name.endswith(".gz") else content)
        of, number = source(path=None, dataset=str(tmp_path)), 1 + lines.index(line)
        with pytest.raises(ValueError, match=rf"source 's': {tmp_path}/{name}:{number} cannot be read as .*'json': "):
            texts(of)
        reader = SourceReader(changed(of, on_error="skip"), NOWHERE)
        assert [document.text for document in reader] == ["one", "two", "3", "4"]
        assert reader.num_skipped == lines.count(line)


def write_parquet(path, texts):
    """Write texts in latin-1, which no reader of parquet expects."""
    binary = pa.array([text.encode("latin-1") for text in texts])
    pq.write_table(pa.table({"text": pa.Array.from_buffers(pa.string(), len(texts), binary.buffers())}), path)


@pytest.mark.parametrize("extension", ["json", "parquet"])
def test_a_bad_entry_or_row_of_a_dataset_is_skipped_alone(tmp_path, extension):
    if extension == "json":
        (tmp_path / "train.json").write_text('\ufeff[{"text": "one"}, {"text": 2}, "two"]')
    else:
        write_parquet(tmp_path / "train.parquet", ["one", "café", "two"])
    of = source(path=None, dataset=str(tmp_path))
    with pytest.raises(
        ValueError, match=rf"source 's': {tmp_path}/train.{extension}:1 (must have text|cannot be read)"
    ):
        texts(of)
    reader = SourceReader(changed(of, on_error="skip"), NOWHERE)
    assert [document.text for document in reader] == ["one", "two"]
    assert reader.num_skipped == 1


CSV = b"""\xef\xbb\xbfn,text
1,one
2,two,3
3,"two, of ""two""
lines"
4,caf\xe9

5,"six" and
6
7,NA
"""


@pytest.mark.parametrize("as_dataset", [True, False])
def test_a_bad_row_of_a_csv_file_is_skipped_alone(tmp_path, as_dataset):
    (tmp_path / "train.csv.gz").write_bytes(gzip.compress(CSV))
    of = source(dataset=str(tmp_path), path=None) if as_dataset else source(path=str(tmp_path), format="csv")
    with pytest.raises(
        ValueError, match=r"train.csv.gz:3 cannot be read as format='csv': 3 fields below a header of 2"
    ):
        texts(of)
    reader = SourceReader(changed(of, on_error="skip"), NOWHERE)
    assert [(document.id.rpartition(":")[2], document.text) for document in reader] == [
        ("2", "one"), ("5", 'two, of "two"\nlines'), ("10", "NA")
    ]  # fmt: skip
    assert [fault.partition(".csv.gz:")[2] for fault in reader.faults] == [
        "3 cannot be read as format='csv': 3 fields below a header of 2",
        "6 cannot be read as format='csv': 'utf-8' codec can't decode byte 0xe9 in position 5: unexpected end of data",
        "8 cannot be read as format='csv': ',' expected after '\"'",
        "9 lacks text_field='text'; fields present: n",
    ]


@pytest.mark.parametrize("as_dataset", [True, False])
def test_a_bad_line_of_text_is_skipped_alone(tmp_path, as_dataset):
    (tmp_path / "train.txt").write_bytes(b"\xef\xbb\xbfone\r\ncaf\xe9\n\rtwo")
    of = source(dataset=str(tmp_path), path=None) if as_dataset else source(path=str(tmp_path), format="lines")
    with pytest.raises(ValueError, match=r"train.txt:2 cannot be read as format='lines': 'utf-8' codec"):
        texts(of)
    reader = SourceReader(changed(of, on_error="skip"), NOWHERE)
    assert [(document.id.rpartition(":")[2], document.text) for document in reader] == [("1", "one"), ("4", "two")]
    assert reader.num_skipped == 1


def test_blank_lines_and_carriage_returns_separate_csv_records(tmp_path):
    (tmp_path / "train.csv").write_bytes(b'\r \rn,text\r1,"one\rtwo"\r\t\r2,three')
    assert texts(source(path=None, dataset=str(tmp_path))) == ["one\rtwo", "three"]


@pytest.mark.parametrize("on_error", ["stop", "skip"])
@pytest.mark.parametrize(
    ("name", "content", "reason"),
    [
        ("train.csv", b"text,text\none,two\n", "its header names 2 columns 'text'"),
        ("train.csv", b"caf\xe9,text\n1,one\n", "its header: 'utf-8' codec can't decode byte 0xe9"),
        ("train.csv", "text\none\n".encode("utf-16"), "its header: 'utf-8' codec can't decode byte 0xff"),
        ("train.txt", "one\ntwo\n".encode("utf-16"), "it is UTF-16"),
        ("train.jsonl", '{"text": "one"}\n{"text": "two"}\n'.encode("utf-16"), "it is UTF-16"),
        ("train.csv.gz", b"", "it is empty, which a compressed file never is"),
    ],
)
def test_a_file_that_cannot_be_divided_into_rows_is_damaged(tmp_path, name, content, reason, on_error):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ValueError, match=rf"{name}:1 cannot be read as format='\w+': {reason}"):
        texts(source(path=None, dataset=str(tmp_path), on_error=on_error))


@pytest.mark.parametrize("name", ["train-1.json", "train-1.jsonl", "train-1.csv", "train-1.txt"])
def test_empty_files_of_a_dataset_have_no_rows(tmp_path, name):
    (tmp_path / name).write_text("")
    of = source(path=None, dataset=str(tmp_path))
    with pytest.raises(ValueError, match=f"source 's' is empty: no text in {tmp_path}"):
        texts(of)
    rows = {"json": '{"text": "one"}\n', "jsonl": '{"text": "one"}', "csv": "text\none", "txt": "one"}
    (tmp_path / name.replace("1", "2")).write_text(rows[name.partition(".")[2]])
    assert texts(of) == ["one"]


def test_names_that_are_no_utf_8_are_spelt_out(tmp_path):
    Path(os.fsdecode(bytes(tmp_path) + b"/caf\xe9.json")).write_text('{"\\ud800": "one", "k": {"\\udc00": ""}}')
    reader = SourceReader(source(path=str(tmp_path), format="json", on_error="skip"), NOWHERE)
    assert [document.id for document in reader] == [r"caf\udce9.json:\ud800"]
    assert reader.faults == (rf"{tmp_path}/caf\udce9.json:k lacks text_field='text'; fields present: \udc00",)


def test_a_dataset_that_is_read_in_another_way_has_changed(tmp_path):
    (tmp_path / "train.csv").write_text("text\none\n")
    of = source(path=None, dataset=str(tmp_path))
    before = SourceReader(of, NOWHERE)
    assert [document.text for document in before] == ["one"]
    write_card(tmp_path, "data_files: train.csv\n  sep: ;")
    after = SourceReader(of, NOWHERE)
    assert before.fingerprint(before.position) != after.fingerprint(before.position)
    assert before.fingerprint(["text", *before.position[1:]]) != before.fingerprint(before.position)


@pytest.mark.parametrize("on_error", ["stop", "skip"])
@pytest.mark.parametrize(
    ("content", "line", "reason"),
    [
        (b'text\none\n"two\n"three", four\n', 2, "the record that begins in line 3: ',' expected after '\"'"),
        (b'text\none\n"two\nthree\n', 2, "the record that begins in line 3: unexpected end of data"),
        (b'"te', 1, "its header: unexpected end of data"),
    ],
)
def test_a_quote_that_takes_other_rows_along_is_damage(tmp_path, content, line, reason, on_error):
    (tmp_path / "train.csv").write_bytes(content)
    with pytest.raises(ValueError, match=rf"train.csv:{line} cannot be read as format='csv': {reason}"):
        texts(source(path=None, dataset=str(tmp_path), on_error=on_error))


@pytest.mark.parametrize("on_error", ["stop", "skip"])
@pytest.mark.parametrize("name", ["train.json", "train.json.gz"])
@pytest.mark.parametrize(
    ("content", "reason"),
    [
        ('{\n"text": "one",\n"more', "the string that begins with its byte 18 does not end"),
        ('{"text":\n"one",\n"more": []', "1 of its objects and arrays do not end"),
        ('{\n"text": "one"\n}\n}', "its byte 19 ends what did not begin"),
    ],
)
def test_a_cut_object_is_an_error_with_its_file(tmp_path, name, content, reason, on_error):
    data = content.encode()
    (tmp_path / name).write_bytes(gzip.compress(data) if name.endswith(".gz") else data)
    with pytest.raises(ValueError, match=rf"source 's': {tmp_path}/{name}:\d cannot be read as .*: {reason}"):
        texts(source(path=None, dataset=str(tmp_path), on_error=on_error))


@pytest.mark.parametrize("stem", ["train.json", "train.jsonl", "train.csv", "train.txt"])
def test_a_torn_archive_is_an_error_with_its_source(tmp_path, stem):
    (tmp_path / f"{stem}.gz").write_bytes(gzip.compress(b'{\n"text": "one"\n}\n')[:12])
    with pytest.raises(ValueError, match=rf"source 's': .*{tmp_path}.*(end-of-stream|[Tt]runcated|cannot be read)"):
        texts(source(path=None, dataset=str(tmp_path)))


@pytest.mark.parametrize("on_error", ["stop", "skip"])
def test_a_broken_array_is_a_damaged_file(tmp_path, on_error):
    (tmp_path / "train.json").write_text('[{"text": "one"}, {"te')
    for of in ({"dataset": str(tmp_path), "path": None}, {"path": str(tmp_path), "format": "json"}):
        with pytest.raises(
            ValueError, match=r"train.json:1 cannot be read as format='json': it is cut: .* not end with \]"
        ):
            texts(source(**of, on_error=on_error))


def test_two_columns_of_one_name_are_refused(tmp_path):
    columns = [pa.array(["one"]), pa.array(["two"])]
    pq.write_table(pa.table(columns, names=["text", "text"]), tmp_path / "a.parquet")
    with pytest.raises(ValueError, match=r"a.parquet:1 cannot be read as format='parquet': it has 2 columns 'text'"):
        texts(source(path=str(tmp_path), format="parquet"))


def nested_parquet(depth):
    """A file without rows, one of whose columns is nested as deeply as Arrow would not write it, in Thrift's form."""

    def number(value):
        return bytes([*(value >> shift & 127 | 128 for shift in range(0, 21, 7)), value >> 21])

    text = b"\x15\x0c\x25\x02\x18\x04text\x00"  # type, repetition and name of a node of the schema
    schema = b"\x48\x01s\x15\x04\x00" + text + b"\x35\x02\x18\x01a\x15\x02\x00" * depth + text
    lists = b"\x19\xfc" + number(depth + 3) + schema + b"\x16\x00\x19\x0c"  # the schema, no rows, no row groups
    footer = b"\x15\x02" + lists + b"\x00"
    return b"PAR1" + footer + len(footer).to_bytes(4, "little") + b"PAR1"


@pytest.mark.parametrize(
    ("depth", "reason"),
    [(50, ""), (101, "its columns are nested more than 100 deep"), (100_000, "Exceeded size limit")],
)
@pytest.mark.parametrize("text_field", ["text", "other"])
def test_nesting_of_parquet_columns_does_not_end_the_process(tmp_path, depth, reason, text_field):
    (tmp_path / "a.parquet").write_bytes(nested_parquet(depth))
    message = f"cannot be read as format='parquet': .*{reason}" if reason else "source 's' is empty"
    with pytest.raises(ValueError, match=message):
        texts(source(path=str(tmp_path), format="parquet", text_field=text_field))


def test_a_torn_parquet_file_is_refused(tmp_path):
    file = tmp_path / "rows.parquet"
    pd.DataFrame({"text": ["one", "two"]}).to_parquet(file)
    file.write_bytes(file.read_bytes()[:-5])
    with pytest.raises(ValueError, match=r"rows.parquet:1 cannot be read as format='parquet'"):
        texts(source(path=str(file), format="parquet"))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"dataset": "no/such/folder"}, r"dataset='no/such/folder' cannot be read: "),
        ({"dataset": "text"}, r"dataset='text' cannot be read: .* called owner/name"),
        ({"dataset_split": "test"}, r"dataset_split='test' is none of its splits \['train'\]"),
        ({"dataset_config": "other"}, r"dataset_config='other' cannot be read: "),
        ({"revision": "main"}, r"revision='main' cannot be read: a folder has no revision"),
    ],
)
def test_a_dataset_that_is_not_there_is_refused(tmp_path, changes, message):
    write_jsonl(tmp_path / "train.jsonl", [{"text": "one"}])
    with pytest.raises(ValueError, match=message):
        texts(source(path=None, **{"dataset": str(tmp_path)} | changes))
