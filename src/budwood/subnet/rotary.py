"""Rotary embeddings of a head that keeps some of its pairs.

Rotation turns dimensions `i` and `i + head_dim / 2` together, pair `i` with frequency `theta^(-2 i / head_dim)`. A
child that keeps pairs with their own frequencies attends exactly as the teacher does on those dimensions.
"""

from collections.abc import Mapping, Sequence
from typing import Any, Literal

Rope = Literal["preserve", "rebuild"]
"""`preserve` keeps every pair's frequency and the attention scale; `rebuild` cuts the first dimensions and gives them
the frequencies of a model of the smaller size, as the paper's reference code does."""

PRESERVABLE_TYPES = ("default",)


def pair_dims(pairs: Sequence[int], head_dim: int) -> tuple[int, ...]:
    """Return the dimensions of a head that belong to the given pairs, in the order rotary embeddings expect."""
    return (*pairs, *(pair + head_dim // 2 for pair in pairs))


def rope_for_pairs(teacher: Mapping[str, Any], pairs: Sequence[int], head_dim: int, context: int) -> dict[str, Any]:
    """Return `rope_parameters` with which a stock model turns the kept pairs at the teacher's frequencies.

    An arithmetic progression `a + s k` is a default embedding of base `theta^(s d' / d)`, slowed by the constant
    factor `theta^(2 a / d)`; any other set takes LongRoPE's factor for each pair.

    Args:
        teacher: the teacher's `rope_parameters`, of default type.
        pairs: kept pairs, ascending.
        head_dim: the teacher's head dimension, d.
        context: the teacher's largest number of positions.

    Raises:
        ValueError: the teacher scales its embedding in a way whose pairs cannot be kept apart.
    """
    if teacher.get("rope_type", "default") not in PRESERVABLE_TYPES:
        raise ValueError(
            f"rope_type {teacher['rope_type']!r} of the teacher cannot be preserved "
            f"(supported: {', '.join(PRESERVABLE_TYPES)}); use rope: rebuild"
        )
    theta, child_dim = float(teacher["rope_theta"]), 2 * len(pairs)
    start, step = pairs[0], pairs[1] - pairs[0] if len(pairs) > 1 else 1
    if list(pairs) == list(range(start, start + step * len(pairs), step)):
        rope = {"rope_theta": theta ** (step * child_dim / head_dim)}
        if start == 0:
            return {"rope_type": "default"} | rope
        return {"rope_type": "linear", "factor": theta ** (2 * start / head_dim)} | rope
    factors = [theta ** (2 * pair / head_dim) / theta ** (2 * slot / child_dim) for slot, pair in enumerate(pairs)]
    return {
        "rope_type": "longrope",
        "rope_theta": theta,
        "short_factor": factors,
        "long_factor": factors,
        "factor": 1.0,
        "attention_factor": 1.0,
        "original_max_position_embeddings": context,
    }
