"""Laws 3 and 4 for every family: ordering changes no logit, and what is exported is what was searched."""

from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file
from strategies import KINDS, generators, sample_any
from teachers import across, every_family, every_family_and_tie, select, weights_of
from transformers import AutoModelForCausalLM

from budwood.arch.count import num_parameters
from budwood.arch.family import family_of
from budwood.arch.selection import LayerSelection, Selection
from budwood.arch.space import SearchSpace
from budwood.models.checkpoint import own_weights, read_architecture
from budwood.subnet.extract import extract_child, resolve
from budwood.subnet.ordering import open_ordered
from budwood.subnet.settings import Ordering

pytestmark = pytest.mark.slow


HEAD = LayerSelection(layer=2, groups=(2,), queries=(0,), pairs=(0, 3), neurons=(11,))
PLAIN = LayerSelection(layer=0, groups=range(3), queries=range(1), pairs=range(5), neurons=range(13))
EXTREMES = {
    "one layer of one head and one neuron": Selection(hidden=range(48), layers=(HEAD,)),
    "one channel": Selection(hidden=(17,), layers=(HEAD, PLAIN)),
    "one pair": Selection(hidden=range(30), layers=(replace(PLAIN, pairs=range(1)),)),
    "odd widths": Selection(hidden=range(29), layers=tuple(replace(PLAIN, layer=rank) for rank in range(4))),
}


def logits_of(model, windows):
    with torch.no_grad():
        return model(windows).logits


def rounding(teacher, expected):
    """Return how far float32 may carry logits of this size; Gemma adds one to weights that were stored without it."""
    return float(expected.abs().max()) * (3e-5 if family_of(teacher.config.model_type).norm_offset else 5e-6)


@every_family_and_tie
def test_ordering_changes_no_logit(teacher, orders, windows):
    expected, before = logits_of(teacher, windows), weights_of(teacher)
    for ordering in ("activation", "magnitude"):
        ordered = orders[ordering, "preserve"]
        whole = extract_child(ordered, Selection.prefix(ordered.ranked))
        assert type(whole) is type(teacher)
        assert (logits_of(whole, windows) - expected).abs().max() < rounding(teacher, expected)
        assert ordered.weights.keys() == before.keys()
        assert not any(torch.equal(weight, before[name]) for name, weight in ordered.weights.items() if ".mlp." in name)


@every_family_and_tie
def test_the_native_whole_is_the_teacher_to_the_bit(teacher, orders, windows):
    for rope in ("preserve", "rebuild"):
        ordered = orders["native", rope]
        whole = extract_child(ordered, Selection.prefix(ordered.ranked))
        assert all(torch.equal(weight, whole.state_dict()[name]) for name, weight in teacher.state_dict().items())
        assert torch.equal(logits_of(whole, windows), logits_of(teacher, windows))


@every_family
def test_the_teacher_is_untouched(teacher, teacher_folder, importance):
    """Ordering and cutting leave every bit on disk and in memory."""
    file = teacher_folder / "model.safetensors"
    on_disk, before = load_file(file), file.read_bytes()
    ordered = open_ordered(teacher_folder, Ordering(layer_score="change"), importance)
    first = {name: weight.clone() for name, weight in ordered.weights.items()}
    for selection in (Selection.prefix(ordered.ranked), select(30, [3], (2, 1, 8, 9))):
        child = own_weights(extract_child(ordered, selection))
        with torch.no_grad():
            for parameter in child.parameters():
                parameter.zero_()
    assert all(torch.equal(ordered.weights[name], weight) for name, weight in first.items())
    assert file.read_bytes() == before
    names = family_of(ordered.architecture.family).stored_names
    assert all(torch.equal(on_disk[names.get(name, name)], value) for name, value in teacher.named_parameters())


def check_round_trip(ordered, member, windows, folder):
    """Assert that a child has the size it should have, and that its folder computes what it computes."""
    child = own_weights(extract_child(ordered, member))
    sizes = resolve(ordered, member).architecture
    assert sum(parameter.numel() for parameter in child.parameters()) == num_parameters(sizes)
    child.save_pretrained(folder)
    loaded = AutoModelForCausalLM.from_pretrained(folder, trust_remote_code=True).eval()
    expected = logits_of(child, windows)
    assert expected.isfinite().all()
    # Loaded weights lie at other addresses, which decides how some small matrix products round.
    torch.testing.assert_close(logits_of(loaded, windows), expected, rtol=1e-5, atol=2e-5)
    for kind in ("named_parameters", "named_buffers"):
        ours, theirs = dict(getattr(child, kind)()), dict(getattr(loaded, kind)())
        assert ours.keys() == theirs.keys()
        assert all(torch.equal(tensor, theirs[name]) for name, tensor in ours.items())
    assert read_architecture(folder).layers == sizes.layers
    assert type(loaded).__name__ == type(child).__name__
    depths = sorted(ordered.ranking[layer.layer] for layer in member.layers)
    for name in ordered.family.layer_lists:
        assert getattr(loaded.config, name) == [ordered.config[name][depth] for depth in depths]


@pytest.mark.parametrize(("teacher", "kind"), across(KINDS, each=len(KINDS)), indirect=["teacher"])
def test_what_is_exported_is_what_was_searched(orders, windows, tmp_path, kind):
    """Every family in all four spaces; the classes of uniform and layer-wise children differ."""

    @settings(max_examples=1, database=None)
    @given(rng=generators, ordering=st.sampled_from(["activation", "native"]))
    def law(rng, ordering):
        ordered = orders[ordering, "preserve"]
        space = SearchSpace(teacher=ordered.ranked, granularity=kind[0], layerwise=kind[1])
        check_round_trip(ordered, sample_any(space, rng), windows[:2], tmp_path / "child")

    law()


@pytest.mark.parametrize(("teacher", "extreme"), across(list(EXTREMES)), indirect=["teacher"])
def test_extremes_are_exported_too(orders, windows, tmp_path, extreme):
    rope = "rebuild" if extreme == "odd widths" else "preserve"
    check_round_trip(orders["activation", rope], EXTREMES[extreme], windows[:2], tmp_path / "child")


OWN = "Layerwise"
UNIFORM_CLASSES = {
    "gemma2": (OWN, ""),
    "gemma3_text": (OWN, ""),
    "gpt_neox": (OWN, OWN),
    "llama": ("Mistral", ""),
    "llama+attention_bias+mlp_bias": (OWN, ""),
    "phi3": (OWN, OWN),
    "stablelm+use_qkv_bias": (OWN, OWN),
}
"""Prefix of the class of uniform children: whose heads do not divide the hidden size, and whose heads do; elsewhere the
teacher's own."""


@every_family
def test_the_stock_class_holds_what_it_can_express(teacher, architecture, orders):
    own = type(teacher).__name__
    classes = {"": own, OWN: OWN + own, "Mistral": "MistralForCausalLM"}
    for hidden, kind in zip((32, 36), UNIFORM_CLASSES.get(architecture.family, ("", "")), strict=True):
        child = extract_child(orders["activation", "preserve"], select(hidden, [0, 1], (3, 1, 8, 17)))
        assert type(child).__name__ == classes[kind]
        assert not child.training


@pytest.mark.parametrize("teacher", ["gpt_neox tied", "phi3 untied", "stablelm+use_qkv_bias tied"], indirect=True)
def test_some_stock_classes_need_heads_that_fill_the_hidden_size(teacher, orders):
    child = extract_child(orders["activation", "preserve"], select(24, [0, 1], (3, 1, 8, 17)))
    assert type(child) is type(teacher)


@every_family
def test_layers_that_differ_need_a_class_of_ours(teacher, orders):
    child = extract_child(orders["activation", "preserve"], select(36, [0, 1], (3, 1, 8, 17), (3, 1, 8, 18)))
    assert type(child).__name__ == f"Layerwise{type(teacher).__name__}"
