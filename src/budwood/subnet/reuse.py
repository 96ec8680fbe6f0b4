"""Which layers of a candidate were run already, for another candidate that begins alike.

Candidates are read in the order in which a tree of their first layers is walked, so that only the states along one path
are held: a candidate that changes one layer of another reads on from the states before that layer, bit for bit. Held
states are those of all text, so that there are few of them at once, whatever the candidates.
"""

from collections.abc import Hashable, Sequence
from dataclasses import dataclass, field
from itertools import pairwise

from torch import nn

from budwood.models.stream import Given, Passed, States

MOST_HELD = 8
"""Depths behind which states are held at once; where more are wanted, some candidates run a few more layers."""


@dataclass(frozen=True, slots=True)
class Visit:
    """The turn of one candidate."""

    place: int
    """Of the candidate, in the order in which candidates were given."""
    shared: int
    """First layers that an earlier candidate has run, and behind which the states are held."""
    held: tuple[int, ...]
    """Numbers of first layers after which the states are kept, because later candidates share no more."""


def walk(paths: Sequence[Sequence[Hashable]], most: int = MOST_HELD) -> list[Visit]:
    """Return the turns of candidates, those that begin alike one after the other.

    Args:
        paths: for every candidate, what all its layers depend on, and then its layers in depth order.
        most: depths behind which states are held at once.
    """
    numbers: dict[tuple[int, Hashable], int] = {}
    nodes = [_nodes(path, numbers) for path in paths]
    order = sorted(range(len(paths)), key=nodes.__getitem__)
    # The first node is no layer.
    shared = [max(0, _common(nodes[a], nodes[b]) - 1) for a, b in pairwise(order)]
    shared = _bounded([0, *shared][: len(order)], most)
    return [Visit(place, shared[turn], _held(shared, turn)) for turn, place in enumerate(order)]


def families(paths: Sequence[Sequence[Hashable]], most: int) -> list[list[int]]:
    """Return groups of candidates, by place, that share their first layers; none is larger than `most`."""
    groups: list[list[int]] = []
    for visit in walk(paths):
        if not groups or not visit.shared or len(groups[-1]) == most:
            groups.append([])
        groups[-1].append(visit.place)
    return groups


@dataclass(slots=True)
class Resume:
    """States of the candidates on the current path of the tree."""

    states: dict[int, States] = field(default_factory=dict)
    """By the number of first layers that were run."""

    def attach(self, layers: nn.ModuleList, visit: Visit) -> None:
        """Let a model that reads once read on from what is kept, and keep what later candidates need.

        Args:
            layers: the model's, some of which are replaced.
            visit: its turn. Every turn reads the same batches in the same order.
        """
        self.states = {depth: states for depth, states in self.states.items() if depth <= visit.shared}
        if visit.shared:
            for position in range(visit.shared):
                layers[position] = Passed() if position else Given(self.states[visit.shared])
        for depth in visit.held:
            states = self.states.setdefault(depth, [])
            layers[depth - 1].register_forward_hook(lambda _module, _inputs, output, kept=states: kept.append(output))


def _nodes(path: Sequence[Hashable], numbers: dict[tuple[int, Hashable], int]) -> list[int]:
    """Return the nodes of the tree that a path goes through; equal beginnings go through equal nodes."""
    node, nodes = -1, []
    for step in path:
        node = numbers.setdefault((node, step), len(numbers))
        nodes.append(node)
    return nodes


def _common(first: Sequence[int], second: Sequence[int]) -> int:
    pairs = zip(first, second, strict=False)
    return next((place for place, (a, b) in enumerate(pairs) if a != b), min(len(first), len(second)))


def _bounded(shared: Sequence[int], most: int) -> list[int]:
    """Return the depths at which turns resume so that few states are held; where there are too many, a turn falls back.

    It resumes at the next lower depth that is held, where that costs the fewest layers, and keeps what is behind.
    """
    shared, alive = list(shared), set[int]()
    for turn, resumed in enumerate(shared):
        alive = {depth for depth in alive if depth <= resumed}
        while len(alive.union(held := _held(shared, turn))) > most:
            steps = pairwise(sorted({0, *alive, *held}))
            fewest, depth = min((depth - lower, depth) for lower, depth in steps if depth in held)
            shared[shared.index(depth, turn + 1)] = depth - fewest
        alive.update(held)
    return shared


def _held(shared: Sequence[int], turn: int) -> tuple[int, ...]:
    """Return the depths, below the one a turn resumes at, at which later turns resume on its path."""
    held, lowest = [], None
    for later in shared[turn + 1 :]:
        if later <= shared[turn]:
            break
        if lowest is None or later < lowest:
            held.append(later)
            lowest = later
    return tuple(held)
