"""Datasets are read row by row, as their cards say, or not at all."""

import gzip
import re
from functools import partial
from zipfile import ZipFile

import datasets
import huggingface_hub
import pytest
import servers
from documents import NOWHERE, changed, source, texts, write_card
from huggingface_hub import HfFileSystem

from budwood.corpus import documents
from budwood.corpus.documents import SourceReader

BAD = {
    b'"text": "\\ud800"': "is no valid text",
    b'"text": "b", "n": %b' % (b"[" * 99_999 + b"]" * 99_999): "cannot be read .*recursion",
    b'"text": "b", "n": %b' % (b"1" * 5000): r"cannot be read .*\(4300 digits\)",
    b'"text": "caf\xe9"': "cannot be read .*'utf-8' codec",
    b'"other": {"x": 1}': "lacks text_field='text'; fields present: other",
    b'"text": ["b"]': "must have text in text_field='text', got list",
    b'"text": "b", "text": "c"': "cannot be read .*an object has two fields 'text'",
    b'"text": tru': "cannot be read .*Expecting value",
}
"""What is between the braces of rows that cannot be used, and the reason."""
LAYOUTS = {
    "lines": lambda rows: b"\n".join(b"{%b}" % row for row in rows),
    "objects": lambda rows: b"\n".join(b"{\n %b\n}" % row for row in rows),
    "array": lambda rows: b"\xef\xbb\xbf [%b] \n" % b",\n".join(b"{%b}" % row for row in rows),
    "field": lambda rows: b'{"n": ["rows", {}], "rows" : [%b]}' % b",".join(b"{%b}" % row for row in rows),
    "mapping": lambda rows: b"{%b}" % b",".join(b'"%d": {%b}' % item for item in enumerate(rows)),
}


@pytest.mark.slow
@pytest.mark.parametrize("layout", LAYOUTS)
def test_every_bad_row_of_a_json_file_is_skipped_alone(tmp_path, monkeypatch, layout):
    monkeypatch.setattr(documents, "_KEPT_FAULTS", len(BAD))
    rows = [row for number, bad in enumerate(BAD) for row in (b'"text": "%d [\\"{"' % number, bad)]
    (tmp_path / "train.json").write_bytes(LAYOUTS[layout]([*rows, b'"text": "last"']))
    if layout == "field":
        write_card(tmp_path, "data_files: train.json\n  field: rows")
    path = {"path": str(tmp_path), "format": "json"} if layout == "mapping" else {"path": (), "dataset": str(tmp_path)}
    reader = SourceReader(source(**path, on_error="skip"), NOWHERE)
    assert [document.text for document in reader] == [*(f'{number} ["{{' for number in range(len(BAD))), "last"]
    assert reader.num_skipped == len(BAD)
    # Lines are counted from 1.
    places = range(1 + (layout == "lines"), 2 * len(BAD) + 1, 2)
    for place, fault, reason in zip(places, reader.faults, BAD.values(), strict=True):
        assert re.fullmatch(rf"{tmp_path}/train.json:{place} {reason}.*", fault)
    with pytest.raises(ValueError, match=rf"source 's': {tmp_path}/train.json:{places[0]} is no valid text"):
        texts(source(**path))


def test_every_file_of_a_dataset_may_have_another_layout(tmp_path):
    (tmp_path / "train-1.json").write_text('{"text": "one"}\n')
    (tmp_path / "train-2.json").write_text('["two", {"text": "three"}]')
    (tmp_path / "train-3.json").write_text('{\n"text": "four",\n"title": "no row"\n}')
    (tmp_path / "train-4.jsonl").write_text('{"text": "five"}\r\n\n{"text": "six"}')
    (tmp_path / "train-5.json").write_text('{"text":\n"seven"}\n{"text": "eight"}')
    numbers = ["one", "two", "three", "four", "five", "six", "seven", "eight"]
    assert texts(source(path=None, dataset=str(tmp_path))) == numbers


@pytest.mark.parametrize(
    ("name", "content", "options"),
    [
        ("a.csv", "n;text\n1;one\n2;no;3\n3;'two'';'\n", 'sep: ;\n  quotechar: "\'"'),
        ("a.csv", 'n;text\n1;one\n2;no;3\n3;"two\';"\n', "delimiter: ;\n  keep_default_na: false\n  header: 0"),
        ("a.csv", '1, one\n2, no, 3\n3, "two\';"\n', "names: [n, text]\n  header: null\n  skipinitialspace: true"),
        ("a.csv", "1,one\n2,no,3\n3,two';\n", "column_names: [n, text]\n  encoding: utf-8"),
        ("a.tsv", "n\ttext\n1\tone\n2\tno\t3\n3\ttwo';\n", "chunksize: 2"),
        ("a.tsv", 'n\ttext\n1\tone\n"2\tno\t3\n"3\ttwo\';\n', "quoting: 3"),
        ("a.json", '{"x": {}, "rows": ["one", 2, "two\';"]}', "field: rows"),
        ("a.json", '{"x": {}, "rows":\n{"text": "one"} }', "field: rows"),
    ],
)
def test_options_of_a_card_are_followed(tmp_path, name, content, options):
    (tmp_path / name).write_text(content)
    write_card(tmp_path, f"data_files: {name}\n  {options}")
    reader = SourceReader(source(path=None, dataset=str(tmp_path), on_error="skip"), NOWHERE)
    found = [document.text for document in reader]
    assert (found, reader.num_skipped) in ((["one", "two';"], 1), (["one"], 0))


@pytest.mark.parametrize("on_error", ["stop", "skip"])
@pytest.mark.parametrize(
    ("name", "options", "reason"),
    [
        ("a.csv", "encoding: latin-1", "{'encoding': 'latin-1'}, which is not followed"),
        ("a.csv", "skiprows: 1", "{'skiprows': 1}, which is not followed"),
        ("a.csv", "on_bad_lines: skip", "{'on_bad_lines': 'skip'}, which is not followed"),
        ("a.csv", "header: null", "{'header': None}, which is not followed"),
        ("a.csv", "names: [text]\n  header: 0", "{'header': 0}, which is not followed"),
        ("a.csv", "quoting: 2", "{'quoting': 2}, which is not followed"),
        ("a.csv", "sep: '::'", '"delimiter" must be a .*character'),
        ("a.txt", "sample_by: paragraph", "{'sample_by': 'paragraph'}, which is not followed"),
        ("a.txt", "keep_linebreaks: true", "{'keep_linebreaks': True}, which is not followed"),
        ("a.json", "encoding_errors: ignore", "{'encoding_errors': 'ignore'}, which is not followed"),
        ("a.json", "field: absent", "a.json:1 cannot be read .*: it is no object with a field 'absent'"),
        ("a.parquet", "filters: [[n, '>', 1]]", "{'filters': .*}, which is not followed"),
        ("a.xml", "encoding: utf-8", "its files are of the kind 'xml'; allowed are"),
    ],
)
def test_other_options_and_kinds_of_files_are_refused(tmp_path, name, options, reason, on_error):
    (tmp_path / name).write_text('{"text": "one"}\n')
    write_card(tmp_path, f"data_files: {name}\n  {options}")
    with pytest.raises(ValueError, match=rf"source 's': .*{tmp_path}.*{reason}"):
        texts(source(path=None, dataset=str(tmp_path), on_error=on_error))


def test_splits_and_configurations_of_a_card_have_the_files_it_names(tmp_path):
    for name in ("a.txt", "b.txt", "c.txt"):
        (tmp_path / name).write_text(f"{name}\nline")
    write_card(
        tmp_path,
        "data_files:\n  - split: train\n    path: [c.txt, a.txt, c.txt]\n  - split: rest\n    path: b.txt\n"
        "- config_name: whole\n  sample_by: document\n  data_files: '*.txt'",
    )
    of = source(path=None, dataset=str(tmp_path), dataset_config="default")
    assert texts(of) == ["c.txt", "line", "a.txt", "line"]
    assert texts(changed(of, dataset_split="rest")) == ["b.txt", "line"]
    assert texts(changed(of, dataset_config="whole")) == ["a.txt\nline", "b.txt\nline", "c.txt\nline"]


def test_archives_are_refused_by_name(tmp_path):
    with ZipFile(tmp_path / "train.zip", "w") as archive:
        archive.writestr("train.jsonl", '{"text": "one"}')
    with pytest.raises(ValueError, match=r"train.zip is no file of the kind 'json', .*; unpack or"):
        texts(source(path=None, dataset=str(tmp_path)))


CARD = """---
configs:
- config_name: default
  data_files:
  - split: train
    path: data/*.jsonl.gz
- config_name: objects
  data_files: "objects.json"
---
"""


@pytest.fixture
def hub(monkeypatch, tmp_path):
    """The address of a hub on this machine, which the libraries are led to, with a dataset of three files."""
    files = {
        "README.md": CARD.encode(),
        "data/a.jsonl.gz": gzip.compress(b'{"text": "one"}\n{"te\n{"text": "two"}\n'),
        "data/b.jsonl.gz": gzip.compress(b'{"text": "three"}\n'),
        "objects.json": b'{\n"text": "four"\n}\n{\n"text": 5\n}',
    }
    with servers.serving(partial(servers.Hub, files)) as address:
        template = huggingface_hub.constants.HUGGINGFACE_CO_URL_TEMPLATE
        patched: dict[str, object] = {
            "HUGGINGFACE_CO_URL_TEMPLATE": template.replace(huggingface_hub.constants.ENDPOINT, address),
            "ENDPOINT": address,
            "HF_HUB_OFFLINE": False,
            "HF_HUB_CACHE": str(tmp_path / "hub"),
        }
        for name, value in patched.items():
            monkeypatch.setattr(huggingface_hub.constants, name, value)
        for name, value in {"HF_ENDPOINT": address, "HF_HUB_OFFLINE": False, "HF_DATASETS_CACHE": tmp_path}.items():
            monkeypatch.setattr(datasets.config, name, value)
        HfFileSystem.clear_instance_cache()
        yield address
        HfFileSystem.clear_instance_cache()


@pytest.mark.slow
@pytest.mark.usefixtures("hub")
def test_datasets_of_the_hub_are_read_row_by_row():
    of = source(path=None, dataset=servers.DATASET, on_error="skip")
    url = f"hf://datasets/{servers.DATASET}@{servers.COMMIT}"
    reader = SourceReader(of, NOWHERE)
    assert [document.text for document in reader] == ["one", "two", "three"]
    assert reader.faults[0].startswith(f"{url}/data/a.jsonl.gz:2 cannot be read as ")
    assert reader.fingerprint(reader.position) == SourceReader(of, NOWHERE).fingerprint(reader.position)
    with pytest.raises(ValueError, match=rf"source 's': {url}/objects.json:1 must have text in text_field='text'"):
        texts(changed(of, dataset_config="objects", revision="main", on_error="stop"))
    for path in ("/data", "/data/*.jsonl.gz", f"@{servers.COMMIT}/data"):
        files = source(path=f"hf://datasets/{servers.DATASET}{path}", format="jsonl", on_error="skip")
        assert texts(files) == ["one", "two", "three"]
    for changes, message in [
        ({"dataset": "owner/none"}, "dataset='owner/none' cannot be read: .*doesn't exist on the Hub"),
        ({"dataset_config": "none"}, "dataset_config='none' cannot be read: .*not found"),
        ({"dataset": None, "path": f"hf://datasets/{servers.DATASET}/none.txt"}, "no file is found at"),
    ]:
        with pytest.raises(ValueError, match=f"source 's': .*{message}"):
            texts(changed(of, **changes))
