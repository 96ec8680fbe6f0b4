"""Models of a teacher's proportions at other sizes."""

from dataclasses import replace

from budwood.arch.count import num_parameters
from budwood.arch.spec import Architecture

_BISECTIONS = 40


def in_small(teacher: Architecture, size: float) -> Architecture:
    """Return the model of a teacher's proportions whose number of parameters comes nearest to a size.

    Hidden size, heads, MLP width and layers shrink by one factor; heads keep their dimensions.
    """
    low, high = 0.0, 1.0
    for _ in range(_BISECTIONS):
        middle = (low + high) / 2
        low, high = (middle, high) if num_parameters(_scaled(teacher, middle)) < size else (low, middle)
    return min((_scaled(teacher, factor) for factor in (low, high)), key=lambda m: abs(num_parameters(m) - size))


def _scaled(teacher: Architecture, factor: float) -> Architecture:
    def shrunk(size: int) -> int:
        return max(1, round(size * factor))

    first = teacher.layers[0]
    groups = shrunk(first.num_key_value_heads)
    layer = replace(
        first,
        num_attention_heads=groups * first.heads_per_group,
        num_key_value_heads=groups,
        intermediate_size=shrunk(first.intermediate_size),
    )
    depth = shrunk(teacher.num_hidden_layers)
    return replace(teacher, hidden_size=shrunk(teacher.hidden_size), layers=(layer,) * depth)
