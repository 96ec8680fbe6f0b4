"""A checkpoint hands out its parameters by the names of the family table, or says what is wrong with it."""

import json
import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file
from teachers import every_family_and_tie, weights_of
from transformers import AutoModelForCausalLM

from budwood.arch.family import family_of
from budwood.models.tensors import CheckpointTensors, fuse
from budwood.subnet.ordering import open_ordered
from budwood.subnet.settings import Ordering

WEIGHTS = "model.safetensors"
one_teacher = pytest.mark.parametrize("teacher", ["llama tied"], indirect=True)


@pytest.fixture
def broken(teacher_folder, tmp_path):
    """Return a copy of the teacher's folder to be damaged."""
    return shutil.copytree(teacher_folder, tmp_path / "broken")


def rewrite(folder, change):
    state = load_file(folder / WEIGHTS)
    change(state)
    save_file(state, folder / WEIGHTS, metadata={"format": "pt"})


@every_family_and_tie
def test_every_parameter_is_read_to_the_bit(teacher, teacher_folder, architecture):
    tensors, expected = CheckpointTensors(teacher_folder, architecture), weights_of(teacher)
    assert set(tensors) == expected.keys()
    assert len(tensors) == len(expected)
    assert all(torch.equal(tensors[name], weight) for name, weight in expected.items())


@every_family_and_tie
def test_fusing_gives_the_state_of_the_familys_class(teacher, architecture):
    fused, expected = fuse(weights_of(teacher), architecture), dict(teacher.named_parameters())
    assert fused.keys() == expected.keys()
    assert all(torch.equal(fused[name], weight) for name, weight in expected.items())


@pytest.mark.parametrize("teacher", ["llama untied", "gpt_neox untied"], indirect=True)
def test_shards_are_read_as_one_file(teacher, teacher_folder, architecture, importance, tmp_path):
    teacher.save_pretrained(tmp_path, max_shard_size="20KB")
    assert len(list(tmp_path.glob("model-*.safetensors"))) > 3
    one, many = (CheckpointTensors(folder, architecture) for folder in (teacher_folder, tmp_path))
    assert all(torch.equal(many[name], one[name]) for name in one)
    one, many = (
        open_ordered(folder, Ordering(layer_score="change"), importance) for folder in (teacher_folder, tmp_path)
    )
    assert all(torch.equal(many.weights[name], one.weights[name]) for name in one.weights)


@pytest.mark.parametrize("teacher", ["gpt_neox untied"], indirect=True)
def test_a_stored_name_may_be_the_old_or_the_new_one(broken, architecture):
    head = CheckpointTensors(broken, architecture)["lm_head.weight"]
    old, new = "embed_out.weight", "lm_head.weight"
    assert family_of("gpt_neox").stored_names == {new: old}
    state = load_file(broken / WEIGHTS)
    here, other = (old, new) if old in state else (new, old)
    rewrite(broken, lambda state: state.update({other: state.pop(here)}))
    assert torch.equal(CheckpointTensors(broken, architecture)["lm_head.weight"], head)
    assert torch.equal(AutoModelForCausalLM.from_pretrained(broken).lm_head.weight, head)


@one_teacher
def test_tensors_are_read_only_when_they_are_asked_for(broken, architecture):
    tensors = CheckpointTensors(broken, architecture)
    rewrite(broken, lambda state: state["model.norm.weight"].fill_(7))
    assert (tensors["model.norm.weight"] == 7).all()
    tensors["model.norm.weight"].zero_()
    assert (tensors["model.norm.weight"] == 7).all()


@one_teacher
def test_a_name_that_no_parameter_has_is_a_key_error(teacher_folder, architecture):
    with pytest.raises(KeyError):
        CheckpointTensors(teacher_folder, architecture)["lm_head.weight"]


@pytest.mark.parametrize("teacher", ["llama tied", "gpt_neox untied"], indirect=True)
@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_values_that_are_not_finite_are_refused(broken, architecture, value):
    family = family_of(architecture.family)
    name = f"{family.layer_path(2, family.query)}.weight"
    rewrite(broken, lambda state: state[name][3].fill_(value))
    tensors = CheckpointTensors(broken, architecture)
    query = family.layer_weight(2, family.query)
    with pytest.raises(ValueError, match=rf"{WEIGHTS}: tensor '{name}' has values that are not finite"):
        tensors[query]
    with pytest.raises(ValueError, match=rf"'{name}' has values that are not finite"):
        open_ordered(broken, Ordering(ordering="magnitude"))


@one_teacher
@pytest.mark.parametrize("share", [0, 0.001, 0.5, 0.999])
def test_a_truncated_file_is_named(broken, architecture, share):
    content = (broken / WEIGHTS).read_bytes()
    (broken / WEIGHTS).write_bytes(content[: int(len(content) * share)])
    with pytest.raises(ValueError, match=rf"{WEIGHTS} is damaged, truncated or missing .*fetch it again"):
        CheckpointTensors(broken, architecture)


@pytest.mark.parametrize("teacher", ["llama untied", "gpt_neox untied"], indirect=True)
def test_a_missing_tensor_is_named(broken, architecture):
    family = family_of(architecture.family)
    name = f"{family.layer_path(1, family.query)}.weight"
    rewrite(broken, lambda state: state.pop(name))
    with pytest.raises(ValueError, match=rf"broken has no tensor '{name}', which a {family.model_type} model needs"):
        CheckpointTensors(broken, architecture)


@pytest.fixture
def shards(teacher, tmp_path):
    teacher.save_pretrained(tmp_path, max_shard_size="20KB")
    return tmp_path


@one_teacher
def test_a_missing_shard_is_named(shards, architecture):
    gone = sorted(shards.glob("model-*.safetensors"))[1]
    gone.unlink()
    with pytest.raises(ValueError, match=rf"{gone.name} is damaged, truncated or missing"):
        CheckpointTensors(shards, architecture)


@one_teacher
def test_a_tensor_that_the_index_forgets_is_read_with_its_file(shards, teacher, architecture):
    """As transformers does: it reads all tensors of the files that the index names."""
    index = shards / "model.safetensors.index.json"
    content = json.loads(index.read_text())
    content["weight_map"].pop("model.norm.weight")
    index.write_text(json.dumps(content))
    read = CheckpointTensors(shards, architecture)["model.norm.weight"]
    assert torch.equal(read, teacher.get_parameter("model.norm.weight"))
    loaded = AutoModelForCausalLM.from_pretrained(shards)
    assert torch.equal(read, loaded.get_parameter("model.norm.weight"))


@one_teacher
def test_a_file_that_the_index_forgets_is_not_read(shards, architecture):
    index = shards / "model.safetensors.index.json"
    content = json.loads(index.read_text())
    gone = content["weight_map"]["model.norm.weight"]
    content["weight_map"] = {name: file for name, file in content["weight_map"].items() if file != gone}
    index.write_text(json.dumps(content))
    with pytest.raises(ValueError, match=r"has no tensor 'model.norm.weight'"):
        CheckpointTensors(shards, architecture)
