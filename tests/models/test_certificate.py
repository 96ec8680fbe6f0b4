"""A certificate is given only to a folder that computes what the child computes and has the size it should have."""

import json
from dataclasses import replace

import pytest
import torch
from safetensors.torch import load_file, save_file
from teachers import HALF, expected_of
from transformers import AutoModelForCausalLM

from budwood.arch.bins import ParameterBin
from budwood.arch.count import num_parameters
from budwood.models.certificate import LOGIT_TOLERANCE, max_difference, probe_lengths, prove
from budwood.models.checkpoint import own_weights
from budwood.models.export import write_checkpoint
from budwood.models.fingerprint import fingerprint
from budwood.records.certificate import Certificate
from budwood.subnet.extract import extract_child

llama_only = pytest.mark.parametrize("teacher", ["llama tied"], indirect=True)

ORIGIN = {
    "teacher": "tree",
    "teacher_revision": "r1",
    "teacher_fingerprint": "f1",
    "corpus_fingerprint": "c1",
    "search": "none, chosen by hand",
    "ordering": "activation",
    "rope": "preserve",
    "compensation": ("neurons", "pairs"),
    "kept_channels": (2, 0),
    "kept_layers": (1,),
}
TOKENS = torch.randint(0, 97, (300,), generator=torch.Generator().manual_seed(4))
ANY = ParameterBin(1, 10**9)


@pytest.fixture
def child(orders, selection):
    return own_weights(extract_child(orders["activation", "preserve"], selection))


@pytest.fixture
def folder(child, teacher_folder, tmp_path):
    return write_checkpoint(child, teacher_folder, tmp_path / "child")


@llama_only
def test_the_record_states_what_was_checked(child, folder, child_architecture):
    count = num_parameters(child_architecture)
    proof = prove(expected_of(child, TOKENS), folder, child_architecture, ParameterBin(count, count + 1), TOKENS)
    record = Certificate(**dict(proof), fingerprint=fingerprint(folder), **ORIGIN)
    written = record.model_dump_json(by_alias=True)
    assert Certificate.model_validate_json(written) == record
    assert record.num_parameters == record.num_parameters_closed_form == count
    assert record.parameter_bin == (count, count + 1)
    assert record.largest_logit_difference == 0 < record.tolerance == LOGIT_TOLERANCE
    assert record.native is child_architecture.is_uniform
    assert record.model_class == json.loads(written)["class"] == type(child).__name__
    assert record.dtypes == {"float32": count}
    assert record.probe_lengths == (1, 16, 128)  # the positions that the model has
    assert record.fingerprint == fingerprint(folder)
    assert (record.teacher, record.teacher_revision, record.rope) == ("tree", "r1", "preserve")
    assert record.compensation == ("neurons", "pairs")
    assert (record.kept_channels, record.kept_layers) == ((2, 0), (1,))


@llama_only
@pytest.mark.parametrize("padding", [8, 24])
def test_where_weights_lie_in_their_file_does_not_matter(child, folder, child_architecture, padding):
    file = folder / "model.safetensors"
    save_file(load_file(file), file, metadata={"format": "pt", "padding": "-" * padding})
    assert prove(expected_of(child, TOKENS), folder, child_architecture, ANY, TOKENS).largest_logit_difference == 0


@llama_only
def test_anybody_can_compute_the_probe_again(child, folder, child_architecture):
    probe = prove(expected_of(child, TOKENS), folder, child_architecture, ANY, TOKENS).probe
    assert list(probe.input_ids) == TOKENS[:16].tolist()
    loaded = AutoModelForCausalLM.from_pretrained(folder, trust_remote_code=True)
    with torch.no_grad():
        logits = loaded(torch.tensor([probe.input_ids])).logits[0]
    torch.testing.assert_close(logits[:, list(probe.columns)], torch.tensor(probe.logits), rtol=1e-4, atol=1e-5)


@llama_only
def test_a_child_in_half_precision_is_compared_in_full(orders, teacher_folder, selection, child_architecture, tmp_path):
    halved = orders["activation", "preserve"].materialise(HALF)
    child = own_weights(extract_child(halved, selection))
    folder = write_checkpoint(child, teacher_folder, tmp_path / "half")
    proof = prove(expected_of(child, TOKENS), folder, child_architecture, ANY, TOKENS)
    assert proof.largest_logit_difference <= LOGIT_TOLERANCE
    assert proof.dtypes == {"bfloat16": num_parameters(child_architecture)}


@llama_only
def test_a_child_of_several_precisions_says_so(orders, teacher_folder, selection, child_architecture, tmp_path):
    child = own_weights(extract_child(orders["activation", "preserve"].materialise(HALF), selection))
    norm = child.model.norm
    norm.float()
    folder = write_checkpoint(child, teacher_folder, tmp_path / "mixed")
    proof = prove(expected_of(child, TOKENS), folder, child_architecture, ANY, TOKENS)
    wide = norm.weight.numel()
    assert proof.dtypes == {"bfloat16": num_parameters(child_architecture) - wide, "float32": wide}


@llama_only
@pytest.mark.parametrize("change", [0.5, float("nan"), float("inf")])
def test_a_folder_with_another_weight_is_refused(child, folder, child_architecture, change):
    before = fingerprint(folder)
    state = load_file(folder / "model.safetensors")
    state["model.layers.1.mlp.down_proj.weight"][3, 2] += change
    save_file(state, folder / "model.safetensors", metadata={"format": "pt"})
    assert fingerprint(folder) != before
    with pytest.raises(ValueError, match="computes other logits"):
        prove(expected_of(child, TOKENS), folder, child_architecture, ANY, TOKENS)


@llama_only
def test_so_is_a_pair_of_models_that_compute_no_numbers(child, teacher_folder, child_architecture, tmp_path):
    """Both say NaN: equal is not enough."""
    child.model.norm.weight.data[0] = float("nan")
    folder = write_checkpoint(child, teacher_folder, tmp_path / "broken")
    with pytest.raises(ValueError, match="largest difference nan"):
        prove(expected_of(child, TOKENS), folder, child_architecture, ANY, TOKENS)


@llama_only
def test_a_record_holds_no_number_that_is_none(child, folder, child_architecture):
    proof = prove(expected_of(child, TOKENS), folder, child_architecture, ANY, TOKENS)
    record = Certificate(**dict(proof), fingerprint=fingerprint(folder), **ORIGIN)
    with pytest.raises(ValueError, match="largest_logit_difference"):
        Certificate.model_validate(dict(record) | {"largest_logit_difference": float("nan")})
    written = record.model_dump_json(by_alias=True)
    broken = json.dumps(json.loads(written) | {"largest_logit_difference": float("nan")})
    with pytest.raises(ValueError, match="largest_logit_difference"):
        Certificate.model_validate_json(broken)


@pytest.mark.parametrize("position", [0, 1])
def test_no_text_hides_the_nan_of_another(position):
    zeros = [torch.zeros(1, 2), torch.zeros(1, 2)]
    ours = list(zeros)
    ours[position] = torch.tensor([[0.0, float("nan")]])
    assert not max_difference(ours, zeros) <= LOGIT_TOLERANCE
    assert max_difference(zeros, zeros) == 0


@pytest.mark.parametrize(
    ("tokens", "positions", "expected"), [(300, 4096, (1, 16, 256)), (300, 128, (1, 16, 128)), (1, 9, (1,))]
)
def test_texts_of_several_lengths_are_compared(tokens, positions, expected):
    assert probe_lengths(tokens, positions) == expected


@llama_only
def test_a_count_other_than_the_closed_form_is_refused(child, folder, child_architecture):
    first = child_architecture.layers[0]
    wider = (replace(first, intermediate_size=first.intermediate_size + 1), *child_architecture.layers[1:])
    with pytest.raises(ValueError, match="the closed form"):
        prove(expected_of(child, TOKENS), folder, replace(child_architecture, layers=wider), ANY, TOKENS)


@llama_only
@pytest.mark.parametrize("offset", [-10, 1])
def test_a_count_outside_the_bin_is_refused(child, folder, child_architecture, offset):
    low = num_parameters(child_architecture) + offset
    with pytest.raises(ValueError, match="outside"):
        prove(expected_of(child, TOKENS), folder, child_architecture, ParameterBin(low, low + 9), TOKENS)
