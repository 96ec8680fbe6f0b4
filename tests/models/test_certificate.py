"""A certificate is given only to a folder that computes what the child computes and has the size it should have."""

import json
from dataclasses import replace

import pytest
import torch
from safetensors.torch import load_file, save_file
from teachers import HALF
from transformers import AutoModelForCausalLM

from budwood.arch.bins import ParameterBin
from budwood.arch.count import num_parameters
from budwood.models.certificate import TOLERANCE, Origin, certify, probe_ids
from budwood.models.export import write_checkpoint
from budwood.models.teacher import fingerprint
from budwood.subnet.extract import extract_child, own_weights

pytestmark = pytest.mark.parametrize("teacher", ["llama tied"], indirect=True)

ORIGIN = Origin(
    teacher="tree",
    teacher_revision="r1",
    teacher_fingerprint="f1",
    corpus_fingerprint="c1",
    ordering="activation",
    rope="preserve",
    compensation=("neurons", "pairs"),
    channels=(2, 0),
    layers=(1,),
)


@pytest.fixture
def child(orders, selection):
    return own_weights(extract_child(orders["activation", "preserve"], selection))


@pytest.fixture
def folder(child, teacher_folder, tmp_path):
    return write_checkpoint(child, teacher_folder, tmp_path / "child")


def test_the_record_states_what_was_checked(child, folder, child_architecture):
    count = num_parameters(child_architecture)
    record = certify(child, folder, child_architecture, ParameterBin(count, count + 1), ORIGIN)
    assert json.loads(json.dumps(record)) == record
    assert record["num_parameters"] == record["num_parameters_closed_form"] == count
    assert record["parameter_bin"] == [count, count + 1]
    assert record["largest_logit_difference"] <= TOLERANCE
    assert record["native"] is child_architecture.is_uniform
    assert record["class"] == type(child).__name__
    assert record["fingerprint"] == fingerprint(folder)
    assert (record["teacher"], record["teacher_revision"], record["rope"]) == ("tree", "r1", "preserve")
    assert record["compensation"] == ["neurons", "pairs"]
    assert (record["kept_channels"], record["kept_layers"]) == ([2, 0], [1])


def test_anybody_can_compute_the_probe_again(child, folder, child_architecture):
    count = num_parameters(child_architecture)
    record = certify(child, folder, child_architecture, ParameterBin(count, count + 1), ORIGIN)
    loaded = AutoModelForCausalLM.from_pretrained(folder, trust_remote_code=True)
    with torch.no_grad():
        logits = loaded(torch.tensor([record["probe"]["input_ids"]])).logits[0]
    torch.testing.assert_close(logits[:, record["probe"]["columns"]], torch.tensor(record["probe"]["logits"]))


def test_a_child_in_half_precision_is_compared_in_full(orders, teacher_folder, selection, child_architecture, tmp_path):
    halved = orders["activation", "preserve"].materialise(HALF)
    child = own_weights(extract_child(halved, selection))
    folder = write_checkpoint(child, teacher_folder, tmp_path / "half")
    count = num_parameters(child_architecture)
    record = certify(child, folder, child_architecture, ParameterBin(count, count + 1), ORIGIN)
    assert record["largest_logit_difference"] <= TOLERANCE


def test_a_folder_with_another_weight_is_refused(child, folder, child_architecture):
    count = num_parameters(child_architecture)
    before = fingerprint(folder)
    state = load_file(folder / "model.safetensors")
    state["model.layers.1.mlp.down_proj.weight"][3, 2] += 0.5
    save_file(state, folder / "model.safetensors", metadata={"format": "pt"})
    assert fingerprint(folder) != before
    with pytest.raises(ValueError, match="computes other logits"):
        certify(child, folder, child_architecture, ParameterBin(count, count + 1), ORIGIN)


def test_a_count_other_than_the_closed_form_is_refused(child, folder, child_architecture):
    first = child_architecture.layers[0]
    wider = (replace(first, intermediate_size=first.intermediate_size + 1), *child_architecture.layers[1:])
    with pytest.raises(ValueError, match="the closed form"):
        certify(child, folder, replace(child_architecture, layers=wider), ParameterBin(1, 10**9), ORIGIN)


@pytest.mark.parametrize("offset", [-10, 1])
def test_a_count_outside_the_bin_is_refused(child, folder, child_architecture, offset):
    low = num_parameters(child_architecture) + offset
    with pytest.raises(ValueError, match="outside"):
        certify(child, folder, child_architecture, ParameterBin(low, low + 9), ORIGIN)


def test_probes_are_tokens_of_the_vocabulary(teacher):
    for vocab_size in (5, teacher.config.vocab_size, 50_304):
        ids = probe_ids(vocab_size)
        assert ids.shape == (1, 16)
        assert 0 <= int(ids.min()) <= int(ids.max()) < vocab_size
        assert len(ids.unique()) >= min(5, vocab_size)
