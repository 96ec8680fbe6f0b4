"""Corrections recover what can be recovered, and shrink to plain slicing."""

from dataclasses import replace
from itertools import product

import numpy as np
import pytest
import torch
from children import SELECTIONS
from corrections import compensate, logits_of, only, ordered_by
from strategies import decoder, layer
from teachers import FULL, NEURONS, across, architecture_of, every_family, select, tiny_teacher, weights_of

from budwood.arch.selection import Selection
from budwood.arch.spec import Architecture
from budwood.subnet.compensate import corrections_made, gaps_of
from budwood.subnet.extract import child_state, extract_child, resolve
from budwood.subnet.flops import layout_work, moment_work, solve_work
from budwood.subnet.ordering import order_teacher
from budwood.subnet.regression import regress
from budwood.subnet.settings import NO_CORRECTION, STEPS, Compensation, Ordering

NONE, ALL = NO_CORRECTION, Compensation(**dict.fromkeys(STEPS, True))
RIDGES = ("neuron_ridge", "channel_ridge", "head_ridge", "layer_ridge", "refit_ridge")
TINY = dict.fromkeys(RIDGES, 1e-9)
CUT = select(30, [0, 2, 3], (2, 1, 8, 20))
ORDERS = list(product(("activation", "magnitude", "native"), ("preserve", "rebuild")))


def test_regression_is_ridge_regression_on_features_of_unit_variance():
    rng = np.random.default_rng(0)
    features, targets = rng.normal(size=(50, 4)) * [1, 10, 0.1, 3], rng.normal(size=(50, 2))
    scaled = features / np.sqrt((features**2).mean(0))
    ridge = 0.3
    # The ridge as 50 * ridge rows of zeros: an ordinary least-squares problem.
    stacked = np.vstack([scaled, np.sqrt(50 * ridge) * np.eye(4)])
    expected, *_ = np.linalg.lstsq(stacked, np.vstack([targets, np.zeros((4, 2))]), rcond=None)
    moment, target = torch.tensor(features.T @ features / 50), torch.tensor(features.T @ targets / 50)
    actual = regress(moment, target, ridge).numpy() * np.sqrt((features**2).mean(0))[:, None]
    np.testing.assert_allclose(actual, expected, rtol=1e-9)


@pytest.mark.parametrize(("teacher", "selection"), across(list(SELECTIONS)), indirect=True)
def test_without_corrections_it_is_the_plain_cut(orders, windows, selection):
    for ordering in ("activation", "native"):
        ordered = orders[ordering, "preserve"]
        child = compensate(ordered, selection, windows, NONE)
        assert torch.equal(logits_of(child, windows), logits_of(extract_child(ordered, selection), windows))


@pytest.mark.parametrize(
    ("teacher", "step"), across(["neurons", "channels", "heads", "layers", "refit"]), indirect=["teacher"]
)
def test_an_infinite_ridge_is_the_plain_cut(orders, windows, step):
    ordered = orders["activation", "preserve"]
    child = compensate(ordered, CUT, windows, only(step, **dict.fromkeys(RIDGES, 1e12)))
    expected = logits_of(extract_child(ordered, CUT), windows)
    torch.testing.assert_close(logits_of(child, windows), expected, rtol=1e-4, atol=1e-3)


@every_family
def test_where_nothing_is_removed_nothing_changes(orders, windows):
    ordered = orders["activation", "preserve"]
    whole = Selection.prefix(ordered.ranked)
    child = compensate(ordered, whole, windows, ALL)
    assert torch.equal(logits_of(child, windows), logits_of(extract_child(ordered, whole), windows))


@every_family
def test_corrections_without_a_regression_read_no_text(orders, windows):
    """So they cost none: see `budwood.study.costs.Correction`."""
    unreadable = torch.full_like(windows, -1)
    for step in ("norms", "pairs"):
        compensate(orders["activation", "preserve"], CUT, unreadable, only(step))


@pytest.mark.slow
@pytest.mark.parametrize(("teacher", "order"), across(ORDERS), indirect=["teacher"])
@pytest.mark.usefixtures("unbalanced")
def test_the_corrections_that_are_named_are_those_that_change_something(orders, windows, order):
    """In every order and under either rotary embedding; a whole cut needs none, and none are made unasked."""
    ordered = orders[order]
    plain = extract_child(ordered, CUT).state_dict()
    made = [step for step in STEPS if differing(plain, compensate(ordered, CUT, windows, only(step)).state_dict())]
    assert list(corrections_made(ordered, CUT, ALL)) == made
    assert corrections_made(ordered, CUT, only("heads")) == ("heads",)
    assert corrections_made(ordered, CUT, None) == ()
    assert corrections_made(ordered, Selection.prefix(ordered.ranked), ALL) == ()


@pytest.mark.usefixtures("unbalanced")
def test_every_step_changes_what_it_should(teacher, orders, windows):
    """Each step has its own parameters, and all of them together give a sound model of the same sizes."""
    ordered = orders["activation", "preserve"]
    plain = extract_child(ordered, CUT).state_dict()
    changed = {step: differing(plain, compensate(ordered, CUT, windows, only(step)).state_dict()) for step in STEPS}
    family = ordered.family
    assert {name for name in changed["neurons"] if "bias" not in name} == names(ordered, CUT, family.mlp_out)
    assert {name for name in changed["heads"] if "bias" not in name} == names(ordered, CUT, family.output)
    assert names(ordered, CUT, *family.mlp_in) <= changed["channels"]
    normed = {family.final_norm.weight} | names(ordered, CUT, *family.norms)
    assert normed <= changed["norms"] <= normed | names(ordered, CUT, *family.head_norms)
    assert bool(changed["layers"]) is not family.output_norms
    fitted = [family.layer_path(layer, module) for layer in range(3) for module in (*family.readers, *writers(family))]
    assert changed["refit"] <= (set() if family.output_norms else {f"{name}.weight" for name in fitted})
    assert changed["refit"] >= (set() if family.output_norms else names(ordered, CUT, *writers(family)))
    assert bool(changed["pairs"]) is (teacher.config.model_type != "qwen3")
    child = compensate(ordered, CUT, windows, ALL)
    assert {name: weight.shape for name, weight in child.state_dict().items()} == {n: w.shape for n, w in plain.items()}
    assert logits_of(child, windows).isfinite().all()


def differing(first, second):
    return {name for name, weight in first.items() if not torch.equal(weight, second[name])}


def writers(family):
    return family.output, family.mlp_out


def names(ordered, selection, *modules):
    layers = range(len(selection.layers))
    return {ordered.family.layer_weight(layer, module) for layer in layers for module in modules}


@every_family
def test_twin_neurons_are_folded_into_one(teacher, windows):
    """Half of the neurons do what the other half does: cutting them costs nothing."""
    twins = tiny_teacher(teacher.config.model_type, tied=False)
    with torch.no_grad():
        for name, parameter in twins.named_parameters():
            # Rows are neurons: 40, or where one module holds gate and up, those of the one before those of the other.
            if ".mlp." in name and len(parameter) in (NEURONS, 2 * NEURONS):
                parameter[1::2] = parameter[::2]
    ordered = ordered_by(twins, windows)
    kept = Selection.prefix(ordered.ranked)
    # The two of a pair matter unequally, by their output weights, so one of each is named.
    layers = tuple(replace(layer, neurons=one_of_each(ordered, layer.layer)) for layer in kept.layers)
    halved = replace(kept, layers=layers)
    assert all(len(layer.neurons) == NEURONS // 2 for layer in layers)
    expected = logits_of(twins, windows)
    mended = logits_of(compensate(ordered, halved, windows, only("neurons", **TINY)), windows)
    plain = logits_of(extract_child(ordered, halved), windows)
    assert (mended - expected).abs().max() < 2e-3 * expected.abs().max()
    assert (plain - expected).abs().max() > 0.05 * expected.abs().max()


def one_of_each(ordered, rank):
    """Return the first neuron of every group of equal rows."""
    rows = ordered.weights[ordered.family.layer_weight(ordered.ranking[rank], ordered.family.mlp_in[0])]
    _, groups = rows.unique(dim=0, return_inverse=True)
    return tuple(sorted({int(group): index for index, group in reversed(list(enumerate(groups)))}.values()))


def test_a_redundant_channel_is_read_from_the_others(windows):
    """A channel that always equals another's half is predicted exactly; the norm gain makes up for its size."""
    teacher = tiny_teacher("llama", tied=False)
    ordered = ordered_by(teacher, windows)
    keep = range(47)
    weights = {name: weight.clone() for name, weight in ordered.weights.items()}
    for name, weight in weights.items():
        # What writes into the last channel writes half of what it writes into the first.
        if name.endswith(("o_proj.weight", "down_proj.weight")):
            weight[47] = weight[0] / 2
        elif name.endswith("embed_tokens.weight"):
            weight[:, 47] = weight[:, 0] / 2
    redundant = replace(ordered, weights=weights)
    cut = replace(Selection.prefix(ordered.ranked), hidden=keep)
    expected = logits_of(extract_child(redundant, Selection.prefix(ordered.ranked)), windows)
    errors = [
        float((logits_of(child, windows) - expected).norm() / expected.norm())
        for child in (
            compensate(redundant, cut, windows, only("channels", channel_ridge=1e-9, norms=True)),
            compensate(redundant, cut, windows, only("norms")),
        )
    ]
    # What is left is the spread of the norm's gain from token to token.
    assert errors[0] < 0.5 * errors[1]


def test_the_first_position_is_read_as_in_the_plain_cut(windows):
    """What is regressed on the other positions passes over the direction of the first one."""
    same = windows.clone()
    same[:, 0] = 7
    ordered = ordered_by(tiny_teacher("llama", tied=False), same)
    queries = []
    for child in (extract_child(ordered, CUT), compensate(ordered, CUT, same, only("channels"))):
        child.model.layers[0].self_attn.q_proj.register_forward_hook(lambda *call: queries.append(call[2]))
        logits_of(child, same)
    plain, compensated = queries
    torch.testing.assert_close(compensated[:, 0], plain[:, 0], rtol=1e-4, atol=1e-4)
    assert (compensated[:, 1:] - plain[:, 1:]).abs().max() > 1e-2


def test_a_dropped_layer_becomes_a_linear_map(windows):
    """The stream after a gap is nearer to the teacher's than without the map, and the first position stays."""
    teacher = tiny_teacher("llama", tied=False)
    ordered = ordered_by(teacher, windows)
    kept = Selection.prefix(ordered.ranked)
    dropped = next(rank for rank, depth in enumerate(ordered.ranking) if depth == 2)
    cut = replace(kept, layers=tuple(layer for layer in kept.layers if layer.layer != dropped))
    after = {}
    for name, child in (
        ("teacher", extract_child(ordered, kept)),
        ("mapped", compensate(ordered, cut, windows, only("layers", layer_ridge=1e-6))),
        ("plain", extract_child(ordered, cut)),
    ):
        with torch.no_grad():
            after[name] = child(windows, output_hidden_states=True).hidden_states[3 if name == "teacher" else 2]
    errors = {name: (after[name] - after["teacher"])[:, 1:].norm() for name in ("mapped", "plain")}
    assert errors["mapped"] < 0.9 * errors["plain"]


@pytest.mark.parametrize("step", ["layers", "refit"])
def test_a_factor_on_what_sub_layers_add_may_as_well_be_in_their_weights(windows, step):
    """Law: a correction is the same whichever way the teacher states what attention and MLPs add."""
    stated = tiny_teacher("granite+attention_bias+mlp_bias", tied=False)
    folded = tiny_teacher("granite+attention_bias+mlp_bias", tied=False, residual_multiplier=1.0)
    with torch.no_grad():
        for name, parameter in folded.named_parameters():
            if "o_proj" in name or "down_proj" in name:
                parameter.mul_(stated.config.residual_multiplier)
    assert torch.allclose(logits_of(folded, windows), logits_of(stated, windows), atol=1e-4)
    cut = select(48, [0, 3], (3, 2, 16, 40))
    children = []
    for model in (stated, folded):
        native, config = Ordering(ordering="native"), model.config.to_dict()
        ordered = order_teacher(weights_of(model), config, architecture_of(model), native)
        children.append(compensate(ordered, cut, windows, only(step)))
    one, other = children
    torch.testing.assert_close(logits_of(one, windows), logits_of(other, windows), rtol=1e-3, atol=1e-3)


def test_a_group_keeps_its_own_pairs_at_their_frequencies(windows):
    """With one group and one layer there is nothing to share: the child turns its best pairs as the teacher did."""
    teacher = tiny_teacher("llama", tied=False, num_hidden_layers=1, num_attention_heads=2, num_key_value_heads=1)
    ordered = ordered_by(teacher, windows)
    # A ranking that would keep the worst pairs.
    best = ordered.pair_scores[0][0].argsort(descending=True).tolist()
    poor = replace(ordered, pair_rankings=(tuple(reversed(best)),))
    good = replace(ordered, pair_rankings=(tuple(best),))
    cut = select(48, [0], (1, 2, 6, 40))
    expected = extract_child(good, cut)
    actual = compensate(poor, cut, windows, only("pairs"))
    torch.testing.assert_close(logits_of(actual, windows), logits_of(expected, windows), rtol=1e-4, atol=1e-4)
    assert (logits_of(extract_child(poor, cut), windows) - logits_of(expected, windows)).abs().max() > 1e-2


def test_groups_share_the_median_frequency(windows):
    """Slots of native models have one frequency each, in layer-wise models each layer has its own."""
    ordered = ordered_by(tiny_teacher("llama", tied=False), windows)
    uniform = compensate(ordered, select(48, [0, 1], (3, 2, 8, 40)), windows, only("pairs"))
    assert type(uniform).__name__ == "LlamaForCausalLM"
    scores = torch.cat([ordered.pair_scores[ordered.ranking[rank]] for rank in (0, 1)])
    slots = scores.topk(4, dim=1).indices.sort(dim=1).values.double().quantile(0.5, dim=0)
    theta = ordered.config["rope_parameters"]["rope_theta"]
    torch.testing.assert_close(
        uniform.model.rotary_emb.inv_freq.double(), theta ** (-2 * slots / 16), rtol=1e-5, atol=0
    )
    mixed = select(48, [0, 1], (3, 2, 8, 40), (3, 2, 10, 40))
    assert type(compensate(ordered, mixed, windows, only("pairs"))).__name__ == "LayerwiseLlamaForCausalLM"


@pytest.mark.parametrize("batch_size", [1, 6])
def test_batches_do_not_matter(windows, batch_size):
    ordered = ordered_by(tiny_teacher("gpt_neox", tied=False), windows)
    one = compensate(ordered, CUT, windows, ALL, batch_size=batch_size)
    other = compensate(ordered, CUT, windows, ALL, batch_size=4)
    torch.testing.assert_close(logits_of(one, windows), logits_of(other, windows), rtol=1e-3, atol=1e-3)


def test_the_teacher_is_untouched_and_unhooked(windows):
    ordered = ordered_by(tiny_teacher("llama", tied=True), windows).materialise(FULL)
    before = {name: weight.clone() for name, weight in ordered.weights.items()}
    compensate(ordered, CUT, windows, ALL)
    assert all(torch.equal(ordered.weights[name], weight) for name, weight in before.items())
    plain = child_state(ordered, resolve(ordered, CUT))
    assert all(weight.isfinite().all() for weight in plain.values())


@pytest.mark.parametrize("name", RIDGES)
@pytest.mark.parametrize("value", [0.0, -1.0, float("nan")])
def test_a_ridge_must_be_positive(name, value):
    with pytest.raises(ValueError, match=rf"{name}\n.*greater than 0"):
        Compensation(**{name: value})


def test_steps_are_named_in_order():
    assert ALL.steps == STEPS
    assert Compensation().steps == tuple(step for step in STEPS if step != "refit")
    assert only("layers", neurons=True).steps == ("neurons", "layers")


def test_what_corrections_cost_by_hand() -> None:
    """A layer of 8 head dimensions and 10 neurons, of which 4 and 5 are kept, and 6 of 8 channels; 7 tokens."""
    teacher = decoder("llama", 11, 8, *[layer(4, 4, 2, 10)] * 3, tied=True)
    child = decoder("llama", 11, 6, layer(2, 2, 2, 5), tied=True)
    moments = {"channels": 2 * 2 * 8**2 * 7, "heads": 2 * 8**2 * 7, "neurons": 2 * 10**2 * 7}
    # Queries, keys and values have 4 rows each, gate and up 5.
    channels = 2 * (6**3 / 3 + 2 * 6**2 * 2) + 2 * 6 * 2 * (3 * 4 + 2 * 5)
    heads = 4**3 / 3 + 2 * 4**2 * 4 + 2 * 4 * 4 * 6
    neurons = 5**3 / 3 + 2 * 5**2 * 5 + 2 * 5 * 5 * 6
    gap, over = 4 * 8**2 * 7 + 8**3 / 3 + 2 * 8**3, 2 * 6 * 8 * 10

    def gathered(gaps: int = 0, whole: Architecture = teacher, **changes: bool) -> float:
        return moment_work(whole, child, Compensation(**changes), num_tokens=7, num_gaps=gaps).flops

    def solved(gaps: int = 0, whole: Architecture = teacher, **changes: bool) -> float:
        return solve_work(whole, child, Compensation(**changes), num_gaps=gaps).flops

    assert gathered() == pytest.approx(sum(moments.values()))
    assert gathered(gaps=2) == pytest.approx(sum(moments.values()) + 2 * gap)
    assert gathered(gaps=2, layers=False, heads=False, neurons=False) == pytest.approx(moments["channels"])
    assert solved() == pytest.approx(channels + heads + neurons)
    assert solved(gaps=2) == pytest.approx(channels + heads + neurons + 2 * over)
    assert solved(gaps=2, layers=False, channels=False) == pytest.approx(heads + neurons)
    # An output matrix of its own reads the channels once more.
    untied = replace(teacher, tie_word_embeddings=False)
    assert gathered(whole=untied) == pytest.approx(sum(moments.values()) + moments["channels"] / 2)
    once_more = 6**3 / 3 + 2 * 6**2 * 2 + 2 * 6 * 2 * 11
    assert solved(whole=untied) == pytest.approx(channels + heads + neurons + once_more)
    assert moment_work(teacher, child, ALL, num_tokens=7, num_gaps=0).flops > 0
    assert solve_work(child, child, ALL, num_gaps=0).flops == 0


def test_what_laying_weights_out_costs_by_hand() -> None:
    """Of three layers with 8 channels, 8 head dimensions and 10 neurons one is kept, with 6, 4 and 5; 11 words."""
    teacher = decoder("llama", 11, 8, *[layer(4, 4, 2, 10)] * 3, tied=False)
    child = decoder("llama", 11, 6, layer(2, 2, 2, 5), tied=False)
    whole = 4 * 8 * 8 + 3 * 8 * 10 + 2 * 8
    small = 2 * 11 * 6 + 4 * 6 * 4 + 3 * 6 * 5 + 2 * 6 + 6
    work = layout_work(teacher, child, NO_CORRECTION, num_passes=0)
    # Values, and what reads them, of 4 groups and as many heads.
    turned = 6 * 2 * 8 * 8
    assert work.moved == 2 * (2 * 11 * 8 + whole) + turned + 6 * small
    assert work.products == 2 * 8 * 8**2 * 2
    # Queries, keys and values have 4 rows each, gate and up 5, what attention and the MLP write 6, the head 11.
    gathered = 2 * (8 * (3 * 4 + 2 * 5 + 11) + (8 + 10) * 6)
    corrected = layout_work(teacher, child, Compensation(), num_passes=1)
    moments = 2.5 * (4 * 8**2 + 10**2)
    # A pass over text reads the embedding and all layers.
    assert corrected.moved == work.moved + 2 * (11 * 8 + 3 * whole) + 3 * turned + gathered + moments
    assert corrected.products == 4 * work.products
    assert corrected.passes == corrected.panels == corrected.entries == 0


def test_moments_for_all_children_are_those_of_every_input() -> None:
    whole = decoder("llama", 11, 8, *[layer(4, 4, 2, 10)] * 3, tied=True)
    every = moment_work(whole, None, ALL, num_tokens=7, num_gaps=0)
    assert every.flops == pytest.approx(3 * 2 * 7 * (3 * 8**2 + 10**2))
    assert every.entries == 3 * 7 * (3 * 8 + 10)


@pytest.mark.parametrize(("kept", "gaps"), [([0, 1, 2, 3], 0), ([0, 2], 2), ([1, 2, 3], 0), ([0], 1), ([0, 3], 1)])
def test_gaps_follow_kept_layers(kept: list[int], gaps: int) -> None:
    assert len(gaps_of(kept, depth=4)) == gaps
