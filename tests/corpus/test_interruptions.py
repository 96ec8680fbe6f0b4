"""A packing that is killed, or meets a damaged file or a full disk, ends as one that nothing has happened to."""

import errno
import os
import signal
from pathlib import Path

import numpy as np
import pytest
from corpora import source, tokenize, write
from processes import run_python
from projects import ROOT

from budwood.corpus import ingestion, shards
from budwood.corpus.packing import INDEX_FILE, TOKENS_FILE, PackedCorpus

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("small_portions")]


def test_rows_left_out_are_counted_once_when_a_run_continues(word_tokenizer, tmp_path, monkeypatch):
    file = Path(write(tmp_path / "rows.jsonl", range(200)))
    lines = file.read_text().splitlines()
    file.write_text(
        "\n".join(
            "broken" if number % 20 == 5 else '{"text": " "}' if number % 20 == 6 else line
            for number, line in enumerate(lines)
        )
    )
    rows = source(file, on_error="skip")
    whole = tokenize([rows], word_tokenizer, tmp_path / "whole")
    flush, left = shards.ShardWriter.flush, [4]

    def fail(self, state):
        if not left[0]:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        left[0] -= 1
        flush(self, state)

    with monkeypatch.context() as patch:
        patch.setattr(shards.ShardWriter, "flush", fail)
        with pytest.raises(OSError, match="no space left"):
            tokenize([rows], word_tokenizer, tmp_path / "corpus")
    continued = tokenize([rows], word_tokenizer, tmp_path / "corpus")
    left_out = {"skipped_rows": 10, "empty_rows": 10, "equal_documents": 0, "near_documents": 0}
    assert continued.omitted == whole.omitted == left_out
    assert continued.fingerprint == whole.fingerprint


@pytest.mark.parametrize("file", [TOKENS_FILE, INDEX_FILE])
@pytest.mark.parametrize("damage", ["altered", "cut", "removed"])
def test_a_damaged_corpus_is_packed_anew(word_tokenizer, tmp_path, caplog, file, damage):
    rows = source(write(tmp_path / "rows.jsonl", range(100)))
    whole = tokenize([rows], word_tokenizer, tmp_path / "corpus")
    path = tmp_path / "corpus" / file
    content = path.read_bytes()
    path.unlink()
    if damage != "removed":
        path.write_bytes(content[:40] + b"7" + content[41:] if damage == "altered" else content[:-9])
    with pytest.raises(ValueError, match=rf"{path} .*: remove {path.parent} to pack the text again"):
        PackedCorpus.open(path.parent)
    again = tokenize([rows], word_tokenizer, tmp_path / "corpus")
    assert f"Packing the text again: {path}" in caplog.text
    assert again.fingerprint == whole.fingerprint
    assert path.read_bytes()[:40] == content[:40]


KILLED = """
import os, signal
from pathlib import Path
from corpora import NUM_WORDS, SMALL, shards, source, tokenize
from words import make_tokenizer
for module, name, value in SMALL:
    setattr(module, name, value)
calls = 0
def deadly(function):
    def call(*args, **kwargs):
        global calls
        calls += 1
        if calls == 4:
            os.kill(os.getpid(), signal.SIGKILL)
        return function(*args, **kwargs)
    return call
{patch}
tokenize([source({file!r})], make_tokenizer(NUM_WORDS), Path({folder!r}), num_processes={num_processes})
"""


@pytest.mark.parametrize(
    ("patch", "num_processes"),
    [
        ("Path.rename = deadly(Path.rename)", 1),
        ("Path.rename = deadly(Path.rename)", 2),
        ("shards._Ranges.segments = deadly(shards._Ranges.segments)", 1),
    ],
    ids=["while a shard is written", "with processes", "while the corpus is written"],
)
def test_a_killed_run_continues_and_ends_the_same(word_tokenizer, tmp_path, patch, num_processes):
    file, folder = write(tmp_path / "rows.jsonl", range(400)), tmp_path / "corpus"
    script = KILLED.format(patch=patch, file=file, folder=str(folder), num_processes=num_processes)
    paths = os.pathsep.join([str(ROOT / "src"), str(ROOT / "tests")])
    done = run_python(["-c", script], tmp_path, os.environ | {"PYTHONPATH": paths})
    assert done.returncode == -signal.SIGKILL, done.stderr
    assert not folder.exists()
    kept = {path: path.stat().st_mtime_ns for path in (tmp_path / "corpus.shards").glob("*/tokens.bin")}
    assert len([path for path in kept if path.parent.suffix != ".partial"]) >= 3
    opened = []
    original = shards.ShardWriter.flush
    shards.ShardWriter.flush = lambda self, state: (opened.append(state), original(self, state))[1]
    try:
        continued = tokenize([source(file)], word_tokenizer, folder)
    finally:
        shards.ShardWriter.flush = original
    whole = tokenize([source(file)], word_tokenizer, tmp_path / "whole")
    assert (folder / TOKENS_FILE).read_bytes() == (tmp_path / "whole" / TOKENS_FILE).read_bytes()
    assert continued.fingerprint == whole.fingerprint
    if "segments" in patch:
        assert not opened, "nothing was tokenised again"
    else:
        assert opened[0].documents > 30, "the first shards were not made again"


def test_a_damaged_file_is_named_and_what_came_before_is_kept(word_tokenizer, tmp_path):
    (tmp_path / "rows").mkdir()
    for part in range(3):
        write(tmp_path / "rows" / f"{part}.jsonl", range(100 * part, 100 * part + 100))
    whole = tokenize([source(tmp_path / "rows")], word_tokenizer, tmp_path / "whole")
    middle = tmp_path / "rows" / "1.jsonl"
    good = middle.read_bytes()
    middle.write_bytes(good.replace(b'"text"', b'"text', 60).replace(b'"text', b'"text"', 59))
    for _ in range(2):
        with pytest.raises(ValueError, match=r"source 's': .*1.jsonl:60 cannot be read as format='jsonl': Expecting"):
            tokenize([source(tmp_path / "rows")], word_tokenizer, tmp_path / "corpus")
    first = tmp_path / "corpus.shards" / "0000-000000" / "tokens.bin"
    made = first.stat().st_mtime_ns
    middle.write_bytes(good)
    flushed = []
    original = shards.ShardWriter.flush
    shards.ShardWriter.flush = lambda self, state: (flushed.append(first.stat().st_mtime_ns), original(self, state))[1]
    try:
        corpus = tokenize([source(tmp_path / "rows")], word_tokenizer, tmp_path / "corpus")
    finally:
        shards.ShardWriter.flush = original
    assert set(flushed) == {made}, "the first shard was kept"
    assert corpus.fingerprint == whole.fingerprint


def test_too_small_a_disk_is_told_of_before_anything_is_written(word_tokenizer, tmp_path, monkeypatch):
    file = write(tmp_path / "rows.jsonl", range(1000))
    usage = ingestion.shutil.disk_usage(tmp_path)
    monkeypatch.setattr(ingestion.shutil, "disk_usage", lambda _: usage._replace(free=10_000))
    with pytest.raises(ValueError, match=r"needs about 0.00 GB more .* 0.00 GB are free.*\['s'\] max_tokens"):
        tokenize([source(file)], word_tokenizer, tmp_path / "corpus")
    assert not list((tmp_path / "corpus.shards").glob("0*"))
    # 1000 documents of 3.5 tokens, two bytes each, twice: 14 kB.
    monkeypatch.setattr(ingestion.shutil, "disk_usage", lambda _: usage._replace(free=30_000))
    tokenize([source(file)], word_tokenizer, tmp_path / "corpus")


def test_a_disk_that_fills_up_keeps_what_is_there(word_tokenizer, tmp_path, monkeypatch):
    file = write(tmp_path / "rows.jsonl", range(300))
    flush, left = shards.ShardWriter.flush, [2]

    def full(self, state):
        if not left[0]:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        left[0] -= 1
        flush(self, state)

    with monkeypatch.context() as patch:
        patch.setattr(shards.ShardWriter, "flush", full)
        with pytest.raises(OSError, match=r"no space left for .*corpus.shards; what is there stays"):
            tokenize([source(file)], word_tokenizer, tmp_path / "corpus")
    assert len(list((tmp_path / "corpus.shards").glob("0*"))) == 2
    assert tokenize([source(file)], word_tokenizer, tmp_path / "corpus").counts()["documents"].sum() == 300


def test_a_torn_shard_is_not_taken_for_a_whole_one(word_tokenizer, tmp_path):
    file = Path(write(tmp_path / "rows.jsonl", range(100)))
    file.write_text(file.read_text() + "not json\n")
    with pytest.raises(ValueError, match="cannot be read"):
        tokenize([source(file)], word_tokenizer, tmp_path / "corpus")
    shard = tmp_path / "corpus.shards" / "0000-000001" / "tokens.bin"
    shard.write_bytes(shard.read_bytes()[:-2])
    with pytest.raises(ValueError, match=r"0000-000001 is damaged .*: delete .*corpus.shards and run again"):
        shards.merge(shard.parents[1], 1, tmp_path / "merged.bin", np.dtype("uint16"), progress=False)


def stop_after(patch, batches):
    """Interrupt a packing after some batches."""
    add, left = ingestion._SourceRun._add, [batches]

    def stop(self, batch, documents):
        add(self, batch, documents)
        left[0] -= 1
        if not left[0]:
            raise KeyboardInterrupt

    patch.setattr(ingestion._SourceRun, "_add", stop)


def test_what_has_no_limit_depends_on_neither_interruptions_nor_processes(word_tokenizer, tmp_path, monkeypatch):
    """Two splits fill up, one long before the other; the third has no limit. More processes only read further ahead."""
    rows = source(
        write(tmp_path / "rows.jsonl", range(150)),
        splits={"train": 0.5, "validation": 0.3, "calibration": 0.2},
        max_tokens={"train": 100, "validation": 10},
    )
    expected = tokenize([rows], word_tokenizer, tmp_path / "portions")
    assert (expected.num_tokens("train"), expected.num_tokens("validation")) == (100, 10)
    monkeypatch.setattr(shards, "SHARD_BYTES", 2**20)
    found = {}
    for ahead in (1, 6, 40):
        monkeypatch.setattr(ingestion, "_AHEAD", ahead)
        found[f"{ahead} batches ahead"] = tokenize([rows], word_tokenizer, tmp_path / f"{ahead}")
    for batches in range(1, 7):
        folder = tmp_path / f"stopped after {batches}"
        with monkeypatch.context() as patch:
            stop_after(patch, batches)
            with pytest.raises(KeyboardInterrupt):
                tokenize([rows], word_tokenizer, folder)
        found[folder.name] = tokenize([rows], word_tokenizer, folder)
    tokens = (expected.folder / TOKENS_FILE).read_bytes()
    assert {name for name, corpus in found.items() if (corpus.folder / TOKENS_FILE).read_bytes() != tokens} == set()
    assert {corpus.fingerprint for corpus in found.values()} == {expected.fingerprint}
