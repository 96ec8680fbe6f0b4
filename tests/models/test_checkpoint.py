"""Models of any architecture: stock where a stock class can express it, the same weights from the same seed."""

import json
import os
import random
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from children import SELECTIONS
from strategies import layer, llama, pythia
from teachers import TEACHERS, across, architecture_of, families, tiny_teacher
from transformers import AutoConfig, AutoModelForCausalLM, configuration_utils

from budwood.arch.config import stock_family
from budwood.arch.count import num_parameters
from budwood.arch.family import family_of
from budwood.models.checkpoint import (
    OWN_MODELS,
    Checkpoint,
    build_empty,
    load_config,
    load_generation,
    load_model,
    load_tokenizer,
    model_config,
    random_model,
    read_architecture,
    save_checkpoint,
)
from budwood.models.fingerprint import checkpoint_files, fingerprint
from budwood.models.rotary import even_share, layer_types, rope_for_dims, rope_of_type
from budwood.records import hashes

both_families = pytest.mark.parametrize("teacher", ["llama tied", "gpt_neox untied"], indirect=True)
# The factors of Phi-3 fit no other head; `tests/subnet/test_families.py` builds its children with factors of their own.
every_child = pytest.mark.parametrize(
    ("teacher", "selection"), across(list(SELECTIONS), without=("phi3",)), indirect=True
)


@pytest.fixture
def base(teacher_folder, child_architecture):
    config = load_config(teacher_folder)
    lists = family_of(child_architecture.family).layer_lists
    return config | {name: config[name][: child_architecture.num_hidden_layers] for name in lists}


def ropes(base, architecture):
    types = layer_types(family_of(architecture.family), base)
    found = [rope_of_type(base["rope_parameters"], layer_type) for layer_type in types]
    shares = [rope.get("partial_rotary_factor", 1.0) for rope in found]
    return [
        rope_for_dims(rope, even_share(spec.head_dim, share), spec.head_dim)
        for rope, share, spec in zip(found, shares, architecture.layers, strict=False)
    ]


@pytest.mark.parametrize("teacher", families(without=("phi3",)), indirect=True)
def test_a_teachers_folder_tells_its_architecture(teacher_folder, architecture):
    assert read_architecture(teacher_folder) == architecture


@every_child
def test_an_empty_model_has_shapes(base, child_architecture):
    with torch.device("meta"):
        model = build_empty(model_config(base, child_architecture, ropes(base, child_architecture)))
    assert sum(parameter.numel() for parameter in model.parameters()) == num_parameters(child_architecture)


@every_child
def test_an_empty_model_turns_as_a_whole_one(base, child_architecture):
    """Rotary embeddings are computed, not loaded: leaving the initialisation out must not leave them out."""
    empty = build_empty(model_config(base, child_architecture, ropes(base, child_architecture)))
    whole = dict(random_model(base, child_architecture, seed=0).named_buffers())
    assert whole
    assert {name: buffer.tolist() for name, buffer in empty.named_buffers()} == {
        name: buffer.tolist() for name, buffer in whole.items()
    }


@both_families
def test_random_weights_depend_on_their_seed_alone(base, child_architecture):
    models = []
    for noise in (1, 2):
        random.seed(noise)
        np.random.seed(noise)  # noqa: NPY002 - the global generator is what must not matter
        torch.manual_seed(noise)
        before = torch.get_rng_state()
        models.append(random_model(base, child_architecture, seed=5).state_dict())
        assert torch.equal(torch.get_rng_state(), before)
    assert all(torch.equal(models[0][name], models[1][name]) for name in models[0])
    other = random_model(base, child_architecture, seed=6).state_dict()
    embedding = family_of(child_architecture.family).embedding.weight
    assert not torch.equal(other[embedding], models[0][embedding])


@every_child
def test_random_weights_follow_the_familys_scheme(base, child_architecture):
    model = random_model(base, child_architecture, seed=0)
    assert {parameter.dtype for parameter in model.parameters()} == {torch.float32}
    family = family_of(child_architecture.family)
    embedding = model.get_parameter(family.embedding.weight).detach()
    assert float(embedding.std()) == pytest.approx(base["initializer_range"], rel=0.1)
    norm = model.get_parameter(family.final_norm.weight)
    assert torch.equal(norm, torch.ones(child_architecture.hidden_size) - family.norm_offset)


@both_families
def test_what_is_no_size_comes_from_the_teacher(base, child_architecture):
    config = model_config(base, child_architecture, ropes(base, child_architecture))
    norm = "layer_norm_eps" if child_architecture.family == "gpt_neox" else "rms_norm_eps"
    for name in ("vocab_size", "max_position_embeddings", norm, "tie_word_embeddings", "eos_token_id"):
        assert getattr(config, name) == base[name]


@both_families
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_what_is_saved_is_loaded(base, child_architecture, windows, tmp_path, dtype):
    """Our own loader needs no `trust_remote_code`: the class is at hand."""
    model = random_model(base, child_architecture, seed=0).eval()
    for parameter in model.parameters():  # not the rotary buffers, which stay in float32
        parameter.data = parameter.data.to(dtype)
    model.save_pretrained(tmp_path)
    # A stand-in class of the same function may hold the child.
    assert replace(read_architecture(tmp_path), family=child_architecture.family) == child_architecture
    loaded = load_model(tmp_path, dtype).eval()
    assert type(loaded) is type(model)
    assert loaded.dtype == dtype
    family, (first, *_) = family_of(child_architecture.family), child_architecture.layers
    stock = stock_family(family, hidden_size=child_architecture.hidden_size, layer=first)
    native = child_architecture.is_uniform and stock is not None
    assert isinstance(loaded, tuple(OWN_MODELS.values())) is not native
    close = {"rtol": 1e-5, "atol": 1e-5} if dtype == torch.float32 else {"rtol": 0.05, "atol": 0.05}
    with torch.no_grad():
        torch.testing.assert_close(loaded(windows).logits, model(windows).logits, **close)


@pytest.mark.slow
@pytest.mark.parametrize("num_layers", [2, 9, 10, 11, 101])
def test_a_saved_layerwise_model_is_read_back_as_the_architecture_it_is(num_layers, tmp_path):
    """transformers writes the layers' numbers with leading zeros, as many as the largest needs."""
    rng = np.random.default_rng(num_layers)
    layers = tuple(
        layer(int(groups * queries), int(groups), int(2 * pairs), int(neurons))
        for groups, queries, pairs, neurons in rng.integers(1, 4, (num_layers, 4))
    )
    architecture = llama(11, 6, *layers)
    base = {"rope_parameters": {"rope_type": "default", "rope_theta": 1e4}, "vocab_size": 11}
    model = random_model(base | {"tie_word_embeddings": True}, architecture, seed=0)
    model.save_pretrained(tmp_path)
    assert read_architecture(tmp_path) == architecture
    loaded = load_model(tmp_path, torch.float32)
    assert sum(parameter.numel() for parameter in loaded.parameters()) == num_parameters(architecture)


def test_a_reference_has_the_vocabulary_and_the_ties_that_it_declares():
    """Pythia-410M (Biderman et al., 2023) under the config of the 6.9B model, whose vocabulary has 128 rows more."""
    teacher = AutoConfig.for_model(
        "gpt_neox", vocab_size=50_432, hidden_size=4096, num_hidden_layers=32, num_attention_heads=32, rotary_pct=0.25
    ).to_dict()
    reference = pythia(50_304, 24, 1024, 16)
    with torch.device("meta"):
        model = build_empty(model_config(teacher, reference, ropes(teacher, reference)))
    assert sum(parameter.numel() for parameter in model.parameters()) == num_parameters(reference) == 405_334_016
    assert num_parameters(pythia(50_432, 24, 1024, 16)) == 405_596_160


@pytest.mark.parametrize("name", families())
def test_a_reference_of_another_depth_and_ties_is_built(name):
    family, tied = TEACHERS[name]
    base = tiny_teacher(family, tied=not tied).config.to_dict()
    own = architecture_of(tiny_teacher(family, tied=tied))
    for depth in (2, 6):
        reference = replace(own, vocab_size=101, layers=own.layers[:1] * depth)
        model = random_model(base, reference, seed=0)
        assert sum(parameter.numel() for parameter in model.parameters()) == num_parameters(reference)
        assert model.config.vocab_size == 101


LEFT_OUT = (
    "tie_word_embeddings",
    "head_dim",
    "num_key_value_heads",
    "sliding_window",
    "layer_types",
    "rope_parameters",
    "vocab_size",
)


# Heads of 4 do not fill the hidden size, and have no list of factors.
@pytest.mark.parametrize("name", families(without=("phi3", "stablelm")))
def test_fields_that_a_config_leaves_out_are_the_classs_defaults(name, tmp_path):
    """transformers writes no field that equals the default of its class, and versions differ in which."""
    family, tied = TEACHERS[name]
    # The classes' defaults for groups divide 32 heads.
    groups = {} if family == "gpt_neox" else {"num_key_value_heads": 16, "head_dim": 4}
    config = tiny_teacher(family, tied=tied, hidden_size=64, num_attention_heads=32, **groups).config
    stock = type(config)().to_dict()
    for field in LEFT_OUT:
        written = {key: value for key, value in config.to_diff_dict().items() if key != field}
        (tmp_path / "config.json").write_text(json.dumps(written))
        expected = AutoConfig.from_pretrained(tmp_path)
        assert field not in json.loads((tmp_path / "config.json").read_text())
        with torch.device("meta"):
            model = AutoModelForCausalLM.from_config(expected)
        architecture = read_architecture(tmp_path)
        assert sum(parameter.numel() for parameter in model.parameters()) == num_parameters(architecture)
        assert architecture.tie_word_embeddings == (expected.tie_word_embeddings or False)
        if field == "tie_word_embeddings":
            assert architecture.tie_word_embeddings == stock["tie_word_embeddings"]


@pytest.fixture
def folder(teacher_folder, tmp_path):
    return Path(shutil.copytree(teacher_folder, tmp_path / "copy"))


def test_a_checkpoint_is_read_once(folder, teacher, architecture):
    opened = Checkpoint.open(folder)
    assert (opened.folder, opened.architecture, opened.fingerprint) == (folder, architecture, fingerprint(folder))
    assert opened.config["initializer_range"] == teacher.config.initializer_range
    assert opened.load_model(torch.bfloat16).dtype == torch.bfloat16
    assert len(opened.load_tokenizer()) == architecture.vocab_size
    opened.check_lengths({"measurement.length": 128})
    opened.check_unchanged()


def test_weights_are_hashed_once(folder, monkeypatch):
    monkeypatch.setattr(hashes, "_SETTLING_NS", -(10**12))
    first = fingerprint(folder)
    monkeypatch.setattr(hashes, "hash_file", lambda file: pytest.fail(f"{file} was read again"))
    assert fingerprint(folder) == first


@pytest.mark.parametrize(
    "name", ["config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json", "generation_config.json"]
)
def test_every_file_that_counts_is_in_the_fingerprint(folder, name):
    first = fingerprint(folder)
    with (folder / name).open("ab") as stream:  # in place: the inode stays
        stream.write(b"\n")
    assert fingerprint(folder) != first


def test_a_template_and_code_count_and_other_files_do_not(folder):
    first = fingerprint(folder)
    for name in ("README.md", "optimizer.pt", "unused.py", "stray.safetensors"):
        (folder / name).touch()
    assert fingerprint(folder) == first
    (folder / "chat_template.jinja").write_text("{{ messages }}")
    second = fingerprint(folder)
    config = json.loads((folder / "config.json").read_text()) | {"auto_map": {"AutoModelForCausalLM": "unused.Own"}}
    (folder / "config.json").write_text(json.dumps(config))
    assert len({first, second, fingerprint(folder)}) == 3
    assert "unused.py" in checkpoint_files(folder)


def test_an_index_brings_its_files(teacher, tmp_path):
    teacher.save_pretrained(tmp_path, max_shard_size="20KB")
    shards = sorted(file.name for file in tmp_path.glob("*.safetensors"))
    assert set(shards) < set(checkpoint_files(tmp_path))
    first = fingerprint(tmp_path)
    (tmp_path / shards[3]).write_bytes((tmp_path / shards[4]).read_bytes())
    assert fingerprint(tmp_path) != first
    (tmp_path / shards[3]).unlink()
    with pytest.raises(ValueError, match=f"lacks .*{shards[3]}, which its index names"):
        fingerprint(tmp_path)


@pytest.fixture
def cache(tmp_path, monkeypatch):
    """Remember hashes in a cache of the test, of files of any age."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(hashes, "_SETTLING_NS", -(10**12))
    return tmp_path / "cache"


def test_nothing_is_written_into_the_folder(folder, cache):
    """It may be somebody else's, read-only, or on its way to a hub."""
    before = sorted(folder.iterdir())
    Checkpoint.open(folder).check_unchanged()
    assert sorted(folder.iterdir()) == before
    assert len(list(cache.rglob("*.json"))) == 1


def test_damaged_generation_settings_are_named(folder):
    for content in ('{"a":', '{"max_new_tokens": 0}', "[]"):
        (folder / "generation_config.json").write_text(content)
        with pytest.raises(ValueError, match=r"generation_config\.json"):
            load_generation(folder)
    (folder / "generation_config.json").unlink()
    assert load_generation(folder) is None


def test_a_saved_checkpoint_can_be_read_by_the_group(teacher, tokenizer, tmp_path):
    before = os.umask(0o027)
    try:
        save_checkpoint(teacher, tokenizer, tmp_path / "saved")
    finally:
        os.umask(before)
    assert {file.stat().st_mode & 0o777 for file in (tmp_path / "saved").iterdir()} == {0o640}


@both_families
def test_the_tokenizer_of_a_layerwise_export_is_loaded_without_a_warning(teacher_folder, own_folder, monkeypatch):
    warnings = []
    monkeypatch.setattr(configuration_utils.logger, "warning", warnings.append)
    loaded = load_tokenizer(own_folder)
    assert warnings == []
    assert loaded.backend_tokenizer.to_str() == load_tokenizer(teacher_folder).backend_tokenizer.to_str()
    assert loaded.special_tokens_map == load_tokenizer(teacher_folder).special_tokens_map
