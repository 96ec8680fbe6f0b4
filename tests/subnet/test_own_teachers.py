"""What budwood exported with a class of its own is a teacher like any other."""

import numpy as np
import pytest
import torch
from strategies import KINDS, layer, sample_any
from teachers import across, every_family, weights_of
from transformers import AutoModelForCausalLM

from budwood.arch.config import OWN_PREFIX
from budwood.arch.count import num_parameters
from budwood.arch.family import family_of
from budwood.arch.selection import LayerSelection, Selection
from budwood.arch.space import SearchSpace
from budwood.models.checkpoint import load_config, load_model, own_weights, read_architecture
from budwood.models.kind import read_config
from budwood.models.settings import TeacherSettings
from budwood.models.teacher import fetch_teacher
from budwood.models.tensors import CheckpointTensors
from budwood.subnet.extract import extract_child, resolve
from budwood.subnet.ordering import open_ordered
from budwood.subnet.settings import Ordering

llama_only = pytest.mark.parametrize("teacher", ["llama tied"], indirect=True)


def logits_of(model, windows):
    with torch.no_grad():
        return model(windows).logits


@every_family
def test_its_folder_tells_its_architecture(architecture, own_folder):
    queries = architecture.layers[0].heads_per_group
    expected = {layer(3, 3, 12, 30), layer(2 * queries, 2, 16, 40), layer(2, 2, 8, 25)}
    read = read_architecture(own_folder)
    assert (read.family, read.hidden_size, set(read.layers)) == (architecture.family, 40, expected)
    assert read_config(own_folder)["model_type"] == OWN_PREFIX + family_of(read.family).model_type
    weights = weights_of(load_model(own_folder, torch.float32))
    stored = CheckpointTensors(own_folder, read)
    assert stored.keys() == weights.keys()
    assert all(torch.equal(stored[name], weight) for name, weight in weights.items())


@every_family
def test_ordering_it_changes_no_logit(own_folder, own_teacher, windows):
    expected = logits_of(load_model(own_folder, torch.float32), windows)
    native = open_ordered(own_folder, Ordering(ordering="native"))
    for ordered, rounding in ((own_teacher, 3e-5), (native, 1e-6)):
        whole = extract_child(ordered, Selection.prefix(ordered.ranked))
        assert (logits_of(whole, windows) - expected).abs().max() < rounding * expected.abs().max()


@pytest.mark.parametrize(("teacher", "kind"), across(KINDS), indirect=["teacher"])
def test_its_children_are_exported_as_any_others(own_teacher, windows, tmp_path, kind):
    space = SearchSpace(teacher=own_teacher.ranked, granularity=kind[0], layerwise=kind[1])
    member = sample_any(space, np.random.default_rng(5))
    child = own_weights(extract_child(own_teacher, member))
    sizes = resolve(own_teacher, member).architecture
    assert sum(parameter.numel() for parameter in child.parameters()) == num_parameters(sizes)
    child.save_pretrained(tmp_path / "child")
    loaded = AutoModelForCausalLM.from_pretrained(tmp_path / "child", trust_remote_code=True).eval()
    torch.testing.assert_close(logits_of(loaded, windows), logits_of(child, windows), rtol=1e-5, atol=2e-5)
    assert read_architecture(tmp_path / "child").layers == sizes.layers


@every_family
def test_equal_layers_that_turn_differently_need_a_class_of_ours(own_teacher):
    """The stock classes have one rotary embedding for all layers."""
    layers = tuple(
        LayerSelection(layer=rank, groups=(0,), queries=(0,), pairs=range(2), neurons=range(9)) for rank in range(3)
    )
    child = extract_child(own_teacher, Selection(hidden=range(40), layers=layers))
    assert type(child).__name__.startswith("Layerwise")
    assert len({str(own.rope_parameters) for own in child.config.per_layer_config}) > 1


@llama_only
@pytest.mark.parametrize("trust_remote_code", [False, True])
def test_it_is_fetched_as_it_is_without_running_its_code(own_folder, tmp_path, trust_remote_code):
    """Its class is at hand: the source beside the weights is for others."""
    source = TeacherSettings(model=str(own_folder), trust_remote_code=trust_remote_code)
    assert fetch_teacher(source, tmp_path / "work").checkpoint.folder == own_folder
    assert not (tmp_path / "work").exists()


@llama_only
def test_its_config_keeps_what_every_layer_has_of_its_own(own_folder):
    config = load_config(own_folder)
    assert {int(layer) for layer in config["per_layer_config"]} == {0, 1, 2}
