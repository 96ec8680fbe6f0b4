"""Spaces stay inside what engines serve."""

import numpy as np
import pytest
from hypothesis import given
from strategies import SMOLLM2_135M, decoder, generators, layer

from budwood.arch.bins import ParameterBin
from budwood.arch.sampling import sample
from budwood.arch.servable import servable_head_dims
from budwood.arch.space import SearchSpace

CUTS = range(4, 65, 2)


@pytest.mark.parametrize(
    ("engines", "family", "layerwise", "expected"),
    [
        ((), "llama", False, CUTS),
        (("vllm",), "llama", False, (32, 48, 64)),
        (("vllm",), "gpt_neox", True, (32, 48, 64)),
        (("llama.cpp",), "mistral", False, CUTS),
        (("llama.cpp",), "qwen3", False, (64,)),
        (("llama.cpp",), "llama", True, (64,)),
        (("vllm", "llama.cpp"), "llama", False, (32, 48, 64)),
        (("vllm", "llama.cpp"), "olmo2", False, (64,)),
    ],
)
def test_head_dimensions_that_engines_take(engines, family, layerwise, expected):
    assert list(servable_head_dims(engines, family, CUTS, layerwise=layerwise)) == list(expected)


def test_vllm_takes_fewer_of_the_larger_heads():
    dims = servable_head_dims(("vllm",), "llama", range(4, 257, 2), layerwise=False)
    assert list(dims) == [32, 64, 96, 128, 160, 192, 224, 256]
    assert not servable_head_dims(("vllm", "llama.cpp"), "qwen3", range(4, 145, 2), layerwise=False)


@given(rng=generators)
@pytest.mark.parametrize("layerwise", [False, True])
def test_every_draw_is_served(rng: np.random.Generator, *, layerwise: bool) -> None:
    space = SearchSpace(teacher=SMOLLM2_135M, layerwise=layerwise, granularity="fine", servable=("vllm",), alignment=32)
    member = sample(space, ParameterBin.around(60e6), rng)
    assert member in space
    sizes = member.architecture(SMOLLM2_135M)
    assert {spec.head_dim for spec in sizes.layers} <= {32, 48, 64}
    assert sizes.hidden_size % 32 == 0


@pytest.mark.parametrize(
    ("family", "head_dim", "asked", "message"),
    [
        ("llama", 24, {"servable": ("vllm",)}, "vllm serve no heads that can be cut from those of dimension 24"),
        ("qwen3", 40, {"servable": ("vllm", "llama.cpp")}, "vllm and llama.cpp serve no heads"),
        ("smollm3", 64, {"servable": ("llama.cpp",)}, "expects the layers of smollm3 to alternate"),
        ("olmo2", 64, {"servable": ("llama.cpp",), "alignment": 40}, "servable: no heads of this teacher add up"),
        ("qwen3", 64, {"servable": ("llama.cpp",), "layerwise": True}, "no form for qwen3 whose layers differ"),
    ],
)
def test_spaces_without_a_servable_member_are_refused(family, head_dim, asked, message):
    teacher = decoder(family, 31, 2 * head_dim, *[layer(2, 2, head_dim, 40)] * 2)
    with pytest.raises(ValueError, match=message):
        SearchSpace(teacher=teacher, **{"layerwise": False} | asked)


def test_a_bin_without_a_servable_member_is_refused_in_one_sentence():
    teacher = decoder("llama", 31, 64, *[layer(2, 2, 64, 8)] * 2)
    space = SearchSpace(teacher=teacher, layerwise=False, servable=("vllm",), alignment=8)
    smallest, _ = space.reach
    with pytest.raises(ValueError, match="sub-networks of this teacher that vllm can serve have"):
        sample(space, ParameterBin(1, smallest - 1), np.random.default_rng(0))


@pytest.mark.parametrize(("family", "engine"), [("qwen2", "vllm"), ("gpt_neox", "llama.cpp"), ("olmo2", "llama.cpp")])
def test_heads_fill_the_hidden_size_where_an_engine_takes_that_for_granted(family, engine):
    teacher = decoder(family, 31, 256, *[layer(4, 4, 64, 40)] * 2)
    space = SearchSpace(teacher=teacher, layerwise=False, servable=(engine,))
    rng = np.random.default_rng(0)
    for _ in range(20):
        sizes = sample(space, ParameterBin(*space.reach), rng).architecture(teacher)
        assert sizes.hidden_size == sizes.layers[0].num_attention_heads * sizes.layers[0].head_dim
