"""Teachers with every type of rotary embedding are cut right, and random weights get the plain one of their family."""

from dataclasses import replace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from teachers import FULL, HEAD_DIM, architecture_of, every_family, measure_importance, select, tiny_teacher, weights_of

from budwood.arch.config import supported_family
from budwood.arch.selection import Selection
from budwood.models.checkpoint import load_config, own_weights, random_model, save_checkpoint
from budwood.models.rotary import ROPE_TYPES, check_rope, layer_types, rope_of_type, standard_rope
from budwood.subnet.extract import extract_child, resolve
from budwood.subnet.ordering import open_ordered, order_teacher
from budwood.subnet.settings import Ordering

THETA = 10_000.0
GROWING = [1.0 + pair / 2 for pair in range(HEAD_DIM // 2)]
ROPES = {
    "default": {},
    "linear": {"factor": 2.5},
    "llama3": {"factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0, "original_max_position_embeddings": 32},
    "yarn": {"factor": 4.0, "original_max_position_embeddings": 32},
    "longrope": {
        "factor": 4.0,
        "short_factor": GROWING,
        "long_factor": [3.0 + factor for factor in GROWING],
        "original_max_position_embeddings": 32,
    },
}
IDS = torch.randint(0, 97, (2, 60), generator=torch.Generator().manual_seed(3))
every_type = pytest.mark.parametrize("kind", ROPES)
HALF_HEADS, SINGLE = (select(48, [0, 1, 2], (3, queries, 8, 40)) for queries in (2, 1))


def teacher_of(kind, family="llama"):
    return tiny_teacher(family, tied=True, rope_parameters={"rope_type": kind, "rope_theta": THETA} | ROPES[kind])


def ordered_by(model, rope="preserve", by="activation"):
    architecture = architecture_of(model)
    importance = measure_importance(model, architecture, IDS)
    chosen = Ordering(ordering=by, rope=rope, layer_score="change")
    return order_teacher(weights_of(model), model.config.to_dict(), architecture, chosen, importance).materialise(FULL)


def logits_of(model):
    with torch.no_grad():
        return model(IDS).logits


def turns_of(model):
    """Return the frequencies and the factor on cosine and sine of every layer, in the original context and past it."""
    config, found = model.config.to_dict(), []
    types = layer_types(supported_family(config), config)
    for layer, own in zip(model.base_model.layers, types, strict=True):
        embedding, prefix = getattr(layer, "rotary_emb", None) or model.base_model.rotary_emb, (own and f"{own}_") or ""
        frequencies = []
        for length in (20, 100):
            embedding(torch.zeros(1), torch.arange(length)[None], *([own] if own else []))
            frequencies.append(getattr(embedding, f"{prefix}inv_freq").clone())
        found.append((torch.stack(frequencies), getattr(embedding, f"{prefix}attention_scaling")))
    return found


def test_every_type_of_the_table_is_tried():
    assert ROPES.keys() == ROPE_TYPES.keys()


@every_type
@pytest.mark.parametrize("rope", ["preserve", "rebuild"])
def test_a_whole_cut_computes_what_the_teacher_computes(kind, rope):
    model = teacher_of(kind)
    check_rope(model.config.to_dict())
    for by in ("activation", "magnitude", "native"):
        ordered = ordered_by(model, rope, by)
        whole = extract_child(ordered, Selection.prefix(ordered.ranked))
        assert (logits_of(whole) - logits_of(model)).abs().max() < 1e-4
        assert whole.config.rope_parameters == model.config.rope_parameters


@every_type
@pytest.mark.parametrize("family", ["llama", "qwen3", "gpt_neox"])
def test_kept_pairs_turn_as_they_did(kind, family):
    if family == "gpt_neox":
        changes = {"partial_rotary_factor": 0.5}
        lists = {name: ROPES[kind][name][:4] for name in ("short_factor", "long_factor") if kind == "longrope"}
        rope = {"rope_type": kind, "rope_theta": THETA} | ROPES[kind] | lists | changes
        model = tiny_teacher(family, tied=False, rope_parameters=rope)
    else:
        model = teacher_of(kind, family)
    ordered, selection = ordered_by(model), SINGLE if family == "gpt_neox" else HALF_HEADS
    child, cut = extract_child(ordered, selection), resolve(ordered, selection)
    expected, scaling = turns_of(model)[0]
    for layer, (frequencies, own_scaling) in zip(cut.layers, turns_of(child), strict=True):
        kept = sorted(pair for pair in layer.pairs.tolist() if pair < expected.shape[1])
        torch.testing.assert_close(frequencies, expected[:, kept], rtol=1e-5, atol=0)
        assert own_scaling == pytest.approx(scaling)


@every_type
def test_rebuilt_heads_run(kind):
    model = teacher_of(kind)
    child = extract_child(ordered_by(model, "rebuild"), HALF_HEADS)
    assert torch.isfinite(logits_of(child)).all()
    assert turns_of(child)[0][0].shape == (2, 4)


@pytest.fixture(scope="module")
def teachers():
    return {kind: ordered_by(teacher_of(kind)) for kind in ROPES}


@pytest.mark.slow
@given(
    kind=st.sampled_from(sorted(ROPES)),
    rope=st.sampled_from(["preserve", "rebuild"]),
    pairs=st.sets(st.integers(0, 7), min_size=1, max_size=7),
    again=st.booleans(),
)
def test_random_weights_of_any_child_get_the_plain_frequencies(teachers, kind, rope, pairs, again):
    ordered = replace(teachers[kind], rope=rope)
    layer = replace(HALF_HEADS.layers[0], pairs=tuple(sorted(pairs)))
    child = extract_child(ordered, Selection(hidden=range(48), layers=(layer,)))
    config = child.config.to_dict()
    if again:
        parent = replace(ordered_by(child), rope=rope)
        first = replace(HALF_HEADS.layers[0], layer=0, pairs=tuple(range(len(pairs)))[: max(1, len(pairs) - 1)])
        config = extract_child(parent, Selection(hidden=range(48), layers=(first,))).config.to_dict()
    architecture = architecture_of(child)
    random = random_model(config | {"rope_parameters": standard_rope(config)}, architecture, seed=0)
    head_dim = architecture.layers[0].head_dim
    expected = THETA ** (-torch.arange(0, head_dim, 2) / head_dim)
    torch.testing.assert_close(turns_of(random)[0][0][0], expected, rtol=1e-5, atol=0)


@every_family
def test_so_do_those_of_an_export_on_disk(teacher, orders, tokenizer, tmp_path):
    child = own_weights(extract_child(orders["activation", "preserve"], select(48, [0, 2], (3, 1, 12, 20))))
    folder = save_checkpoint(child, tokenizer, tmp_path / "child")
    config = load_config(folder)
    types = layer_types(supported_family(config), config)
    bases = [rope_of_type(teacher.config.rope_parameters, own)["rope_theta"] for own in types]
    assert [rope_of_type(standard_rope(config), own)["rope_theta"] for own in types] == bases
    parent = open_ordered(folder, Ordering(ordering="magnitude")).ranked
    random = random_model(config | {"rope_parameters": standard_rope(config)}, parent, seed=0)
    # The even numbers nearest to a quarter and to three quarters.
    turning = {"gpt_neox": 4, "stablelm": 4, "phi3": 8}.get(teacher.config.model_type, 12)
    for (frequencies, _), base in zip(turns_of(random), bases, strict=True):
        expected = base ** (-torch.arange(0, turning, 2) / turning)
        torch.testing.assert_close(frequencies[0], expected, rtol=1e-5, atol=0)
