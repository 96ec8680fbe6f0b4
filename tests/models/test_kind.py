"""What a config says is checked before anything runs, in one sentence."""

import json

import pytest
from teachers import FULL, SETTINGS, tiny_teacher

from budwood.arch.selection import Selection
from budwood.models.checkpoint import load_config, read_architecture
from budwood.models.kind import check_lengths, sliding_window
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
        ({"attention_bias": True}, "attention_bias=True are not supported"),
    ],
)
def test_what_cannot_be_cut_is_refused_in_a_sentence(changed, changes, expected):
    with pytest.raises(ValueError, match=expected):
        read_architecture(changed(**changes))


@pytest.mark.parametrize("content", ["", "{", "3", "\x00"])
def test_a_damaged_config_is_named(tmp_path, content):
    (tmp_path / "config.json").write_text(content)
    with pytest.raises(ValueError, match=r"/config.json (is missing, empty or damaged|must hold a JSON object)"):
        load_config(tmp_path)


def test_an_adapter_is_to_be_merged_first(changed):
    folder = changed()
    (folder / "adapter_config.json").write_text("{}")
    with pytest.raises(ValueError, match=r"holds an adapter .*merge it first: .*merge_and_unload"):
        load_config(folder)


@pytest.mark.parametrize("family", WINDOWED)
def test_windows_are_accepted_where_sequences_fit_into_them(family, tmp_path, windows):
    """The whole cut is the teacher on sequences of a window, and is not on longer ones."""
    teacher = tiny_teacher(family, tied=False, **SETTINGS.get(family, {}) | WINDOWED[family])
    teacher.save_pretrained(tmp_path)
    config = load_config(tmp_path)
    assert sliding_window(config) == 8
    check_lengths(tmp_path, config, 8)
    with pytest.raises(ValueError, match=r"sequence_length=9 exceeds the 8 tokens of the sliding window .* shorten"):
        check_lengths(tmp_path, config, 9)
    ordered = open_ordered(tmp_path, Ordering(ordering="native")).materialise(FULL)
    child = extract_child(ordered, Selection.prefix(ordered.ranked))
    for length, same in ((8, True), (20, False)):
        gap = (child(windows[:, :length]).logits - teacher(windows[:, :length]).logits).abs().max()
        assert bool(gap < 1e-5) is same


def test_windows_that_no_layer_uses_do_not_count(tmp_path):
    tiny_teacher("qwen2", tied=True, use_sliding_window=True, sliding_window=8, max_window_layers=4).save_pretrained(
        tmp_path
    )
    assert sliding_window(load_config(tmp_path)) is None


def test_a_family_that_alternates_windows_keeps_them(tmp_path):
    tiny_teacher("gemma2", tied=True).save_pretrained(tmp_path)
    assert sliding_window(load_config(tmp_path)) is None


def test_a_window_that_the_file_leaves_out_is_the_classs(tmp_path):
    config = tiny_teacher("mistral", tied=True).config.to_dict()
    del config["sliding_window"]
    (tmp_path / "config.json").write_text(json.dumps(config))
    assert sliding_window(load_config(tmp_path)) == 4096


def test_positions_are_limits_too(changed):
    folder = changed()
    with pytest.raises(ValueError, match="sequence_length=129 exceeds the 128 positions"):
        check_lengths(folder, load_config(folder), 129)
