"""Selections refuse what cannot be kept, survive JSON, and are known by what they keep."""

import itertools
import json
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from strategies import architectures, layer, llama, members

from budwood.arch.selection import Indices, LayerSelection, Selection
from budwood.arch.space import SearchSpace
from budwood.arch.spec import Architecture

TEACHER = llama(32, 16, layer(6, 3, 8, 12), layer(4, 2, 6, 20))
FIRST = LayerSelection(layer=0, groups=(2, 0), queries=range(2), pairs=(3, 1), neurons=(11, 4, 7))
SECOND = LayerSelection(layer=1, groups=(1,), queries=(1,), pairs=(0, 2), neurons=range(20))
MEMBER = Selection(hidden=(5, 15, 0), layers=(SECOND, FIRST))
AXES = ("groups", "queries", "pairs", "neurons")


def test_sizes_follow_from_what_is_kept() -> None:
    assert MEMBER.architecture(TEACHER) == llama(32, 3, layer(1, 1, 4, 20), layer(4, 2, 4, 3))


@given(members())
def test_json_round_trip_is_identity(drawn: tuple[SearchSpace, Selection]) -> None:
    _, member = drawn
    text = json.dumps(member.to_dict())
    rebuilt = Selection.from_dict(json.loads(text))
    assert rebuilt == member
    assert json.dumps(rebuilt.to_dict()) == text


def test_json_names_every_axis() -> None:
    assert MEMBER.to_dict() == {
        "hidden": [5, 15, 0],
        "layers": [
            {"layer": 1, "groups": [1], "queries": [1], "pairs": [0, 2], "neurons": 20},
            {"layer": 0, "groups": [2, 0], "queries": 2, "pairs": [3, 1], "neurons": [11, 4, 7]},
        ],
    }
    with pytest.raises(KeyError, match="hidden"):
        Selection.from_dict({"layers": []})


@given(architectures())
def test_a_prefix_has_the_sizes_it_was_made_for(architecture: Architecture) -> None:
    whole = Selection.prefix(architecture)
    whole.require_within(architecture)
    assert whole.architecture(architecture) == architecture
    assert [kept.layer for kept in whole.layers] == list(range(architecture.num_hidden_layers))


@given(members(), st.randoms(use_true_random=False))
def test_the_order_of_taking_is_no_part_of_the_key(
    drawn: tuple[SearchSpace, Selection], random: np.random.Generator
) -> None:
    _, member = drawn

    def shuffled(indices: Indices) -> tuple[int, ...]:
        return tuple(random.sample(list(indices), len(indices)))

    layers = tuple(replace(kept, **{axis: shuffled(getattr(kept, axis)) for axis in AXES}) for kept in member.layers)
    turned = Selection(hidden=shuffled(member.hidden), layers=tuple(random.sample(layers, len(layers))))
    assert turned.key() == member.key()


@pytest.mark.parametrize(
    "other",
    [
        replace(MEMBER, hidden=(5, 15, 1)),
        replace(MEMBER, hidden=(5, 15)),
        replace(MEMBER, hidden=range(3)),
        replace(MEMBER, layers=(FIRST,)),
        replace(MEMBER, layers=(replace(SECOND, layer=2), FIRST)),
        replace(MEMBER, layers=(replace(FIRST, layer=1), replace(SECOND, layer=0))),
        *(replace(MEMBER, layers=(SECOND, replace(FIRST, **{axis: (0,)}))) for axis in AXES),
    ],
)
def test_whatever_else_is_kept_changes_the_key(other: Selection) -> None:
    assert other.key() != MEMBER.key()


def test_every_set_of_indices_has_a_key_of_its_own() -> None:
    sets = [kept for size in range(1, 6) for kept in itertools.combinations(range(5), size)]
    assert len({replace(MEMBER, hidden=kept).key() for kept in sets}) == len(sets) == 31
    for size in range(1, 6):
        prefixes = (range(size), tuple(range(size)), tuple(range(size))[::-1])
        assert len({replace(MEMBER, hidden=kept).key() for kept in prefixes}) == 1


@pytest.mark.parametrize("axis", AXES)
@pytest.mark.parametrize(
    ("indices", "message"),
    [
        ((), "at least one index must be kept, got none"),
        (range(0), "at least one index must be kept, got none"),
        ((0, -1), "indices must be at least 0, got -1"),
        ((0, 1, 3, 1), "index 1 is given more than once"),
        (range(1, 2), r"a range of indices must be a prefix, got range\(1, 2\)"),
    ],
)
def test_indices_that_cannot_be_kept_are_refused_with_their_place(axis: str, indices: Indices, message: str) -> None:
    with pytest.raises(ValueError, match=rf"^layer 0, {axis}: {message}$"):
        replace(FIRST, **{axis: indices})
    with pytest.raises(ValueError, match=rf"^hidden: {message}$"):
        replace(MEMBER, hidden=indices)


def test_layers_that_cannot_be_kept_are_refused() -> None:
    with pytest.raises(ValueError, match=r"^layer must be at least 0, got -1$"):
        replace(FIRST, layer=-1)
    with pytest.raises(ValueError, match=r"^layers: index 0 is given more than once$"):
        replace(MEMBER, layers=(FIRST, FIRST))
    with pytest.raises(ValueError, match=r"^layers: at least one index must be kept, got none$"):
        replace(MEMBER, layers=())


@pytest.mark.parametrize(
    ("axis", "indices", "length"),
    [("groups", (0, 3), 3), ("queries", range(3), 2), ("pairs", (4,), 4), ("neurons", (3, 12, 5), 12)],
)
def test_indices_that_a_layer_lacks_are_refused_with_their_place(axis: str, indices: Indices, length: int) -> None:
    MEMBER.require_within(TEACHER)
    beyond = replace(MEMBER, layers=(SECOND, replace(FIRST, **{axis: indices})))
    with pytest.raises(ValueError, match=rf"^layer 0, {axis}: index {max(indices)} .* the teacher has {length}$"):
        beyond.require_within(TEACHER)


def test_channels_and_layers_that_a_teacher_lacks_are_refused() -> None:
    with pytest.raises(ValueError, match=r"^hidden: index 16 is out of range, the teacher has 16$"):
        replace(MEMBER, hidden=(1, 16)).require_within(TEACHER)
    with pytest.raises(ValueError, match=r"^layers: index 2 is out of range, the teacher has 2$"):
        replace(MEMBER, layers=(replace(FIRST, layer=2),)).require_within(TEACHER)
