"""A refit brings a child's stream to its teacher's, and leaves the first position alone."""

import gc
import weakref
from dataclasses import replace
from itertools import chain

import pytest
import torch
from corrections import compensate, logits_of, only, ordered_by
from teachers import DEPTH, select, tiny_teacher

from budwood.arch.selection import Selection
from budwood.models.stream import outputs_of
from budwood.subnet import moments
from budwood.subnet.compensate import cut_out
from budwood.subnet.extract import Corrections, assemble, child_config, child_parts, extract_child, merged, resolve
from budwood.subnet.moments import StreamedMoments, teacher_stream
from budwood.subnet.refit import fitted_layers
from budwood.subnet.settings import Compensation


def streams(model, windows):
    with torch.no_grad():
        return model(windows, output_hidden_states=True).hidden_states


@pytest.mark.parametrize(
    ("family", "changes"),
    [("llama", {}), ("gpt_neox", {}), ("gpt_neox", {"use_parallel_residual": False}), ("qwen3", {})],
)
def test_the_stream_comes_nearer_to_the_teachers(family, changes, windows):
    """Behind every layer of a child that lacks half of the neurons of each."""
    ordered = ordered_by(tiny_teacher(family, tied=False, **changes), windows)
    queries = ordered.ranked.layers[0].heads_per_group
    cut = select(48, list(range(DEPTH)), (3, queries, 16, 20))
    whole = streams(extract_child(ordered, Selection.prefix(ordered.ranked)), windows)
    plain, fitted = (
        streams(child, windows)
        for child in (extract_child(ordered, cut), compensate(ordered, cut, windows, only("refit", refit_ridge=1e-3)))
    )
    for depth in range(1, DEPTH):
        errors = [float((each[depth] - whole[depth])[:, 1:].norm()) for each in (plain, fitted)]
        assert errors[1] < 0.95 * errors[0]


@pytest.mark.parametrize("family", ["llama", "gpt_neox", "phi3"])
def test_what_a_norm_makes_of_a_wrong_stream_is_mended(family, windows):
    """A linear change of the embedding, which every reader of the first layer can undo."""
    ordered = ordered_by(tiny_teacher(family, tied=False), windows)
    name, scales = ordered.family.embedding.weight, torch.linspace(0.5, 2, ordered.architecture.hidden_size)
    cut = resolve(ordered, Selection.prefix(ordered.ranked))
    config = child_config(ordered, cut)
    whole = StreamedMoments(ordered, windows.split(4), {}, [], gap_ridge=1.0, passages=cut)

    def parts():
        embedding, *others = child_parts(ordered, cut, Corrections())
        return [embedding | {name: embedding[name] * scales}, *others]

    fitted = iter(parts())
    children = [
        assemble(merged(made), config, cut.architecture)
        for made in (
            child_parts(ordered, cut, Corrections()),
            parts(),
            chain(fitted_layers(fitted, ordered, cut, whole, windows.split(4), 1e-6), fitted),
        )
    ]
    wanted, wrong, mended = (read(child, ordered, windows) for child in children)
    errors = [float((each - wanted).norm() / wanted.norm()) for each in (wrong, mended)]
    assert errors[1] < 0.2 * errors[0]


@pytest.mark.slow
@pytest.mark.parametrize("refit", [False, True])
def test_parts_that_are_handed_over_are_not_kept(refit, windows):
    """What is alive of a child is what somebody else has kept, and in the end nobody has the text any more."""
    gc.collect()
    ordered = ordered_by(tiny_teacher("gpt_neox", tied=False), windows)
    cut = select(48, [0, *range(2, DEPTH)], (3, 1, 16, 20))
    parts = cut_out(ordered, cut, windows, only("neurons", layers=True, refit=refit))
    handed = []
    for part in parts.states:
        handed.append([weakref.ref(tensor) for tensor in part.values()])
        del part
        assert not any(reference() is not None for references in handed for reference in references)
    assert len(handed) == DEPTH + 1
    assert not [each for each in gc.get_objects() if type(each) is StreamedMoments]


def read(child, ordered, windows):
    """Return what the first layer's queries are."""
    query = child.get_submodule(ordered.family.layer_path(0, ordered.family.query))
    with torch.no_grad(), outputs_of(query) as queries:
        child(windows)
    return queries[0]


@pytest.mark.slow
def test_a_refit_may_read_a_text_of_its_own(windows):
    """All other corrections follow from the first text."""
    ordered = ordered_by(tiny_teacher("llama", tied=False), windows)
    cut, settings = select(40, list(range(DEPTH)), (3, 2, 16, 20)), Compensation(refit=True)
    first, second = windows[:4], windows[4:]
    alone, beside = (merged(cut_out(ordered, cut, text, only("refit"), second).states) for text in (second, first))
    for name, weight in alone.items():
        torch.testing.assert_close(beside[name], weight, rtol=0, atol=0)
    ways = [(first, None), (first, first), (first, second), (second, second)]
    same, as_before, other, another = (
        merged(cut_out(ordered, cut, text, settings, refit).states)["model.layers.1.mlp.down_proj.weight"]
        for text, refit in ways
    )
    torch.testing.assert_close(same, as_before, rtol=0, atol=0)
    assert not torch.allclose(other, same)
    assert not torch.allclose(other, another)


def test_one_text_is_read_once(windows, monkeypatch):
    """What is regressed on and what a refit needs come from one pass of the teacher, to the last bit as from two."""
    ordered = ordered_by(tiny_teacher("llama", tied=False), windows)
    cut, settings = select(40, [0, *range(2, DEPTH)], (3, 2, 16, 20)), Compensation(refit=True)
    streams = []
    monkeypatch.setattr(moments, "teacher_stream", lambda *given: streams.append(given) or teacher_stream(*given))
    once = merged(cut_out(ordered, cut, windows, settings, windows.clone()).states)
    assert len(streams) == 1
    monkeypatch.setattr(torch, "equal", lambda *_: False)
    twice = merged(cut_out(ordered, cut, windows, settings, windows).states)
    assert len(streams) == 3
    for name, weight in once.items():
        torch.testing.assert_close(twice[name], weight, rtol=0, atol=0)


def test_what_can_be_made_up_for_is(windows):
    """The teacher's own output projections, scaled: a refit finds them again."""
    ordered = ordered_by(tiny_teacher("llama", tied=False), windows)
    # One neuron fewer, which is always zero: the child could be the teacher.
    weights = {name: weight.clone() for name, weight in ordered.weights.items()}
    for name, weight in weights.items():
        if name.endswith("gate_proj.weight"):
            weight[-1] = 0
    poor = replace(ordered, weights=weights)
    cut = select(48, list(range(DEPTH)), (3, 2, 16, 39))
    expected = logits_of(extract_child(poor, Selection.prefix(poor.ranked)), windows)
    actual = logits_of(compensate(poor, cut, windows, only("refit", refit_ridge=1e-6)), windows)
    torch.testing.assert_close(actual, expected, rtol=1e-3, atol=1e-3)
