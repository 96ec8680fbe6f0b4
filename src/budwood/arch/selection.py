"""What a sub-network keeps of its teacher: the genes of a candidate in every search space."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Self

from budwood.arch.spec import Architecture, LayerSpec

Indices = range | tuple[int, ...]
"""Kept positions of one axis, in the order in which they were taken. A range from 0 is a prefix: coarse spaces take
nothing else, and it is cut without a copy where the layout allows."""

LAYER_AXES = ("groups", "queries", "pairs", "neurons")
"""Fields of `LayerSelection` that are indices."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LayerSelection:
    """What one layer of a sub-network keeps of one layer of its teacher."""

    layer: int
    """The teacher's layer, by rank: 0 is the one to keep first."""
    groups: Indices
    """Key/value heads."""
    queries: Indices
    """Query heads within every kept group."""
    pairs: Indices
    """Pairs of head dimensions, by rank: what a rotary embedding turns together, then the rest two by two."""
    neurons: Indices

    def __post_init__(self) -> None:
        """Refuse indices that cannot be kept.

        Raises:
            ValueError: an axis is empty, has a negative or a repeated index, or the layer is negative.
        """
        if self.layer < 0:
            raise ValueError(f"layer must be at least 0, got {self.layer}")
        for axis, indices in zip(LAYER_AXES, self.indices, strict=True):
            _require_sound(axis, indices, self.layer)

    @property
    def indices(self) -> tuple[Indices, ...]:
        """What is kept of each of `LAYER_AXES`."""
        return self.groups, self.queries, self.pairs, self.neurons

    @property
    def spec(self) -> LayerSpec:
        """Sizes of the layer."""
        return LayerSpec.of(len(self.groups), len(self.queries), 2 * len(self.pairs), len(self.neurons))

    @classmethod
    def prefix(cls, rank: int, spec: LayerSpec) -> Self:
        """Select the first entries of every axis."""
        return cls(
            layer=rank,
            groups=range(spec.num_key_value_heads),
            queries=range(spec.heads_per_group),
            pairs=range(spec.head_dim // 2),
            neurons=range(spec.intermediate_size),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Selection:
    """What a sub-network keeps of its teacher; layers are in the order in which they were taken."""

    hidden: Indices
    """Channels of the residual stream."""
    layers: tuple[LayerSelection, ...]

    def __post_init__(self) -> None:
        """Refuse what cannot be a model.

        Raises:
            ValueError: no layer or channel, a channel is negative or repeated, or a layer is taken twice.
        """
        _require_sound("hidden", self.hidden)
        _require_sound("layers", tuple(layer.layer for layer in self.layers))

    @classmethod
    def prefix(cls, architecture: Architecture) -> Self:
        """Select the first entries of every axis (paper, section 2.1, coarse)."""
        layers = tuple(LayerSelection.prefix(rank, spec) for rank, spec in enumerate(architecture.layers))
        return cls(hidden=range(architecture.hidden_size), layers=layers)

    @property
    def is_prefix(self) -> bool:
        """Whether it takes the first entries of every axis, and layers, in their order."""
        ranks = [layer.layer for layer in self.layers]
        axes = (self.hidden, *(indices for layer in self.layers for indices in layer.indices))
        return ranks == list(range(len(ranks))) and all(isinstance(indices, range) for indices in axes)

    def architecture(self, teacher: Architecture) -> Architecture:
        """Return the sizes, with the vocabulary of a teacher; layers in the order in which they were taken."""
        return replace(teacher, hidden_size=len(self.hidden), layers=tuple(layer.spec for layer in self.layers))

    def require_within(self, teacher: Architecture) -> None:
        """Check that a teacher has all that is selected.

        Raises:
            ValueError: an index is out of range; the message names the place.
        """
        _require_below("hidden", self.hidden, teacher.hidden_size)
        _require_below("layers", tuple(layer.layer for layer in self.layers), teacher.num_hidden_layers)
        for layer in self.layers:
            groups, queries, head_dim, neurons = teacher.layers[layer.layer].sizes
            lengths = groups, queries, head_dim // 2, neurons
            for axis, indices, length in zip(LAYER_AXES, layer.indices, lengths, strict=True):
                _require_below(axis, indices, length, layer.layer)

    def to_dict(self) -> dict[str, Any]:
        """Return a JSON-ready dictionary: a prefix by its length, other indices as a list. `from_dict` inverts it."""
        layers: list[dict[str, Any]] = [
            {"layer": layer.layer, **{axis: _to_json(getattr(layer, axis)) for axis in LAYER_AXES}}
            for layer in self.layers
        ]
        return {"hidden": _to_json(self.hidden), "layers": layers}

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Self:
        """Rebuild what `to_dict` wrote.

        Raises:
            KeyError: a field is missing.
            ValueError: an index is illegal.
        """
        layers = tuple(
            LayerSelection(layer=layer["layer"], **{axis: _from_json(layer[axis]) for axis in LAYER_AXES})
            for layer in data["layers"]
        )
        return cls(hidden=_from_json(data["hidden"]), layers=layers)

    def key(self) -> tuple[object, ...]:
        """Return what two selections share exactly when they keep the same, in whatever order they took it."""
        layers = sorted((layer.layer, *map(_canonical, layer.indices)) for layer in self.layers)
        return (_canonical(self.hidden), *layers)


def _require_sound(axis: str, indices: Indices, layer: int | None = None) -> None:
    wrong = _what_is_wrong(indices)
    if wrong:
        raise ValueError(f"{_place(axis, layer)}: {wrong}")


def _what_is_wrong(indices: Indices) -> str:
    if not indices:
        return "at least one index must be kept, got none"
    if isinstance(indices, range):
        return "" if indices == range(len(indices)) else f"a range of indices must be a prefix, got {indices}"
    if min(indices) < 0:
        return f"indices must be at least 0, got {min(indices)}"
    if len(set(indices)) < len(indices):
        repeated = next(index for index in indices if indices.count(index) > 1)
        return f"index {repeated} is given more than once"
    return ""


def _require_below(axis: str, indices: Indices, length: int, layer: int | None = None) -> None:
    if _largest(indices) >= length:
        largest = _largest(indices)
        raise ValueError(f"{_place(axis, layer)}: index {largest} is out of range, the teacher has {length}")


def _place(axis: str, layer: int | None) -> str:
    return axis if layer is None else f"layer {layer}, {axis}"


def _canonical(indices: Indices) -> tuple[int, ...]:
    return (len(indices),) if _largest(indices) == len(indices) - 1 else (-1, *sorted(indices))


def _largest(indices: Indices) -> int:
    # `max` walks through a range.
    return indices[-1] if isinstance(indices, range) else max(indices)


def _to_json(indices: Indices) -> int | list[int]:
    return len(indices) if isinstance(indices, range) else list(indices)


def _from_json(indices: int | list[int]) -> Indices:
    return range(indices) if isinstance(indices, int) else tuple(indices)
