"""A child that is made part by part is the one that is made in memory, and its teacher is never whole."""

import json

import pytest
import torch
from corrections import logits_of
from safetensors.torch import load_file
from teachers import expected_of, select

from budwood.arch.bins import ParameterBin
from budwood.models import export
from budwood.models.certificate import prove
from budwood.models.checkpoint import load_model, own_weights
from budwood.models.export import write_checkpoint
from budwood.models.fingerprint import checkpoint_files
from budwood.subnet.compensate import cut_out, write_cut
from budwood.subnet.ordering import open_ordered
from budwood.subnet.settings import Compensation, Ordering

ANY, CPU = ParameterBin(1, 10**9), torch.device("cpu")
TEXT = torch.randint(0, 97, (40,), generator=torch.Generator().manual_seed(4))
SETTINGS = [
    pytest.param(None, id="plain"),
    pytest.param(Compensation(), id="corrected"),
    pytest.param(Compensation(refit=True), id="refitted", marks=pytest.mark.slow),
]


@pytest.fixture
def parts(teacher_folder, importance, windows):
    """Make the same cut again, from weights on disk."""

    def make(settings):
        ordered = open_ordered(teacher_folder, Ordering(layer_score="change"), importance)
        queries = ordered.ranked.layers[0].heads_per_group
        return cut_out(ordered, select(40, [0, 2], (3, queries, 8, 24)), windows, settings)

    return make


@pytest.mark.slow
@pytest.mark.parametrize("teacher", ["gemma3_text tied", "gpt_neox untied", "phi3 untied"], indirect=True)
@pytest.mark.parametrize("settings", SETTINGS)
def test_the_folder_is_that_of_the_child_in_memory(parts, settings, teacher_folder, tmp_path, monkeypatch):
    whole = own_weights(parts(settings).assemble())
    plain = write_checkpoint(whole, teacher_folder, tmp_path / "whole")
    folder, expected = write_cut(parts(settings), teacher_folder, tmp_path / "single", TEXT, CPU)
    assert {name: file.read_bytes() for name, file in checkpoint_files(folder).items()} == {
        name: file.read_bytes() for name, file in checkpoint_files(plain).items()
    }
    again = expected_of(whole, TEXT)
    assert expected.dtypes == again.dtypes
    assert all(torch.equal(one, other) for one, other in zip(expected.logits, again.logits, strict=True))
    monkeypatch.setattr(export, "WEIGHT_SHARD_BYTES", 10_000)
    sharded, _ = write_cut(parts(settings), teacher_folder, tmp_path / "sharded", TEXT, CPU)
    index = json.loads((sharded / "model.safetensors.index.json").read_text())["weight_map"]
    assert set(index) == set(load_file(folder / "model.safetensors"))
    assert len(set(index.values())) == len(list(sharded.glob("*.safetensors"))) > 2
    assert not [file for file in sharded.iterdir() if file.is_dir()]
    loaded = load_model(sharded, torch.float32).eval()
    assert torch.equal(logits_of(loaded, TEXT[None]), logits_of(load_model(folder, torch.float32).eval(), TEXT[None]))
    proof = prove(expected, sharded, parts(None).architecture, ANY, TEXT)
    assert proof.largest_logit_difference == 0


@pytest.mark.parametrize("teacher", ["llama tied"], indirect=True)
def test_a_layer_at_a_time_is_in_memory(teacher_folder, importance, windows, monkeypatch):
    """While a layer reads the text the others have no weights."""
    from budwood.models.stream import LayerStream

    held = []
    returned = LayerStream.returned

    def counting(stream):
        states = returned(stream)
        layers = stream.model.base_model.layers
        held.append([any(parameter.numel() for parameter in layer.parameters()) for layer in layers])
        return states

    monkeypatch.setattr(LayerStream, "returned", counting)
    ordered = open_ordered(teacher_folder, Ordering(layer_score="change"), importance)
    list(cut_out(ordered, select(40, [0, 2], (3, 2, 8, 24)), windows, Compensation(refit=True)).states)
    assert held
    assert all(sum(layers) == 1 for layers in held)
