"""Which of the teacher's entries a child keeps, axis by axis."""

from collections.abc import Sequence
from dataclasses import dataclass

from budwood.arch.spec import Architecture, LayerSpec

Indices = Sequence[int]
"""Kept positions of one axis. A `range` from 0 is a prefix and is cut without a copy where the layout allows."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LayerSelection:
    """What one layer of the child keeps of one layer of the teacher."""

    teacher_layer: int
    group: Indices
    """Key/value heads."""
    query: Indices
    """Query heads within each kept group."""
    qk: Indices
    """Dimensions of queries and keys within a head."""
    value: Indices
    """Dimensions of values within a head."""
    neuron: Indices


@dataclass(frozen=True, slots=True, kw_only=True)
class Selection:
    """What a child keeps of its teacher; layers stand in depth order."""

    hidden: Indices
    layers: tuple[LayerSelection, ...]

    @property
    def layer_specs(self) -> tuple[LayerSpec, ...]:
        """Sizes of the child's layers, in depth order."""
        return tuple(
            LayerSpec(
                num_attention_heads=len(layer.group) * len(layer.query),
                num_key_value_heads=len(layer.group),
                head_dim=len(layer.qk),
                intermediate_size=len(layer.neuron),
            )
            for layer in self.layers
        )


def select_prefixes(architecture: Architecture, layer_ranking: Sequence[int], qk_dims: Sequence[Indices]) -> Selection:
    """Select the first entries of every axis of an ordered teacher (paper, section 2.1, coarse).

    Args:
        architecture: a coarse candidate; its i-th layer takes the teacher's i-th layer of the ranking.
        layer_ranking: the teacher's layers, the first to keep first.
        qk_dims: for every number of rotary pairs, from 0 on, the kept dimensions of queries and keys.
    """
    ranked = zip(layer_ranking, architecture.layers, strict=False)
    layers = tuple(
        LayerSelection(
            teacher_layer=position,
            group=range(layer.num_key_value_heads),
            query=range(layer.heads_per_group),
            qk=qk_dims[layer.head_dim // 2],
            value=range(layer.head_dim),
            neuron=range(layer.intermediate_size),
        )
        for position, layer in sorted(ranked, key=lambda pair: pair[0])
    )
    return Selection(hidden=range(architecture.hidden_size), layers=layers)
