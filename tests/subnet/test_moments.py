"""Moments that are gathered once serve every candidate: each is what its own correction makes it."""

import numpy as np
import pytest
import torch
from corrections import compensate, ordered_by
from teachers import DEPTH, FULL, TEACHERS, architecture_of, every_family, select, tiny_teacher, weights_of
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from budwood.arch.count import layer_flops_per_token
from budwood.arch.selection import Selection
from budwood.models.checkpoint import load_model, own_weights
from budwood.models.export import write_checkpoint
from budwood.models.losses import sequence_losses
from budwood.subnet.compensate import corrected_child, possible_gaps, store_moments
from budwood.subnet.evaluate import SubnetEvaluator
from budwood.subnet.extract import resolve
from budwood.subnet.flops import moment_bytes
from budwood.subnet.moments import StreamedMoments, teacher_stream
from budwood.subnet.ordering import order_teacher
from budwood.subnet.settings import Compensation, Ordering

SEARCHED = Compensation(refit=False)


def cuts(ordered):
    """Return prefixes of all axes, with one, some and all layers."""
    queries = ordered.ranked.layers[0].heads_per_group
    sizes = (2, queries, 8, 20)
    return [select(30, [0], sizes), select(48, [0, 1], (3, queries, 16, 7)), select(30, list(range(DEPTH)), sizes)]


def test_a_stream_costs_what_pytorch_counts(windows):
    """It makes no logits, so the head is left out."""
    ordered = ordered_by(tiny_teacher("llama", tied=True), windows).materialise(FULL)
    with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        stream = teacher_stream(ordered, [windows])
        stream.advance(stream.num_layers)
    teacher = ordered.architecture
    per_token = layer_flops_per_token(teacher, *teacher.layers, context=windows.shape[1])
    assert counter.get_total_flops() == windows.numel() * per_token


def stored(ordered, windows, folder, settings=SEARCHED):
    folder.mkdir()
    gaps = possible_gaps(ordered, coarse=True)
    return store_moments(ordered, windows, settings, folder, gaps=gaps, batch_size=3)


@every_family
def test_they_take_the_room_that_is_planned(orders, windows, tmp_path):
    """Directions that are held, a vector each, come on top."""
    ordered, folder = orders["activation", "preserve"], tmp_path / "moments"
    moments, num_gaps = stored(ordered, windows, folder), len(possible_gaps(ordered, coarse=True))
    sizes = [np.load(file).nbytes for file in folder.glob("*.npy") if not file.name.endswith(".held.npy")]
    assert sum(sizes) == moment_bytes(ordered.architecture, SEARCHED, num_gaps=num_gaps)
    before = moments.fingerprint
    moments.add_gap((0, 2), torch.zeros(1))
    assert moments.fingerprint != before


@pytest.mark.slow
@every_family
@pytest.mark.usefixtures("unbalanced")
def test_a_candidate_is_what_its_own_correction_makes_it(orders, windows, tmp_path):
    ordered = orders["activation", "preserve"]
    moments = stored(ordered, windows, tmp_path / "moments")
    for cut in cuts(ordered):
        assembled = corrected_child(ordered, resolve(ordered, cut), SEARCHED, moments)
        alone = compensate(ordered, cut, windows, SEARCHED, batch_size=3)
        for (name, weight), other in zip(assembled.named_parameters(), alone.parameters(), strict=True):
            torch.testing.assert_close(
                weight, other, rtol=1e-4, atol=1e-5, msg=lambda text, name=name: f"{name}: {text}"
            )


@pytest.mark.slow
def test_what_a_search_compares_is_what_is_exported_before_its_refit(orders, windows, teacher_folder, tmp_path):
    ordered = orders["activation", "preserve"]
    moments = stored(ordered, windows, tmp_path / "moments")
    evaluator = SubnetEvaluator(teacher=ordered, windows=windows, compensation=SEARCHED, moments=moments)
    for number, cut in enumerate(cuts(ordered)):
        child = own_weights(compensate(ordered, cut, windows, SEARCHED))
        exported = load_model(write_checkpoint(child, teacher_folder, tmp_path / f"child-{number}"), torch.float32)
        losses = torch.tensor(evaluator.one(cut).sequence_losses)
        torch.testing.assert_close(losses, sequence_losses(exported, windows), rtol=1e-4, atol=1e-4)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["llama tied", "gpt_neox untied", "gemma2 tied"])
def test_corrected_candidates_share_first_layers_to_the_last_bit(name, windows, tmp_path):
    """Also where the next kept layer differs, or the pairs of later layers."""
    family, tied = TEACHERS[name]
    ordered = ordered_by(tiny_teacher(family, tied=tied), windows)
    moments = stored(ordered, windows, tmp_path / "moments")
    queries = ordered.ranked.layers[0].heads_per_group
    sizes, fewer_pairs = (3, queries, 16, 31), (3, queries, 8, 31)
    candidates = [
        *(select(33, list(range(depth)), sizes) for depth in range(1, DEPTH + 1)),
        select(33, list(range(DEPTH)), *[sizes] * (DEPTH - 1), fewer_pairs),
        select(33, list(range(DEPTH)), fewer_pairs, *[sizes] * (DEPTH - 1)),
    ]
    shared, alone = (
        dict(
            SubnetEvaluator(teacher=ordered, windows=windows, reuse=reuse, compensation=SEARCHED, moments=moments)(
                candidates
            )
        )
        for reuse in (True, False)
    )
    assert [shared[place].sequence_losses for place in range(len(candidates))] == [
        alone[place].sequence_losses for place in range(len(candidates))
    ]
    assert sum(each.flops for each in shared.values()) < sum(each.flops for each in alone.values())


def test_gaps_of_coarse_candidates_are_among_those_that_are_gathered():
    model = tiny_teacher("llama", tied=True)
    ordered = order_teacher(
        weights_of(model), model.config.to_dict(), architecture_of(model), Ordering(ordering="magnitude")
    ).materialise(FULL)
    assert len(possible_gaps(ordered, coarse=True)) < DEPTH
    assert set(possible_gaps(ordered, coarse=True)) <= set(possible_gaps(ordered, coarse=False))
    assert len(possible_gaps(ordered, coarse=False)) == DEPTH * (DEPTH - 1) // 2


def test_the_moments_of_one_layer_are_in_memory_at_a_time(windows):
    ordered = ordered_by(tiny_teacher("llama", tied=True), windows).materialise(FULL)
    paths = [f"model.layers.{layer}.{name}" for layer in range(DEPTH) for name in ("mlp.down_proj", "self_attn.q_proj")]
    moments = StreamedMoments(ordered, windows.split(4), dict.fromkeys(paths, 0), [], gap_ridge=1.0)
    for path in paths:
        moment = moments.input(path).moment
        # Each is handed over once: of this layer one is left, or none.
        assert len(moments._inputs) == (path.endswith("mlp.down_proj"))
        # The mean square of every entry is what importance has found.
        assert moment.diagonal().min() >= 0
    with pytest.raises(AssertionError, match="was read before"):
        moments.input(paths[0])


def test_a_moment_is_the_mean_of_outer_products(windows):
    ordered = ordered_by(tiny_teacher("llama", tied=True), windows).materialise(FULL)
    path = "model.layers.2.mlp.down_proj"
    whole = compensate(ordered, Selection.prefix(ordered.ranked), windows, SEARCHED)
    read = []
    whole.get_submodule(path).register_forward_pre_hook(lambda _, inputs: read.append(inputs[0]))
    with torch.no_grad():
        whole(windows)
    for first in (0, 1):
        moments = StreamedMoments(ordered, windows.split(4), {path: first}, [], gap_ridge=1.0)
        rows = read[0][:, first:].flatten(0, 1)
        known = moments.input(path)
        torch.testing.assert_close(known.moment, rows.T @ rows / len(rows), rtol=1e-4, atol=1e-6)
        assert bool(known.held.any()) is bool(first)
