"""Models of any architecture: stock where a stock class can express it, the same weights from the same seed."""

import random
from dataclasses import replace

import numpy as np
import pytest
import torch
from strategies import layer, llama
from teachers import TEACHERS

from budwood.arch.count import num_parameters
from budwood.arch.family import family_of, stock_family
from budwood.models.checkpoint import (
    OWN_MODELS,
    build_empty,
    load_config,
    load_model,
    model_config,
    random_model,
    read_architecture,
)
from budwood.models.rotary import even_share, rope_for_dims

both_families = pytest.mark.parametrize("teacher", ["llama tied", "gpt_neox untied"], indirect=True)
every_family = pytest.mark.parametrize("teacher", [name for name in TEACHERS if " untied" in name], indirect=True)


@pytest.fixture
def base(teacher_folder, child_architecture):
    config = load_config(teacher_folder)
    lists = family_of(child_architecture.family).layer_lists
    return config | {name: config[name][: child_architecture.num_hidden_layers] for name in lists}


def ropes(base, architecture):
    rope = base["rope_parameters"]
    share = rope.get("partial_rotary_factor", 1.0)
    return [rope_for_dims(rope, even_share(spec.head_dim, share), spec.head_dim) for spec in architecture.layers]


@every_family
def test_a_teachers_folder_tells_its_architecture(teacher_folder, architecture):
    assert read_architecture(teacher_folder) == architecture


@every_family
def test_an_empty_model_has_shapes(base, child_architecture):
    with torch.device("meta"):
        model = build_empty(model_config(base, child_architecture, ropes(base, child_architecture)))
    assert sum(parameter.numel() for parameter in model.parameters()) == num_parameters(child_architecture)


@every_family
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


@every_family
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
