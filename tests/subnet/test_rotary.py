"""A stock model turns the kept pairs as the teacher does."""

from copy import deepcopy

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from transformers import LlamaConfig
from transformers.models.llama.modeling_llama import LlamaRotaryEmbedding

from budwood.subnet.rotary import pair_dims, rope_for_pairs

HEAD_DIM, CONTEXT, THETA = 16, 128, 10_000.0
ROPE = {"rope_type": "default", "rope_theta": THETA}
PAIR_SETS = {
    "stride": (0, 2, 4, 6),
    "prefix": (0, 1, 2),
    "arithmetic": (1, 4, 7),
    "shifted": (5, 6, 7),
    "arbitrary": (0, 1, 3, 7),
    "single": (6,),
    "all": tuple(range(8)),
}


def test_pairs_stand_half_a_head_apart():
    assert pair_dims([0, 2, 7], 16) == (0, 2, 7, 8, 10, 15)


@pytest.mark.parametrize(
    ("pairs", "expected"),
    [
        (PAIR_SETS["stride"], {"rope_type": "default", "rope_theta": THETA}),
        ((0, 1, 2, 3), {"rope_type": "default", "rope_theta": 100.0}),
        ((1, 3, 5, 7), {"rope_type": "linear", "rope_theta": THETA, "factor": THETA ** (1 / 8)}),
    ],
)
def test_worked_parameters(pairs, expected):
    actual = rope_for_pairs(ROPE, pairs, HEAD_DIM, CONTEXT)
    assert actual.pop("rope_theta") == pytest.approx(expected.pop("rope_theta"))
    assert actual == pytest.approx(expected) if "factor" in expected else actual == expected


@given(st.sets(st.integers(0, 7), min_size=1), st.sampled_from([500.0, THETA, 1e6]))
def test_every_kept_pair_has_the_teachers_frequency(chosen, theta):
    pairs = sorted(chosen)
    rope = rope_for_pairs({"rope_type": "default", "rope_theta": theta}, pairs, HEAD_DIM, CONTEXT)
    config = LlamaConfig(head_dim=2 * len(pairs), max_position_embeddings=CONTEXT, rope_parameters=rope)
    embedding = LlamaRotaryEmbedding(config)
    expected = torch.tensor([theta ** (-2 * pair / HEAD_DIM) for pair in pairs])
    torch.testing.assert_close(embedding.inv_freq, expected, rtol=1e-5, atol=0)
    assert embedding.attention_scaling == 1
    # LongRoPE switches tables past the original context: nothing may change there.
    embedding(torch.zeros(1), torch.arange(CONTEXT + 9)[None])
    torch.testing.assert_close(embedding.inv_freq, expected, rtol=1e-5, atol=0)


def masked_teacher(teacher, pairs):
    """The teacher without the dropped pairs of queries and keys and the dropped (last) dimensions of values."""
    masked = deepcopy(teacher)
    dropped = [d for d in range(HEAD_DIM) if d % (HEAD_DIM // 2) not in pairs]
    for layer in masked.model.layers:
        attention = layer.self_attn
        for projection, dims in (
            (attention.q_proj, dropped),
            (attention.k_proj, dropped),
            (attention.v_proj, range(2 * len(pairs), HEAD_DIM)),
        ):
            rows = projection.weight.data.view(-1, HEAD_DIM, 48)
            rows[:, list(dims)] = 0
    return masked


def cut_child(teacher, pairs):
    """A stock model with smaller heads, its weights indexed by hand, its queries scaled to the teacher's attention."""
    size = 2 * len(pairs)
    settings = teacher.config.to_dict() | {
        "head_dim": size,
        "rope_parameters": rope_for_pairs(teacher.config.rope_parameters, pairs, HEAD_DIM, CONTEXT),
    }
    child = type(teacher)(type(teacher.config)(**settings)).eval()
    state = dict(teacher.state_dict())
    turned = [*pairs, *(pair + HEAD_DIM // 2 for pair in pairs)]
    for name, weight in state.items():
        if "q_proj" in name:
            state[name] = weight.view(-1, HEAD_DIM, 48)[:, turned].flatten(0, 1) * (size / HEAD_DIM) ** 0.5
        elif "k_proj" in name:
            state[name] = weight.view(-1, HEAD_DIM, 48)[:, turned].flatten(0, 1)
        elif "v_proj" in name:
            state[name] = weight.view(-1, HEAD_DIM, 48)[:, :size].flatten(0, 1)
        elif "o_proj" in name:
            state[name] = weight.view(48, -1, HEAD_DIM)[:, :, :size].flatten(1)
    child.load_state_dict(state)
    return child


@pytest.mark.parametrize("teacher", ["tied", "mistral"], indirect=True)
@pytest.mark.parametrize("pairs", PAIR_SETS.values(), ids=PAIR_SETS)
def test_the_child_attends_as_the_teacher_without_the_dropped_pairs(teacher, windows, pairs):
    with torch.no_grad():
        expected = masked_teacher(teacher, pairs)(windows).logits
        actual = cut_child(teacher, pairs)(windows).logits
        whole = teacher(windows).logits
    torch.testing.assert_close(actual, expected, rtol=1e-5, atol=5e-5)
    if len(pairs) < HEAD_DIM // 2:
        assert (whole - expected).abs().max() > 0.1


@pytest.mark.parametrize("kind", ["linear", "dynamic", "yarn", "llama3", "longrope"])
def test_scaled_embeddings_are_refused(kind):
    with pytest.raises(ValueError, match=rf"{kind}.*rope: rebuild"):
        rope_for_pairs({"rope_type": kind, "rope_theta": THETA, "factor": 2.0}, [0, 1], HEAD_DIM, CONTEXT)
