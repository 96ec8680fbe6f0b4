"""Which rotary pairs every head group keeps: those that matter most to it, turned at frequencies that all share."""

from dataclasses import replace

import torch
from torch import Tensor

from budwood.models.rotary import layer_types, pair_dims, rope_for_pairs, rotary_dims, state_ropes
from budwood.subnet.extract import Cut, KeptLayer
from budwood.subnet.ordering import OrderedTeacher


def can_choose_pairs(teacher: OrderedTeacher) -> bool:
    """Return whether the groups of a teacher may keep different pairs.

    Their scores must be known, frequencies preserved, and no norm may weight the dimensions of all heads alike.
    """
    shared = any("group" not in norm.axes[0] for norm in teacher.family.head_norms)
    return teacher.rope == "preserve" and bool(teacher.pair_scores) and not shared


def choose_pairs(teacher: OrderedTeacher, cut: Cut) -> tuple[Cut, dict[str, tuple[tuple[int, ...], ...]]]:
    """Let every group keep its own most important rotary pairs, as many as the cut keeps.

    The k-th fastest kept pairs of all groups turn at one frequency, the median of theirs: over all layers of
    one type where the child's layers have one size, as stock classes need, else within each layer.

    Returns:
        the cut with its rotary parameters, and the dimensions of every group with the kept ones first, by parameter.
    """
    family = teacher.family
    chosen = [_best_pairs(teacher, layer) for layer in cut.layers]
    kept = [pairs[list(layer.axes["group"])] for pairs, layer in zip(chosen, cut.layers, strict=True)]
    types = layer_types(family, teacher.config)
    own_types = [types[layer.teacher_layer] for layer in cut.layers]
    turns_alike = cut.architecture.is_uniform and state_ropes([layer.rope for layer in cut.layers], own_types)
    layers, dims = [], {}
    for position, (layer, pairs) in enumerate(zip(cut.layers, chosen, strict=True)):
        head_dim = cut.architecture.layers[position].head_dim
        teacher_dim = teacher.architecture.layers[layer.teacher_layer].head_dim
        if head_dim == teacher_dim or not layer.turning:
            layers.append(layer)
            continue
        rope, context = teacher.layer_rope(layer.teacher_layer), teacher.config["max_position_embeddings"]
        alike = [chosen for chosen, own in zip(kept, own_types, strict=True) if own == own_types[position]]
        slots = torch.cat(alike if turns_alike else [kept[position]]).double().quantile(0.5, dim=0).tolist()
        own_rope = rope_for_pairs(rope, slots, teacher_dim, head_dim, context)
        turning = rotary_dims(rope, teacher_dim)
        plain_pairs = layer.pairs[layer.pairs >= turning // 2].repeat(len(kept[position]), 1)
        all_pairs = torch.cat([kept[position], plain_pairs], 1)
        layers.append(replace(layer, axes={**layer.axes, "qk": range(head_dim)}, pairs=all_pairs, rope=own_rope))
        plain = [dim for dim in layer.axes["qk"] if dim >= turning]
        orders = tuple(_kept_first((*pair_dims(group, turning), *plain), teacher_dim) for group in pairs.tolist())
        for module in (family.query, family.key, *family.head_norms):
            for name, _ in module.parameters:
                dims[f"{family.decoder}.{position}.{name}"] = orders
    return replace(cut, layers=tuple(layers)), dims


def _best_pairs(teacher: OrderedTeacher, layer: KeptLayer) -> Tensor:
    """Return [G, k] the rotary pairs that matter most to every group, ascending."""
    turning = rotary_dims(teacher.layer_rope(layer.teacher_layer), 2 * len(teacher.pair_rankings[layer.teacher_layer]))
    scores = teacher.pair_scores[layer.teacher_layer][:, : turning // 2]
    return scores.topk(layer.turning // 2, dim=1).indices.sort(dim=1).values


def _kept_first(kept: tuple[int, ...], length: int) -> tuple[int, ...]:
    return (*kept, *sorted(set(range(length)) - set(kept)))
