"""What a config says is checked before anything runs, in one sentence."""

import json
from dataclasses import replace

import pytest
import torch
from teachers import FULL, SETTINGS, tiny_teacher

from budwood.arch.selection import Selection
from budwood.models.checkpoint import load_config, read_architecture
from budwood.models.kind import check_lengths
from budwood.subnet.extract import extract_child
from budwood.subnet.ordering import open_ordered
from budwood.subnet.settings import Ordering

WINDOWED = {
    "mistral": {"sliding_window": 8},
    "qwen2": {"use_sliding_window": True, "sliding_window": 8, "max_window_layers": 2},
    "qwen3": {"use_sliding_window": True, "sliding_window": 8, "max_window_layers": 2},
    "smollm3": {
        "use_sliding_window": True,
        "sliding_window": 8,
        "layer_types": ["sliding_attention", "full_attention"] * 2,
    },
}


@pytest.fixture
def changed(tmp_path):
    """Write a config with some fields changed, without weights."""

    def write(**changes):
        config = tiny_teacher("llama", tied=True).config.to_dict() | changes
        (tmp_path / "config.json").write_text(json.dumps({k: v for k, v in config.items() if v != "absent"}))
        return tmp_path

    return write


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"model_type": "absent"}, "must name a `model_type`"),
        ({"model_type": "mixtral"}, "mixtral: mixtures of experts cannot be cut"),
        ({"model_type": "jamba"}, "jamba: hybrids and models without attention cannot be cut"),
        ({"quantization_config": {"quant_method": "fp8"}}, "quantised models cannot be cut"),
        ({"num_hidden_layers": 200_000}, r"num_hidden_layers=200000 must be between 1 and 1024"),
        ({"num_hidden_layers": 0}, r"num_hidden_layers=0 must be between 1 and 1024"),
        ({"num_hidden_layers": "4"}, r"num_hidden_layers='4' must be"),
        ({"hidden_size": "wide"}, "is not a config that transformers reads"),
        (
            {"rope_parameters": {"rope_type": "proportional", "rope_theta": 1e4}},
            "rope_type='proportional' cannot be cut",
        ),
        ({"rope_parameters": {"rope_type": "dynamic", "rope_theta": 1e4, "factor": 2.0}}, "rope_type='dynamic' cannot"),
        ({"rope_parameters": {"rope_type": "su", "rope_theta": 1e4}}, "rope_type='su' cannot be cut; supported: "),
        (
            {"model_type": "starcoder2", "use_bias": False},
            "starcoder2: use_bias=False is not supported; supported: True",
        ),
    ],
)
def test_what_cannot_be_cut_is_refused_in_a_sentence(changed, changes, expected):
    with pytest.raises(ValueError, match=expected):
        read_architecture(changed(**changes))


@pytest.mark.parametrize("content", ["", "{", "3", "\x00"])
def test_a_damaged_config_is_named(tmp_path, content):
    (tmp_path / "config.json").write_text(content)
    with pytest.raises(ValueError, match=r"/config.json (is missing, empty or damaged|must be a JSON object)"):
        load_config(tmp_path)


def test_an_adapter_is_to_be_merged_first(changed):
    folder = changed()
    (folder / "adapter_config.json").write_text("{}")
    with pytest.raises(ValueError, match=r"is an adapter .*merge it first: .*merge_and_unload"):
        load_config(folder)


@pytest.mark.parametrize("family", WINDOWED)
def test_windows_stay_in_cuts(family, tmp_path, windows):
    """The whole cut is the teacher on sequences that are longer than its window, in a class of ours too."""
    teacher = tiny_teacher(family, tied=False, **SETTINGS.get(family, {}) | WINDOWED[family])
    teacher.save_pretrained(tmp_path)
    ordered = open_ordered(tmp_path, Ordering(ordering="native")).materialise(FULL)
    first = ordered.ranked.layers[0].intermediate_size
    member = Selection.prefix(ordered.ranked)
    whole = extract_child(ordered, member)
    fewer = replace(member.layers[0], neurons=range(first - 1))
    ours = extract_child(ordered, replace(member, layers=(fewer, *member.layers[1:])))
    with torch.no_grad():
        teacher.model.layers[0].mlp.down_proj.weight[:, -1] = 0
        expected = teacher(windows).logits
        last = teacher(windows[:, -8:], position_ids=torch.arange(windows.shape[1])[None, -8:]).logits
    assert type(ours).__name__.startswith("Layerwise")
    assert torch.allclose(ours(windows).logits, expected, atol=1e-4)
    assert whole.config.sliding_window == ours.config.sliding_window == 8
    # The window binds.
    assert not torch.allclose(last[:, -1], expected[:, -1], atol=1e-2)


def test_positions_are_limits_too(changed):
    folder = changed()
    with pytest.raises(ValueError, match=r"measurement\.reported_length=129 exceeds the 128 positions"):
        check_lengths(folder, load_config(folder), {"measurement.length": 4, "measurement.reported_length": 129})
