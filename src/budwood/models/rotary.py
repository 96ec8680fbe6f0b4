"""Rotary embeddings of a head that keeps some of its pairs.

Rotation turns dimensions `i` and `i + r / 2` of a head together, where r is the number of rotary dimensions: all of
them, or the first part of a head. A child that keeps pairs with their own frequencies attends exactly as the teacher
does on those dimensions. Pairs are numbered from the first rotary one on; past them, two plain dimensions count as one.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from transformers import LlamaConfig
from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

from budwood.arch.config import HFConfig, config_of_layer, supported_family
from budwood.arch.family import Family

RopeParameters = Mapping[str, Any]
"""A config's `rope_parameters`, of one layer, or by the types of layers."""
LayerTypes = Sequence[str | None]
"""For every layer, the key of its entry in `rope_parameters`; None where these are not nested."""
SLIDING, FULL = "sliding_attention", "full_attention"
"""Types of layers with a window and without."""

ROPE_TYPES: Mapping[str, str] = {
    "default": "a base",
    "linear": "a base, and one factor for all frequencies",
    "llama3": "a base, and a factor that grows with the wavelength",
    "yarn": "a base, a factor that grows with the wavelength, and a factor on cosine and sine",
    "longrope": "a base, and a factor for every pair: one list up to the original number of positions, one beyond",
}
"""Types that can be cut, and what their frequencies are made of.

A child keeps the frequencies of its pairs, so they must be known, which those of `dynamic` are not: they change with
every token of a long text."""
_SHARE = "partial_rotary_factor"
ORIGINAL = "original_rope_parameters"
"""Config field of children whose pairs were chosen: the `rope_parameters` of the pretrained model they stem from."""


def check_rope(config: HFConfig) -> None:
    """Check that the heads of a teacher can lose pairs while the others keep their frequencies.

    Args:
        config: the teacher's, as its file has it or as transformers reads it.

    Raises:
        ValueError: its type is none of `ROPE_TYPES`, differs between kinds of layers, or does not have one factor for
            every pair.
    """
    layers = (config.get("per_layer_config") or {}).values()
    family = supported_family(config)
    for own in ({}, *layers):
        layer = {**config, **own}
        stated = layer.get("rope_parameters") or layer.get("rope_scaling") or {}
        share = {_SHARE: layer[_SHARE]} if layer.get(_SHARE) is not None else {}
        for rope in stated.values() if family.rope_by_type and _is_nested(stated) else (stated,):
            _check_parameters(rope)
            _check_share(family, {**share, **rope})
            _check_factors({**share, **rope}, layer)


def without_unread_share(config: HFConfig) -> dict[str, Any]:
    """Return a config without a `partial_rotary_factor` that its family's class ignores, though others may believe it.

    Args:
        config: as transformers reads it.
    """
    if supported_family(config).partial_rotary:
        return dict(config)
    return {name: _without_share(value) for name, value in config.items() if name != _SHARE}


def _without_share(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {name: _without_share(inner) for name, inner in value.items() if name != _SHARE}
    return value


def _check_share(family: Family, rope: RopeParameters) -> None:
    kind, share = rope.get("rope_type", rope.get("type", "default")), rope.get(_SHARE, 1.0)
    # The frequencies of all other types are made for that share, and the class turns whole heads.
    if kind != "default" and share not in {None, 1} and not family.partial_rotary:
        raise ValueError(
            f"partial_rotary_factor={share} beside rope_type={kind!r} does not run: heads of {family.model_type} turn "
            "as a whole; remove it from config.json"
        )


def _check_factors(rope: RopeParameters, layer: HFConfig) -> None:
    size, heads = layer.get("head_dim"), layer.get("num_attention_heads")
    head_dim = int(size or (layer.get("hidden_size", 0) // heads if heads else 0))
    num_pairs = rotary_dims(rope, head_dim) // 2
    for name in ("short_factor", "long_factor"):
        num_factors = len(rope.get(name) or ())
        if head_dim and num_factors not in (0, num_pairs):
            raise ValueError(
                f"rope_type='longrope' has {num_factors} factors in {name}; supported: one for each of the "
                f"{num_pairs} pairs of a head"
            )


def _is_nested(rope: RopeParameters) -> bool:
    return any(isinstance(value, Mapping) for value in rope.values())


def _check_parameters(rope: RopeParameters) -> None:
    kind = rope.get("rope_type", rope.get("type", "default"))
    if _is_nested(rope):
        raise ValueError(f"rope_parameters differ between kinds of layers ({', '.join(rope)}); supported: one for all")
    if kind not in ROPE_TYPES:
        raise ValueError(f"rope_type={kind!r} cannot be cut; supported: {', '.join(ROPE_TYPES)}")


def layer_types(family: Family, config: HFConfig) -> LayerTypes:
    """Return the types of a model's layers as far as their rotary embeddings depend on them."""
    types: LayerTypes = config["layer_types"] if family.rope_by_type else [None] * int(config["num_hidden_layers"])
    return types


def layer_rope(config: HFConfig, layer: int) -> RopeParameters:
    """Return the `rope_parameters` of one layer."""
    types = layer_types(supported_family(config), config)
    return rope_of_type(config_of_layer(config, layer)["rope_parameters"], types[layer])


def rope_of_type(stated: RopeParameters, layer_type: str | None) -> RopeParameters:
    """Return what a config's `rope_parameters` state for layers of one type."""
    rope: RopeParameters = stated if layer_type is None else stated[layer_type]
    return rope


def state_ropes(ropes: Sequence[RopeParameters], types: LayerTypes) -> RopeParameters | None:
    """Return a config's `rope_parameters` that state those of all layers; None where layers of one type differ."""
    by_type = dict(zip(types, ropes, strict=True))
    if any(rope != by_type[layer_type] for layer_type, rope in zip(types, ropes, strict=True)):
        return None
    return by_type[None] if None in by_type else {str(layer_type): rope for layer_type, rope in by_type.items()}


def original_rope(config: HFConfig) -> RopeParameters:
    """Return the `rope_parameters` of the pretrained model that a model stems from, before any pairs were chosen."""
    stated: RopeParameters = config.get(ORIGINAL) or config["rope_parameters"]
    return stated


def standard_rope(config: HFConfig) -> dict[str, Any]:
    """Return the plain `rope_parameters` of a model's family, which suit random weights: those of the original base.

    Scalings and kept pairs suit trained weights.
    """
    original = original_rope(config)
    if _is_nested(original):
        return {layer_type: _standard(rope) for layer_type, rope in original.items()}
    return _standard(original) | rope_constants(config)


def _standard(rope: RopeParameters) -> dict[str, Any]:
    kept = {name: rope[name] for name in ("rope_theta", _SHARE) if name in rope}
    return {"rope_type": "default"} | kept


def rope_constants(config: HFConfig) -> dict[str, Any]:
    """Return the entries of `rope_parameters` that a model's class reads for more than frequencies."""
    rope = original_rope(config)
    return {name: rope[name] for name in supported_family(config).rope_constants if name in rope}


def rebuilt_rope(config: HFConfig, layer: int, turning: int, head_dim: int) -> dict[str, Any]:
    """Return `rope_parameters` of a model of the smaller size: the original ones, without a list that fits no other.

    Args:
        config: the teacher's.
        layer: of the teacher.
        turning: dimensions of the smaller head that turn.
        head_dim: of the smaller head.
    """
    original = rope_of_type(original_rope(config), layer_types(supported_family(config), config)[layer])
    listed = original.get("rope_type", "default") == "longrope"
    return rope_for_dims(_standard(original) if listed else original, turning, head_dim)


def rotary_dims(rope: RopeParameters, head_dim: int) -> int:
    """Return how many dimensions of a head turn."""
    return int(head_dim * rope.get(_SHARE, 1.0))


def even_share(head_dim: int, share: float) -> int:
    """Return how many dimensions of a head turn, so that its rotary share is nearest: an even number, at least two."""
    return max(2, 2 * round(head_dim * share / 2))


def pair_dims(pairs: Sequence[int], turning: int) -> tuple[int, ...]:
    """Return the dimensions of a head that belong to pairs, in the order that rotary embeddings expect."""
    half = turning // 2
    rotary = sorted(pair for pair in pairs if pair < half)
    plain = sorted(pair for pair in pairs if pair >= half)
    rest = (dim for pair in plain for dim in (2 * pair, 2 * pair + 1))
    return (*rotary, *(pair + half for pair in rotary), *rest)


def rank_pairs(scores: Sequence[float], turning: int) -> tuple[int, ...]:
    """Rank the pairs of a head so that every prefix turns the share of its dimensions that the whole head turns.

    Args:
        scores: importance of every pair; plain pairs keep their order, which is theirs to choose.
        turning: rotary dimensions of the head.
    """
    half, total = turning // 2, len(scores)
    rotary = sorted(range(half), key=lambda pair: -scores[pair])
    plain = list(range(half, total))
    ranking: list[int] = []
    for kept in range(1, total + 1):
        # At least one pair turns: a head without positions is another kind of head.
        wanted = max(1, round(kept * half / total))
        ranking.append(rotary.pop(0) if rotary and (half - len(rotary) < wanted or not plain) else plain.pop(0))
    return tuple(ranking)


def rope_for_dims(teacher: RopeParameters, turning: int, head_dim: int) -> dict[str, Any]:
    """Return `rope_parameters` with the teacher's base, for a head in which a number of dimensions turn."""
    if teacher.get(_SHARE, 1.0) == 1:
        return dict(teacher)
    return dict(teacher) | {_SHARE: _factor(turning, head_dim)}


def rope_for_pairs(
    teacher: RopeParameters, pairs: Sequence[float], teacher_dim: int, head_dim: int, context: int
) -> dict[str, Any]:
    """Return `rope_parameters` with which a stock model turns the kept pairs at the teacher's frequencies.

    With r rotary dimensions in the teacher and r' in the child, an arithmetic progression `a + s k` of a default
    embedding is a default embedding of base `theta^(s r' / r)`, slowed by the constant factor `theta^(2 a / r)`; any
    other set, and any other static type, takes LongRoPE's factor for each pair, and another beyond the original number
    of positions where the teacher has one.

    Args:
        teacher: the teacher's `rope_parameters`.
        pairs: kept rotary pairs, ascending; between two whole ones lies the frequency between theirs.
        teacher_dim: the teacher's head dimension.
        head_dim: the child's head dimension.
        context: the teacher's largest number of positions.

    Raises:
        ValueError: the teacher's type cannot be cut, see `check_rope`.
    """
    kind, theta = teacher.get("rope_type", "default"), float(teacher["rope_theta"])
    turning, kept = rotary_dims(teacher, teacher_dim), 2 * len(pairs)
    partial = {_SHARE: _factor(kept, head_dim)} if _SHARE in teacher else {}
    if not pairs:
        return {"rope_type": "default", "rope_theta": theta} | partial
    start, step = pairs[0], pairs[1] - pairs[0] if len(pairs) > 1 else 1
    if kind == "default" and list(pairs) == [start + step * slot for slot in range(len(pairs))]:
        rope = {"rope_theta": theta ** (step * kept / turning)} | partial
        if start == 0:
            return {"rope_type": "default"} | rope
        return {"rope_type": "linear", "factor": theta ** (2 * start / turning)} | rope
    slots = theta ** (-2 * torch.arange(len(pairs), dtype=torch.float64) / kept)
    _, scaling = inverse_frequencies(teacher, teacher_dim, context)
    short, long = (
        (slots / _interpolate(frequencies.double().log(), pairs).exp()).tolist()
        for frequencies, _ in (inverse_frequencies(teacher, teacher_dim, context, long=long) for long in (False, True))
    )
    changes = {"long_factor": long, "original_max_position_embeddings": changes_at(teacher)} if short != long else {}
    return fixed_rope(theta, short, scaling, context) | changes | partial


def fixed_rope(theta: float, divisors: Sequence[float], scaling: float, context: int) -> dict[str, Any]:
    """Return `rope_parameters` of a head whose pairs turn at frequencies of their own, whatever the length of the text.

    Args:
        theta: base of the frequencies.
        divisors: of every pair's frequency.
        scaling: factor on cosine and sine.
        context: the largest number of positions.
    """
    return {
        "rope_type": "longrope",
        "rope_theta": theta,
        "short_factor": list(divisors),
        "long_factor": list(divisors),
        "factor": 1.0,
        "attention_factor": scaling,
        "original_max_position_embeddings": context,
    }


def changes_at(rope: RopeParameters) -> int | None:
    """Return the number of positions beyond which all frequencies are others; None where they never change."""
    same = rope.get("short_factor") == rope.get("long_factor")
    return None if same else int(rope["original_max_position_embeddings"])


def inverse_frequencies(
    rope: RopeParameters, head_dim: int, context: int, *, long: bool = False
) -> tuple[Tensor, float]:
    """Return [r / 2] radians per position of every rotary pair, and the factor on cosine and sine.

    Args:
        rope: `rope_parameters`.
        head_dim: dimensions of a head.
        context: the largest number of positions.
        long: for texts beyond the original number of positions.

    Raises:
        ValueError: the type cannot be cut, see `check_rope`.
    """
    _check_parameters(rope)
    kind = rope.get("rope_type", "default")
    original = rope.get("original_max_position_embeddings", context)
    if kind == "default":
        turning = rotary_dims(rope, head_dim)
        return float(rope["rope_theta"]) ** (-2 * torch.arange(turning // 2) / turning), 1.0
    config = LlamaConfig(
        hidden_size=head_dim,
        num_attention_heads=1,
        head_dim=head_dim,
        max_position_embeddings=context,
        rope_parameters=dict(rope) | {"original_max_position_embeddings": original},
    )
    length = original + 1 if long else None
    frequencies, scaling = ROPE_INIT_FUNCTIONS[kind](config, torch.device("cpu"), seq_len=length)
    return frequencies, float(scaling)


def _interpolate(values: Tensor, positions: Sequence[float]) -> Tensor:
    at = torch.tensor(positions, dtype=values.dtype)
    below = at.floor().long()
    above = (below + 1).clamp_max(len(values) - 1)
    return values[below] + (at - below) * (values[above] - values[below])


def _factor(turning: int, head_dim: int) -> float:
    """Return the share of a head that turns, such that its product with the head dimension does not round down."""
    share = turning / head_dim
    return share if int(share * head_dim) == turning else (turning + 0.5) / head_dim
