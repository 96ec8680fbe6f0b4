"""A stock model turns the kept pairs as the teacher does."""

import json

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from transformers import GPTNeoXConfig, LlamaConfig
from transformers.models.gpt_neox.modeling_gpt_neox import GPTNeoXRotaryEmbedding
from transformers.models.llama.modeling_llama import LlamaRotaryEmbedding

from budwood.models.rotary import (
    ORIGINAL,
    ROPE_TYPES,
    changes_at,
    check_rope,
    even_share,
    inverse_frequencies,
    pair_dims,
    rank_pairs,
    rebuilt_rope,
    rope_for_dims,
    rope_for_pairs,
    rotary_dims,
    standard_rope,
)

HEAD_DIM, CONTEXT, THETA = 16, 128, 10_000.0
ROPE = {"rope_type": "default", "rope_theta": THETA}
CONFIG = {"model_type": "llama", "head_dim": HEAD_DIM, "num_attention_heads": 4, "hidden_size": 48}
PAIR_SETS = {
    "stride": (0, 2, 4, 6),
    "prefix": (0, 1, 2),
    "arithmetic": (1, 4, 7),
    "shifted": (5, 6, 7),
    "arbitrary": (0, 1, 3, 7),
    "single": (6,),
    "all": tuple(range(8)),
}
_GROWING = [1.0 + slot / 2 for slot in range(8)]
TEACHERS = {
    "default": {},
    "linear": {"factor": 2.5},
    "llama3": {
        "factor": 8.0,
        "low_freq_factor": 1.0,
        "high_freq_factor": 4.0,
        "original_max_position_embeddings": 32,
    },
    "yarn": {"factor": 4.0, "original_max_position_embeddings": 32},
    "longrope": {
        "factor": 4.0,
        "short_factor": _GROWING,
        "long_factor": _GROWING,
        "original_max_position_embeddings": 32,
    },
}


def turn(rope, head_dim, *, saved=False):
    """Return transformers' own inverse frequencies and attention factor, also past the original context."""
    partial = "partial_rotary_factor" in rope
    config_class, module = (GPTNeoXConfig, GPTNeoXRotaryEmbedding) if partial else (LlamaConfig, LlamaRotaryEmbedding)
    settings = {"num_attention_heads": 1, "hidden_size": head_dim, "max_position_embeddings": CONTEXT}
    config = config_class(**settings, head_dim=head_dim, rope_parameters=dict(rope))
    if saved:
        config = config_class.from_dict(json.loads(config.to_json_string()))
    embedding = module(config)
    frequencies = embedding.inv_freq.clone()
    # LongRoPE switches tables past the original context: nothing may change there.
    embedding(torch.zeros(1), torch.arange(CONTEXT + 9)[None])
    torch.testing.assert_close(embedding.inv_freq, frequencies, rtol=1e-6, atol=0)
    return frequencies, embedding.attention_scaling


def test_pairs_stand_half_a_head_apart():
    assert pair_dims([7, 0, 2], 16) == (0, 2, 7, 8, 10, 15)


def test_past_the_rotary_dimensions_two_neighbours_are_a_pair():
    assert pair_dims([0, 1, 3, 2], 4) == (0, 1, 2, 3, 4, 5, 6, 7)
    assert pair_dims([5, 1, 3], 4) == (1, 3, 6, 7, 10, 11)


@st.composite
def scored_heads(draw):
    total = draw(st.integers(1, 32))
    half = draw(st.integers(1, total))
    return draw(st.lists(st.floats(0, 10), min_size=total, max_size=total)), half


@given(scored_heads())
def test_every_prefix_of_pairs_turns_the_share_that_the_head_turns(head):
    scores, half = head
    ranking = rank_pairs(scores, 2 * half)
    total = len(scores)
    assert sorted(ranking) == list(range(total))
    for kept in range(1, total + 1):
        turning = sum(pair < half for pair in ranking[:kept])
        assert turning >= 1
        assert abs(turning - kept * half / total) <= 1
    rotary = [scores[pair] for pair in ranking if pair < half]
    assert rotary == sorted(rotary, reverse=True)
    assert [pair for pair in ranking if pair >= half] == list(range(half, total))


def test_worked_rankings():
    assert rank_pairs([1.0, 4.0, 2.0, 3.0], 8) == (1, 3, 2, 0)
    assert rank_pairs([1.0, 4.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0], 4) == (1, 2, 3, 4, 5, 0, 6, 7)


@pytest.mark.parametrize(
    ("pairs", "expected"),
    [
        (PAIR_SETS["stride"], {"rope_type": "default", "rope_theta": THETA}),
        ((0, 1, 2, 3), {"rope_type": "default", "rope_theta": 100.0}),
        ((1, 3, 5, 7), {"rope_type": "linear", "rope_theta": THETA, "factor": THETA ** (1 / 8)}),
        ((), {"rope_type": "default", "rope_theta": THETA}),
    ],
)
def test_worked_parameters(pairs, expected):
    actual = rope_for_pairs(ROPE, pairs, HEAD_DIM, max(2, 2 * len(pairs)), CONTEXT)
    assert actual.pop("rope_type") == expected.pop("rope_type")
    assert actual == pytest.approx(expected)


@pytest.mark.parametrize("kind", TEACHERS)
@pytest.mark.parametrize("pairs", PAIR_SETS.values(), ids=PAIR_SETS)
def test_every_kind_of_teacher_keeps_its_frequencies(kind, pairs):
    teacher = {"rope_type": kind, "rope_theta": THETA} | TEACHERS[kind]
    expected, scaling = turn(teacher, HEAD_DIM)
    rope = rope_for_pairs(teacher, pairs, HEAD_DIM, 2 * len(pairs), CONTEXT)
    for saved in (False, True):
        frequencies, own_scaling = turn(rope, 2 * len(pairs), saved=saved)
        torch.testing.assert_close(frequencies, expected[list(pairs)], rtol=2e-6, atol=0)
        assert own_scaling == pytest.approx(scaling)


@given(st.sets(st.integers(0, 7), min_size=1), st.sampled_from([500.0, THETA, 1e6]))
def test_every_set_of_pairs_keeps_its_frequencies(chosen, theta):
    pairs = sorted(chosen)
    rope = rope_for_pairs(ROPE | {"rope_theta": theta}, pairs, HEAD_DIM, 2 * len(pairs), CONTEXT)
    frequencies, scaling = turn(rope, 2 * len(pairs))
    expected = torch.tensor([theta ** (-2 * pair / HEAD_DIM) for pair in pairs])
    torch.testing.assert_close(frequencies, expected, rtol=1e-5, atol=0)
    assert scaling == 1


@pytest.mark.parametrize("kind", TEACHERS)
@pytest.mark.parametrize("pairs", [(0, 1), (0, 2), (1, 3), (0, 1, 3), (2,), (0, 1, 2, 3)])
@pytest.mark.parametrize("head_dim", [8, 12, 26])
def test_so_does_a_head_that_turns_in_part(kind, pairs, head_dim):
    teacher = {"rope_type": kind, "rope_theta": THETA, "partial_rotary_factor": 0.25} | TEACHERS[kind]
    if kind == "longrope":
        teacher |= {"short_factor": _GROWING[:4], "long_factor": _GROWING[:4]}
    expected, scaling = turn(teacher, 32)
    assert len(expected) == 4
    rope = rope_for_pairs(teacher, pairs, 32, head_dim, CONTEXT)
    frequencies, own_scaling = turn(rope, head_dim, saved=True)
    torch.testing.assert_close(frequencies, expected[list(pairs)], rtol=2e-6, atol=0)
    assert own_scaling == pytest.approx(scaling)


@pytest.mark.parametrize("kind", TEACHERS)
def test_frequencies_are_those_of_transformers(kind):
    teacher = {"rope_type": kind, "rope_theta": THETA} | TEACHERS[kind]
    frequencies, scaling = inverse_frequencies(teacher, HEAD_DIM, CONTEXT)
    expected, expected_scaling = turn(teacher, HEAD_DIM)
    torch.testing.assert_close(frequencies, expected, rtol=1e-6, atol=0)
    assert scaling == pytest.approx(expected_scaling)


def test_between_two_pairs_lies_the_geometric_mean_of_their_frequencies():
    rope = rope_for_pairs(ROPE, (0.5, 2, 6.25), HEAD_DIM, 6, CONTEXT)
    frequencies, _ = turn(rope, 6)
    expected = torch.tensor([THETA ** (-2 * pair / HEAD_DIM) for pair in (0.5, 2, 6.25)])
    torch.testing.assert_close(frequencies, expected, rtol=2e-6, atol=0)


def test_a_longrope_keeps_both_its_lists():
    """Pair k turns at `theta^(-k / 8)` over its factor: of one list up to the original context, of the other beyond."""
    own = {"short_factor": [1.0] * 4 + [1.5] * 4, "long_factor": [2.0 + pair for pair in range(8)]}
    teacher = {"rope_type": "longrope", "rope_theta": THETA, "original_max_position_embeddings": CONTEXT // 2} | own
    check_rope(CONFIG | {"rope_parameters": teacher})
    rope = rope_for_pairs(teacher, (1, 2, 6), HEAD_DIM, 6, CONTEXT)
    assert changes_at(rope) == changes_at(teacher) == CONTEXT // 2
    for name, long in (("short_factor", False), ("long_factor", True)):
        expected = [THETA ** (-pair / 8) / own[name][pair] for pair in (1, 2, 6)]
        frequencies, scaling = inverse_frequencies(rope, 6, CONTEXT, long=long)
        assert frequencies.tolist() == pytest.approx(expected, rel=1e-5)
        assert scaling == pytest.approx((1 + np.log(2) / np.log(CONTEXT // 2)) ** 0.5)


def test_a_class_reads_constants_beside_frequencies():
    own = {"llama_4_scaling_beta": 0.3, "original_max_position_embeddings": 8}
    rope = {"rope_type": "yarn", "rope_theta": THETA, "factor": 4.0} | own
    assert standard_rope(CONFIG | {"model_type": "ministral3", "rope_parameters": rope}) == ROPE | own


def test_frequencies_that_change_with_the_text_are_refused():
    rope = {"rope_type": "dynamic", "factor": 2.0}
    for check in (
        lambda parameters: rope_for_pairs(parameters, [0, 1], HEAD_DIM, 4, CONTEXT),
        lambda parameters: check_rope(CONFIG | {"rope_parameters": parameters}),
    ):
        with pytest.raises(ValueError, match=rf"rope_type='{rope['rope_type']}' cannot be cut.*supported"):
            check(rope | {"rope_theta": THETA})


@pytest.mark.parametrize("kind", TEACHERS)
def test_what_can_be_cut_is_accepted_in_all_its_forms(kind):
    rope = {"rope_type": kind} | TEACHERS[kind]
    check_rope(CONFIG | {"rope_parameters": rope | {"rope_theta": THETA}})
    check_rope(CONFIG | {"rope_scaling": rope, "rope_theta": THETA})
    check_rope(CONFIG | {"rope_scaling": {"type": kind} | TEACHERS[kind]})
    check_rope(CONFIG | {"rope_scaling": None} | {"head_dim": None, "hidden_size": 64})
    assert kind in ROPE_TYPES


@pytest.mark.parametrize(
    ("fields", "match"),
    [
        ({"rope_scaling": {"type": "dynamic", "factor": 2.0}}, "rope_type='dynamic'.*default, linear, llama3, yarn"),
        ({"rope_scaling": {"rope_type": "proportional"}}, "rope_type='proportional'"),
        ({"rope_parameters": {"full_attention": {"rope_theta": 1e4}}}, r"kinds of layers \(full_attention\)"),
        (
            {"rope_parameters": {"rope_type": "longrope"} | TEACHERS["longrope"], "head_dim": 8},
            "8 factors in short_factor; supported: one for each of the 4 pairs",
        ),
        ({"per_layer_config": {"1": {"rope_parameters": {"rope_type": "dynamic"}}}}, "rope_type='dynamic'"),
    ],
)
def test_everything_else_is_refused_by_name(fields, match):
    with pytest.raises(ValueError, match=match):
        check_rope(CONFIG | fields)


@pytest.mark.parametrize("kind", TEACHERS)
def test_random_weights_get_the_plain_embedding_of_the_original_base(kind):
    own = {"rope_type": kind, "rope_theta": THETA} | TEACHERS[kind]
    assert standard_rope(CONFIG | {"rope_parameters": own}) == ROPE
    child = rope_for_pairs(own, (1, 3, 5, 7), HEAD_DIM, 8, CONTEXT)
    assert standard_rope(CONFIG | {"rope_parameters": child, ORIGINAL: own}) == ROPE
    partial = {"partial_rotary_factor": 0.25}
    assert standard_rope(CONFIG | {"rope_parameters": own | partial}) == ROPE | partial


def test_rebuilding_keeps_the_teachers_parameters():
    teacher = {"rope_type": "dynamic", "rope_theta": THETA, "factor": 2.0}
    assert rope_for_dims(teacher, 6, 6) == teacher


@pytest.mark.parametrize("kind", TEACHERS)
def test_a_rebuilt_embedding_fits_its_head(kind):
    """Formulas are evaluated for the smaller head; the list of a longrope fits no other."""
    own = {"rope_type": kind, "rope_theta": THETA} | TEACHERS[kind]
    for config in ({"rope_parameters": own}, {"rope_parameters": {"rope_type": "linear"}, ORIGINAL: own}):
        rebuilt = rebuilt_rope(CONFIG | {"num_hidden_layers": 1} | config, 0, 10, 10)
        assert rebuilt == (ROPE if kind == "longrope" else own)
        frequencies, _ = turn(rebuilt, 10)
        assert len(frequencies) == 5


@pytest.mark.parametrize("teacher", [ROPE | {"partial_rotary_factor": 0.25}])
def test_products_never_round_a_share_down(teacher):
    """Models compute `int(head_dim * partial_rotary_factor)` in floating point."""
    for head_dim in range(4, 257, 2):
        for turning in range(2, head_dim + 1, 2):
            rebuilt = rope_for_dims(teacher, turning, head_dim)
            kept = rope_for_pairs(teacher, range(turning // 2), 4 * turning, head_dim, CONTEXT)
            for rope in (rebuilt, kept):
                assert rotary_dims(rope, head_dim) == turning
                assert 0 < rope["partial_rotary_factor"] < 1 + 1 / head_dim


@given(st.integers(1, 128).map(lambda pairs: 2 * pairs), st.floats(0.01, 1))
def test_an_even_share_is_the_nearest(head_dim, share):
    turning = even_share(head_dim, share)
    assert turning % 2 == 0
    assert 2 <= turning <= head_dim
    assert abs(turning - head_dim * share) <= 1 + 1e-9 or turning == 2
