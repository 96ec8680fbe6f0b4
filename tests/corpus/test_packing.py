"""Packing loses no token, and windows predict every token once."""

import json
import logging
import os
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from corpora import tokenize_and_pack
from hypothesis import given
from hypothesis import strategies as st
from words import EOS, make_tokenizer, split_documents

from budwood.corpus.packing import INDEX_FILE, TOKENS_FILE, PackedCorpus, Segment
from budwood.records import hashes
from budwood.records.hashes import MEMORY, hash_file


@pytest.fixture(scope="module")
def tokenizer():
    return make_tokenizer()


def make_documents(rows):
    """One row per (split, source, ids)."""
    table = [(split, source, " ".join(f"w{token}" for token in ids)) for split, source, ids in rows]
    return pd.DataFrame(table, columns=["split", "source", "text"])


@pytest.fixture
def documents():
    """In train 12 documents `a` of ids 1..12 and 3 documents `b` of ids 21..23, id n repeated n mod 5 + 1 times."""
    rows = [("validation", "a", [31, 32])]
    rows += [("train", "a", [number] * (number % 5 + 1)) for number in range(1, 13)]
    rows += [("train", "b", [number] * (number % 5 + 1)) for number in range(21, 24)]
    return make_documents(rows)


def pack(documents, tokenizer, folder, seed=0):
    return tokenize_and_pack(documents, tokenizer, seed=seed, folder=folder, progress=False)


def test_every_document_is_there_once_and_ended(documents, tokenizer, tmp_path):
    corpus = pack(documents, tokenizer, tmp_path / "corpus")
    assert [(part.split, part.source) for part in corpus.segments] == [
        ("train", "a"), ("train", "b"), ("validation", "a")
    ]  # fmt: skip
    for part in corpus.segments:
        wanted = documents[(documents["split"] == part.split) & (documents["source"] == part.source)]["text"]
        expected = [tuple(int(word[1:]) for word in text.split()) for text in wanted]
        found = split_documents(corpus.tokens[part.start : part.stop])
        assert sorted(found) == sorted(expected)
        assert part.documents == len(expected)
    assert corpus.segments[-1].stop == len(corpus.tokens)


def test_what_training_learns_is_read_on_the_sources_that_it_reads(tokenizer, tmp_path):
    """Text that is only searched with and reported says nothing of what a training saves."""
    rows = [("train", "a", [1] * 9), ("train", "b", [2] * 9), ("selection", "wiki", [3] * 9)]
    rows += [("validation", source, [number] * 9) for source, number in (("a", 11), ("b", 12), ("wiki", 13))]
    corpus = pack(make_documents(rows), tokenizer, tmp_path / "corpus")
    read = corpus.read(corpus.heldout_starts(4, 4), 4)
    assert read[:, 1].tolist() == [11, 12, 11, 12]
    with pytest.raises(ValueError, match=r"4 windows of length=4 .*asked for 5"):
        corpus.heldout_starts(4, 5)


def test_counts_and_num_tokens(documents, tokenizer, tmp_path):
    corpus = pack(documents, tokenizer, tmp_path / "corpus")
    # Source a: lengths 2 3 4 5 1 2 3 4 5 1 2 3 = 35 and 12 ends; b: lengths 2 3 4 = 9 and 3 ends.
    assert corpus.counts().to_dict("list") == {
        "split": ["train", "train", "validation"],
        "source": ["a", "b", "a"],
        "documents": [12, 3, 1],
        "tokens": [47, 12, 3],
    }
    assert (corpus.num_tokens("train"), corpus.num_tokens("train", "b")) == (59, 12)
    left_out = replace(corpus, omitted={"skipped_rows": 2, "near_documents": 0}).all_counts()
    assert left_out[:3].equals(corpus.counts().astype({"tokens": "Int64"}))
    assert left_out[["split", "source", "documents"]].to_numpy()[3:].tolist() == [
        ["omitted", "skipped_rows", 2],
        ["omitted", "near_documents", 0],
    ]
    assert left_out["tokens"][3:].isna().all()


def test_order_depends_on_the_seed_and_on_nothing_else(documents, tokenizer, tmp_path):
    first = pack(documents, tokenizer, tmp_path / "0")
    other = pack(documents, tokenizer, tmp_path / "1", seed=1)
    alone = pack(documents[documents["source"] == "a"], tokenizer, tmp_path / "2")
    a, other_a, alone_a = (corpus.tokens[:47] for corpus in (first, other, alone))
    assert not np.array_equal(a, other_a)
    np.testing.assert_array_equal(a, alone_a)
    assert split_documents(a) != sorted(split_documents(a))


def test_fingerprint_follows_content(documents, tokenizer, tmp_path):
    def fingerprint(name, documents=documents, tokenizer=tokenizer, seed=0):
        return pack(documents, tokenizer, tmp_path / name, seed).fingerprint

    first = fingerprint("0")
    tokenizer(["w1 w2"], truncation=True, max_length=1)  # leaves truncation set in the backend
    assert fingerprint("again") == first
    renamed = documents.assign(source=documents["source"] + "x")
    others = [
        fingerprint("seed", seed=1),
        fingerprint("fewer", documents=documents.iloc[1:]),
        fingerprint("renamed", documents=renamed),
        fingerprint("tokenizer", tokenizer=make_tokenizer(num_words=101)),
    ]
    assert len({first, *others}) == 5


@pytest.mark.slow
@pytest.mark.parametrize(("num_words", "dtype"), [(65_536, "uint16"), (65_537, "uint32")])
def test_ids_take_two_bytes_where_they_fit(tmp_path, num_words, dtype):
    corpus = pack(make_documents([("train", "a", [num_words - 1])]), make_tokenizer(num_words), tmp_path / "corpus")
    assert corpus.tokens.dtype == dtype
    assert corpus.tokens.tolist() == [num_words - 1, EOS]
    assert (corpus.vocab_size, corpus.eos_token_id) == (num_words, EOS)


def test_opening_maps_what_packing_returned(documents, tokenizer, tmp_path):
    packed = pack(documents, tokenizer, tmp_path / "corpus")
    opened = PackedCorpus.open(tmp_path / "corpus")
    assert isinstance(opened.tokens, np.memmap)
    np.testing.assert_array_equal(opened.tokens, packed.tokens)
    assert {**vars(opened), "tokens": None} == {**vars(packed), "tokens": None}


def test_a_truncated_file_is_refused(documents, tokenizer, tmp_path):
    pack(documents, tokenizer, tmp_path)
    path = tmp_path / TOKENS_FILE
    path.write_bytes(path.read_bytes()[:-2])
    with pytest.raises(ValueError, match=rf"{path} has 61 tokens, its index.json has 62: remove {tmp_path} "):
        PackedCorpus.open(tmp_path)


def test_tokens_are_hashed_once_and_again_when_their_file_was_touched(documents, tokenizer, tmp_path, monkeypatch):
    corpus = pack(documents, tokenizer, tmp_path)
    path, read = tmp_path / TOKENS_FILE, []
    monkeypatch.setattr(hashes, "hash_file", lambda file: read.append(file) or hash_file(file))
    monkeypatch.setattr(hashes, "_SETTLING_NS", -(10**9))  # the file is seconds old
    for _ in range(3):
        assert PackedCorpus.open(tmp_path).fingerprint == corpus.fingerprint
    assert read == [path]
    content = bytearray(path.read_bytes())
    content[7] ^= 1
    with path.open("r+b") as file:
        file.write(content)
    times = path.stat()
    os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns))
    with pytest.raises(ValueError, match=rf"{path} is not what was packed: remove {tmp_path} to pack the text again"):
        PackedCorpus.open(tmp_path)


@pytest.mark.parametrize("content", ["", "{", "[]", '{"segments": {}}'])
def test_a_damaged_index_is_refused_in_a_sentence(documents, tokenizer, tmp_path, content):
    pack(documents, tokenizer, tmp_path)
    (tmp_path / INDEX_FILE).write_text(content)
    with pytest.raises(ValueError, match=rf"^{tmp_path / INDEX_FILE} .*: remove {tmp_path} to pack the text again$"):
        PackedCorpus.open(tmp_path)


def test_what_a_kill_left_is_replaced(documents, tokenizer, tmp_path):
    partial = tmp_path / "corpus.partial"
    partial.mkdir()
    (partial / "rest").touch()
    old = pack(documents.iloc[:3], tokenizer, tmp_path / "corpus")
    new = pack(documents, tokenizer, tmp_path / "corpus")
    assert old.fingerprint != new.fingerprint
    assert [path.name for path in tmp_path.iterdir()] == ["corpus"]
    assert {path.name for path in (tmp_path / "corpus").iterdir()} - {MEMORY} == {TOKENS_FILE, INDEX_FILE}


def test_a_failure_leaves_the_old_corpus(documents, tokenizer, tmp_path):
    old = pack(documents, tokenizer, tmp_path / "corpus")
    with pytest.raises(TypeError):
        pack(documents.assign(text=[["no text"]] * len(documents)), tokenizer, tmp_path / "corpus")
    assert PackedCorpus.open(tmp_path / "corpus").fingerprint == old.fingerprint


def test_foreign_files_are_never_deleted(documents, tokenizer, tmp_path):
    (tmp_path / "thesis.tex").touch()
    with pytest.raises(ValueError, match="no packed corpus"):
        pack(documents, tokenizer, tmp_path)
    assert (tmp_path / "thesis.tex").exists()


def test_progress_goes_to_standard_error(documents, tokenizer, tmp_path, capfd, caplog):
    with caplog.at_level(logging.WARNING):
        tokenize_and_pack(documents, tokenizer, seed=0, folder=tmp_path / "corpus")
    assert "Shuffle: 100%" in capfd.readouterr().err
    assert not caplog.messages, "documents longer than the model's context are no mistake"


def test_unusable_input_is_refused(documents, tokenizer, tmp_path):
    cases = [
        (documents, make_tokenizer(eos=None), "must have an eos_token"),
        (documents.iloc[:0], tokenizer, "at least one document"),
        (documents.assign(split="test"), tokenizer, r"\['test'\]; allowed are \['train'"),
    ]
    for table, with_tokenizer, message in cases:
        with pytest.raises(ValueError, match=message):
            pack(table, with_tokenizer, tmp_path / "corpus")


def in_memory(weights=(), **num_tokens):
    """A corpus of one split whose tokens count up from 0 through all sources."""
    segments, stop = [], 0
    for source, number in num_tokens.items():
        segments.append(Segment(split="train", source=source, start=stop, stop=stop + number, documents=1))
        stop += number
    return PackedCorpus(
        folder=None,
        segments=tuple(segments),
        tokens=np.arange(stop, dtype=np.uint16),
        tokens_sha256="",
        vocab_size=stop,
        eos_token_id=0,
        bos_token_id=None,
        seed=0,
        tokenizer_fingerprint="",
        fingerprint="",
        weights=dict(weights),
    )


@given(sizes=st.lists(st.integers(2, 30), min_size=1, max_size=3), length=st.integers(1, 7))
def test_a_first_token_changes_no_target(sizes, length):
    plain = in_memory(**{f"s{number}": size for number, size in enumerate(sizes)})
    if not plain.segments[0].num_windows(length):
        return
    begun = replace(plain, bos_token_id=500)
    windows, expected = begun.windows("train", length), plain.windows("train", length)
    np.testing.assert_array_equal(windows[:, 1:], expected[:, 1:])
    assert set(windows[:, 0].tolist()) == {500}
    assert 500 not in windows[:, 1:]
    starts = plain.window_starts("train", length)
    np.testing.assert_array_equal(begun.read_packed(starts, length), expected)
    np.testing.assert_array_equal(begun.read(starts[0], length), windows[0])


def test_the_text_of_a_source_is_as_packed():
    corpus = in_memory(a=10, b=5)
    assert corpus.text("train", "b").tolist() == [10, 11, 12, 13, 14]
    with pytest.raises(ValueError, match="source='c' is not in split"):
        corpus.text("train", "c")


def test_windows_take_turns_between_sources():
    windows = in_memory(a=10, b=5, c=2).windows("train", 2)
    assert windows.dtype == np.int64
    # a: 0..9 has four windows, its 9 is only a target's follower; b: 10..14 has two; c: 15, 16 has none.
    assert windows.tolist() == [[0, 1, 2], [10, 11, 12], [2, 3, 4], [12, 13, 14], [4, 5, 6], [6, 7, 8]]


@given(sizes=st.lists(st.integers(1, 40), min_size=1, max_size=4), length=st.integers(1, 7), limit=st.integers(1, 30))
def test_windows_predict_each_token_once_and_stay_inside(sizes, length, limit):
    corpus = in_memory(**{f"s{number}": size for number, size in enumerate(sizes)})
    available = sum((size - 1) // length for size in sizes)
    if not available:
        with pytest.raises(ValueError, match="has 0 windows"):
            corpus.windows("train", length)
        return
    windows = corpus.windows("train", length)
    assert windows.shape == (available, length + 1)
    expected = {part.start + 1 + n for part in corpus.segments for n in range((part.num_tokens - 1) // length * length)}
    targets = windows[:, 1:].ravel().tolist()
    assert len(targets) == len(expected)
    assert set(targets) == expected
    np.testing.assert_array_equal(windows[:, 1:], windows[:, :-1] + 1)
    if limit <= available:
        np.testing.assert_array_equal(corpus.windows("train", length, limit=limit), windows[:limit])


def test_windows_of_one_source():
    assert in_memory(a=10, b=5).windows("train", 2, source="b").tolist() == [[10, 11, 12], [12, 13, 14]]


def test_weights_mix_the_training_windows_and_keep_their_number():
    corpus = in_memory({"a": 3.0, "b": 1.0}, a=9, b=17)
    starts = corpus.window_starts("train", 2)
    # a has 4 windows and b 8. Of 12, a share of 3/4 is 9: a is read two and a quarter times, b stops after three.
    assert sorted(starts.tolist()) == sorted([0, 2, 4, 6] * 2 + [0] + [9, 11, 13])
    # Every four windows that follow one another hold the mixture.
    assert [(starts[first : first + 4] < 9).sum() for first in (0, 4, 8)] == [3, 3, 3]
    assert corpus.window_starts("train", 2, source="b").tolist() == list(range(9, 25, 2))


@given(
    sizes=st.lists(st.integers(3, 200), min_size=2, max_size=4),
    weights=st.lists(st.floats(0.1, 10), min_size=4, max_size=4),
    part=st.floats(0.2, 1),
)
def test_any_first_part_of_the_training_windows_holds_the_mixture(sizes, weights, part):
    names = [f"s{number}" for number in range(len(sizes))]
    corpus = in_memory(dict(zip(names, weights, strict=False)), **dict(zip(names, sizes, strict=True)))
    starts = corpus.window_starts("train", 2)
    first = starts[: round(part * len(starts))]
    shares = np.array(weights[: len(sizes)]) / sum(weights[: len(sizes)])
    assert abs(len(starts) - sum((size - 1) // 2 for size in sizes)) <= len(sizes)
    edges = [segment.start for segment in corpus.segments] + [corpus.segments[-1].stop]
    counts, _ = np.histogram(first, edges)
    np.testing.assert_allclose(counts, shares * len(first), atol=len(sizes))


def test_equal_weights_are_turns_and_evaluation_splits_are_never_repeated():
    corpus = in_memory({"a": 3.0, "b": 1.0}, a=9, b=17)
    held_out = PackedCorpus(**vars(corpus) | {"segments": tuple(replace(s, split="choice") for s in corpus.segments)})
    starts = held_out.window_starts("choice", 2)
    assert sorted(starts.tolist()) == [0, 2, 4, 6, *range(9, 25, 2)]
    assert (starts[:4] < 9).sum() == 3


def test_a_weighted_source_without_a_window_is_refused():
    with pytest.raises(ValueError, match="source 'b' has a weight but no window in the training split"):
        in_memory({"a": 1.0, "b": 1.0}, a=9, b=2).window_starts("train", 2)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            {"limit": 7},
            r"split 'train' has 6 windows of length=2 \(17 tokens\), asked for 7; add text",
        ),
        ({"source": "c"}, r"split 'train' has 0 windows of length=2 \(2 tokens of c\), asked for all"),
        ({"source": "d"}, r"source='d' is not in split 'train', which has \['a', 'b', 'c'\]"),
        ({"limit": 0}, "at least 1, got length=2, limit=0"),
    ],
)
def test_windows_that_are_not_there_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        in_memory(a=10, b=5, c=2).windows("train", 2, **options)


def test_an_unknown_split_is_refused():
    with pytest.raises(ValueError, match=r"no document is in split='choice', only in \['train'\]; add"):
        in_memory(a=10).num_tokens("choice")


def test_the_index_can_be_read_without_budwood(documents, tokenizer, tmp_path):
    pack(documents, tokenizer, tmp_path)
    index = json.loads((tmp_path / INDEX_FILE).read_text())
    assert index["segments"]["train"]["b"] == {"start": 47, "stop": 59, "documents": 3}
    assert (index["dtype"], index["vocab_size"], index["eos_token_id"], index["seed"]) == ("uint16", 100, EOS, 0)
