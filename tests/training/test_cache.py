"""A cache gives what the teacher would compute again."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from budwood.corpus.packing import PackedCorpus
from budwood.models.device import Compute
from budwood.training.cache import CacheFacts, TeacherCache, bytes_of_sequence, columns, write_cache
from budwood.training.order import training_order
from budwood.training.settings import DistillationSettings
from budwood.training.teacher import cache_facts, open_live_teacher

CPU = Compute(torch.device("cpu"), "float32")
VOCABULARY = 257
SETTINGS = {
    "topk_tail": DistillationSettings(loss="topk_tail", top_k=9, teacher="cached", temperature=1.5),
    "sampled": DistillationSettings(loss="sampled", num_samples=12, teacher="cached"),
}
every_kind = pytest.mark.parametrize("settings", SETTINGS.values(), ids=SETTINGS)


@pytest.fixture(params=[None, 256], ids=["as packed", "first token"])
def corpus(request, corpus_folder):
    return replace(PackedCorpus.open(corpus_folder), bos_token_id=request.param)


@pytest.fixture
def write(make_job, corpus, teacher_folder, tmp_path):
    """Return a writer of caches for the sequences of the default job."""
    starts = training_order(corpus, make_job().schedule)

    def run(settings, folder="cache", batch_size=7, stop_after=None):
        teacher = open_live_teacher(teacher_folder, settings, CPU)
        facts = cache_facts(teacher_folder, corpus, 12, settings)
        asked = []

        def ask(input_ids, where):
            if len(asked) == stop_after:
                raise KeyboardInterrupt
            asked.append(len(where))
            return teacher.entries(input_ids, where)

        return write_cache(tmp_path / folder, ask, corpus, starts, facts, batch_size), asked, facts, starts, teacher

    return run


def contents(folder):
    return {file.name: file.read_bytes() for file in folder.glob("*.bin")}


@every_kind
def test_what_is_read_is_what_the_teacher_computes(settings, write, corpus):
    cache, _, facts, starts, teacher = write(settings)
    cache.check(facts, starts)
    some = starts[[5, 0, 5, 9]]
    ids = corpus.read(some, 12)[:, :-1]
    read = cache.read(some, ids)
    computed = teacher.entries(torch.from_numpy(ids), torch.from_numpy(some))
    assert len(read["ids"]) == 48
    if settings.loss == "sampled":
        for entries in (read, computed):  # counts of every token of the vocabulary
            entries["dense"] = torch.zeros(48, VOCABULARY, dtype=torch.long)
            entries["dense"].scatter_add_(1, entries["ids"], entries["counts"].long())
        assert torch.equal(read["dense"], computed["dense"])
        assert read["dense"].sum(-1).tolist() == [12] * 48
        torch.testing.assert_close(read["mean_log_prob"], computed["mean_log_prob"])
    else:
        assert torch.equal(read["ids"], computed["ids"])
        torch.testing.assert_close(read["log_probs"].float(), computed["log_probs"], rtol=2**-11, atol=0)
        torch.testing.assert_close(read["log_rest"], computed["log_rest"])


@every_kind
def test_every_sequence_is_read_once_and_bytes_are_counted_and_logged(settings, write, caplog):
    with caplog.at_level("INFO"):
        cache, asked, _, starts, _ = write(settings)
    assert f"{cache.record.bytes_per_token:.0f} bytes per token" in caplog.text
    assert sum(asked) == len(np.unique(starts)) == cache.record.rows
    assert cache.record.tokens == 12 * sum(asked)
    size = sum(map(len, contents(cache.folder).values())) - 8 * sum(asked)  # without the starts
    assert cache.record.bytes_per_token == pytest.approx(size / cache.record.tokens)
    predicted = bytes_of_sequence(cache.facts) / 12
    if settings.loss == "topk_tail":
        assert cache.record.bytes_per_token == predicted == 2 + 9 * (2 + 2) + 4
    assert cache.record.bytes_per_token <= predicted
    assert write(settings)[1] == []


@pytest.mark.slow
@every_kind
@pytest.mark.parametrize("stop", [0, 1, 2])
def test_a_killed_writer_continues(settings, write, stop, tmp_path):
    whole = write(settings, "whole")[0]
    with pytest.raises(KeyboardInterrupt):
        write(settings, "killed", stop_after=stop)
    with pytest.raises(ValueError, match="is unfinished"):
        TeacherCache.open(tmp_path / "killed")
    with (tmp_path / "killed/ids.bin").open("ab") as file:
        file.write(b"half a batch")
    cache, asked, *_ = write(settings, "killed")
    assert len(asked) == -(-cache.record.rows // 7) - stop
    assert contents(cache.folder) == contents(whole.folder)


def test_two_students_read_one_cache_which_has_its_own_text_only(write, corpus):
    cache, *_, starts, _ = write(SETTINGS["sampled"])
    again = TeacherCache.open(cache.folder)
    assert again.fingerprint == cache.fingerprint
    ids = corpus.read(starts[:2], 12)[:, :-1]
    for one, other in zip(cache.read(starts[:2], ids).values(), again.read(starts[:2], ids).values(), strict=True):
        assert torch.equal(one, other)
    with pytest.raises(ValueError, match=f"has no such sequence at {starts[0]}"):
        cache.read(starts[:1], ids[:1] + 1)
    with pytest.raises(ValueError, match="has no such sequence at 99999"):
        cache.read(np.array([99999]), ids[:1])


def test_foreign_caches_are_refused_with_all_that_differs(write):
    cache, _, facts, starts, _ = write(SETTINGS["topk_tail"])
    with pytest.raises(ValueError, match="is of something else") as error:
        cache.check(facts.changed({"teacher": "other", "num_entries": 3, "temperature": 1.0, "tokenizer": "t"}), starts)
    assert "teacher is " in str(error.value)
    for part in ("needed 'other'", "num_entries is 9, needed 3", "temperature is 1.5, needed 1.0", "needed 't'"):
        assert part in str(error.value)
    with pytest.raises(ValueError, match=r"lacks 1 of \d+ sequences"):
        cache.check(facts, np.append(starts, 10**6))


def alter(file):
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(content)


def empty(file):
    file.write_bytes(b"")


def cut(file):
    file.write_bytes(file.read_bytes()[:-1])


harms = pytest.mark.parametrize("harm", [alter, empty, cut, Path.unlink])


def test_a_missing_cache_is_refused(tmp_path):
    with pytest.raises(ValueError, match="does not exist"):
        TeacherCache.open(tmp_path / "nowhere")


@pytest.mark.slow
@harms
@pytest.mark.parametrize("name", ["log_probs.bin", "tokens.bin", "starts.bin"])
def test_a_finished_cache_is_not_opened_after_damage_and_is_written_anew_once_removed(write, tmp_path, name, harm):
    before = contents(write(SETTINGS["topk_tail"])[0].folder)
    harm(tmp_path / "cache" / name)
    refused = rf"cache .*cache is damaged \(.*{name}.*\): remove this folder and run again"
    with pytest.raises(ValueError, match=refused):
        TeacherCache.open(tmp_path / "cache")
    with pytest.raises(ValueError, match=refused):
        write(SETTINGS["topk_tail"])
    shutil.rmtree(tmp_path / "cache")
    assert contents(write(SETTINGS["topk_tail"])[0].folder) == before


@pytest.mark.parametrize("content", ["", "{", "[]", "{}"])
def test_damaged_json_is_named(write, tmp_path, content):
    write(SETTINGS["sampled"])
    (tmp_path / "cache/index.json").write_text(content)
    with pytest.raises(ValueError, match=r"cache is damaged \(.*\): remove this folder"):
        TeacherCache.open(tmp_path / "cache")
    with pytest.raises(KeyboardInterrupt):
        write(SETTINGS["sampled"], "killed", stop_after=1)
    (tmp_path / "killed/progress.json").write_text(content)
    with pytest.raises(ValueError, match=r"killed is damaged \(progress\.json .*\): remove this folder"):
        write(SETTINGS["sampled"], "killed")


def test_a_full_check_finds_damage_that_file_times_do_not_show(write, monkeypatch):
    cache, *_ = write(SETTINGS["topk_tail"])
    sealed = json.loads((cache.folder / "seal.json").read_text())
    alter(cache.folder / "log_probs.bin")
    monkeypatch.setattr("budwood.records.seal.hash_files", lambda *_: sealed)
    TeacherCache.open(cache.folder)
    with pytest.raises(ValueError, match=r"damaged \(log_probs\.bin changed since it was written\)"):
        write(SETTINGS["topk_tail"])


@harms
@pytest.mark.parametrize("name", ["lengths.bin", "ids.bin"])
def test_a_writer_does_not_continue_after_damage(write, tmp_path, name, harm):
    with pytest.raises(KeyboardInterrupt):
        write(SETTINGS["sampled"], stop_after=1)
    harm(tmp_path / "cache" / name)
    with pytest.raises(ValueError, match=rf"is damaged \({name} (is shorter|changed)"):
        write(SETTINGS["sampled"])


def test_a_folder_with_another_unfinished_cache_is_refused(write):
    with pytest.raises(KeyboardInterrupt):
        write(SETTINGS["sampled"], stop_after=1)
    with pytest.raises(ValueError, match="unfinished cache of another teacher, text or loss"):
        write(SETTINGS["topk_tail"])


def test_a_large_vocabulary_takes_wider_ids(write):
    cache, _, facts, *_ = write(SETTINGS["topk_tail"])
    index = json.loads((cache.folder / "index.json").read_text())
    assert CacheFacts.model_validate(index["facts"]) == facts
    assert cache.data["ids"].dtype == np.uint16
    assert {c.dtype for c in columns(facts.changed({"vocab_size": 2**16 + 1})) if c.name == "ids"} == {
        np.dtype(np.uint32)
    }
