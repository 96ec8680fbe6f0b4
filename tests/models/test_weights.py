"""The weights that count are those that transformers reads."""

import json
import struct

import pytest
import torch
from safetensors.torch import load_file, save_file
from teachers import TEACHERS, families, tiny_teacher
from transformers import AutoModelForCausalLM

from budwood.models.checkpoint import build_meta, load_config, load_model
from budwood.models.weights import check_shapes, read_object, tensor_files, weight_files

NAME = "model.embed_tokens.weight"


@pytest.fixture
def folder(tmp_path):
    tiny_teacher("llama", tied=True).save_pretrained(tmp_path)
    return tmp_path


def rewrite(file, change):
    state = load_file(file)
    change(state)
    save_file(state, file, metadata={"format": "pt"})


def test_a_single_file_wins_over_an_index_and_strays(folder):
    """All three are readings of one folder: which files count, what we load, what transformers loads."""
    stray = {NAME: torch.zeros(97, 48)}
    save_file(stray, folder / "stray.safetensors", metadata={"format": "pt"})
    save_file(stray, folder / "model-00001-of-00001.safetensors", metadata={"format": "pt"})
    index = {"metadata": {}, "weight_map": {NAME: "model-00001-of-00001.safetensors"}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    assert weight_files(folder, {}) == (folder / "model.safetensors",)
    assert set(tensor_files(folder, {}).values()) == {folder / "model.safetensors"}
    for loaded in (load_model(folder, torch.float32), AutoModelForCausalLM.from_pretrained(folder)):
        assert loaded.get_parameter(NAME).abs().sum() > 0


def test_a_decoy_beside_a_pickle_does_not_pass(folder):
    (folder / "model.safetensors").rename(folder / "decoy.safetensors")
    (folder / "pytorch_model.bin").write_bytes(b"code")
    with pytest.raises(ValueError, match=r"only pickled weights \(pytorch_model.bin\).*convert them: python -c"):
        weight_files(folder, {})
    with pytest.raises(OSError, match=r"no file named model\.safetensors"):
        load_model(folder, torch.float32)


def test_a_file_of_another_name_is_not_read(folder):
    (folder / "model.safetensors").rename(folder / "model.fp16.safetensors")
    with pytest.raises(ValueError, match=r"transformers does not read model.fp16.safetensors. Rename"):
        weight_files(folder, {})


@pytest.mark.parametrize("place", ["../other.safetensors", "/etc/passwd", "a/../../b.safetensors"])
def test_an_index_that_leads_out_of_its_folder_is_refused(folder, place):
    (folder / "model.safetensors").unlink()
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": {NAME: place}}))
    with pytest.raises(ValueError, match="leads out of its folder"):
        weight_files(folder, {})


@pytest.mark.parametrize("content", ["", "{", "[]", '{"weight_map": 3}', '{"weight_map": {"a": 1}}'])
def test_a_damaged_index_is_named(folder, content):
    (folder / "model.safetensors").unlink()
    (folder / "model.safetensors.index.json").write_text(content)
    with pytest.raises(ValueError, match=r"model.safetensors.index.json (is missing, empty or damaged|must)"):
        weight_files(folder, {})


@pytest.mark.parametrize("header", [b"", b"abc", struct.pack("<Q", 2**60), struct.pack("<Q", 4) + b"{{{{"])
def test_a_damaged_header_is_named(folder, header):
    (folder / "model.safetensors").write_bytes(header)
    with pytest.raises(ValueError, match=r"model.safetensors is damaged, truncated or missing"):
        check_shapes(folder, {"model_type": "llama"}, tiny_teacher("llama", tied=True))


def test_a_deep_json_is_damaged(tmp_path):
    (tmp_path / "x.json").write_text("[" * 100_000)
    with pytest.raises(ValueError, match=r"x.json is missing, empty or damaged"):
        read_object(tmp_path / "x.json")


@pytest.mark.parametrize("name", families())
def test_every_family_has_the_shapes_that_its_config_says(name, tmp_path):
    family, tied = TEACHERS[name]
    tiny_teacher(family, tied=tied).save_pretrained(tmp_path)
    check_shapes(tmp_path, load_config(tmp_path), build_meta(tmp_path, load_config(tmp_path)))


def test_other_shapes_and_missing_tensors_are_named(folder):
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"vocab_size": 96}))
    with pytest.raises(ValueError, match=rf"'{NAME}' is \(97, 48\), config.json says \(96, 48\)"):
        check_shapes(folder, load_config(folder), build_meta(folder, load_config(folder)))
    (folder / "config.json").write_text(json.dumps(config | {"num_hidden_layers": 5}))
    with pytest.raises(ValueError, match=r"has no tensor 'model.layers.4\."):
        check_shapes(folder, load_config(folder), build_meta(folder, load_config(folder)))


def test_pickles_that_a_config_or_an_index_names_are_refused(folder):
    config = json.loads((folder / "config.json").read_text())
    (folder / "weights.bin").touch()
    with pytest.raises(ValueError, match=r"names pickled weights \(weights.bin\), which can run code when read"):
        weight_files(folder, config | {"transformers_weights": "weights.bin"})
    (folder / "model.safetensors").unlink()
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": {"a": "weights.bin"}}))
    with pytest.raises(ValueError, match="names pickled weights"):
        weight_files(folder, config)


def test_a_config_that_leads_out_of_its_folder_is_refused(folder):
    (folder.parent / "model.safetensors").touch()
    with pytest.raises(ValueError, match="leads out of its folder"):
        weight_files(folder, {"transformers_weights": "../model.safetensors"})
