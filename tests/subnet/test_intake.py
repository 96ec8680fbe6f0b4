"""A teacher is taken in only where transformers, our reading of its files and its whole cut agree."""

import json

import pytest
import torch
from safetensors.torch import load_file, save_file
from teachers import TEACHERS, TYPICAL, families, tiny_teacher

from budwood.models.checkpoint import Checkpoint, load_tokenizer
from budwood.models.conversion import check_tokenizer
from budwood.models.teacher import byte_tokenizer
from budwood.subnet import intake
from budwood.subnet.intake import verify_teacher

BYTES = 257


@pytest.fixture
def folder(tmp_path):
    """Write a tiny teacher of some family with a tokenizer of bytes."""

    def write(name="llama tied", **changes):
        family, tied = TEACHERS[name]
        model = tiny_teacher(family, tied=tied, vocab_size=BYTES, **changes)
        model.save_pretrained(tmp_path / name)
        byte_tokenizer().save_pretrained(tmp_path / name)
        return tmp_path / name

    return write


def verify(folder):
    return verify_teacher(Checkpoint.open(folder), load_tokenizer(folder))


@pytest.mark.parametrize("name", families(*TYPICAL))
def test_every_family_passes(folder, name):
    record = verify(folder(name))
    assert (record.num_tokens, record.dtype) == (48, "float32")
    assert record.reading_difference < 1e-6
    assert record.cut_difference < 1e-5


def test_weights_in_bfloat16_are_compared_in_float32(tmp_path):
    tiny_teacher("gemma3_text", tied=True, vocab_size=BYTES).to(torch.bfloat16).save_pretrained(tmp_path)
    byte_tokenizer().save_pretrained(tmp_path)
    record = verify(tmp_path)
    assert (record.dtype, record.tolerance) == ("float32", 1e-4)
    assert record.cut_difference < 1e-5


def test_a_layerwise_export_is_a_teacher_too(own_folder):
    check_tokenizer(own_folder)
    assert verify(own_folder).cut_difference < 1e-5


def test_a_tied_flag_beside_another_head_is_read_as_transformers_reads_it(folder):
    changed = folder("llama untied")
    config = json.loads((changed / "config.json").read_text()) | {"tie_word_embeddings": True}
    (changed / "config.json").write_text(json.dumps(config))
    opened = Checkpoint.open(changed)
    assert not opened.architecture.tie_word_embeddings
    assert verify(changed).cut_difference < 1e-5
    # Equal tensors are tied.
    weights = load_file(changed / "model.safetensors")
    weights["lm_head.weight"] = weights["model.embed_tokens.weight"].clone()
    save_file(weights, changed / "model.safetensors", metadata={"format": "pt"})
    assert Checkpoint.open(changed).architecture.tie_word_embeddings
    assert verify(changed).cut_difference < 1e-5


@pytest.mark.parametrize("reading", ["our reading of its files", "its whole cut"])
def test_another_reading_is_refused(folder, monkeypatch, reading):
    name = "_read" if reading.startswith("our") else "_cut"
    honest = getattr(intake, name)
    monkeypatch.setattr(intake, name, lambda *given: honest(*given) + 0.1)
    with pytest.raises(ValueError, match=f"cannot be cut: {reading} computes something else"):
        verify(folder())


def test_logits_that_are_not_finite_are_refused(folder, monkeypatch):
    monkeypatch.setattr(intake, "_cut", lambda _, __, ids: torch.full((1, ids.shape[1], BYTES), torch.nan))
    with pytest.raises(ValueError, match="cannot be cut: its whole cut"):
        verify(folder())


def test_damaged_weights_are_refused(folder):
    broken = folder()
    weights = load_file(broken / "model.safetensors")
    weights["model.norm.weight"][0] = torch.nan
    save_file(weights, broken / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ValueError, match="logits that are not finite"):
        verify(broken)


def test_ids_beyond_the_vocabulary_are_refused(tmp_path):
    tiny_teacher("llama", tied=True).save_pretrained(tmp_path)
    byte_tokenizer().save_pretrained(tmp_path)
    with pytest.raises(ValueError, match=r"it makes the id \d+, the model has 97"):
        verify(tmp_path)
