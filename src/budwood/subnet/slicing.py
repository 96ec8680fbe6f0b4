"""Cut tensors along the basic axes that the family table names; pure functions of state dicts."""

from collections.abc import Mapping

import torch
from torch import Tensor

from budwood.arch.family import Axis, Family, axis_lengths
from budwood.arch.spec import Architecture
from budwood.subnet.selection import Indices, LayerSelection, Selection

State = dict[str, Tensor]


def slice_state(state: Mapping[str, Tensor], family: Family, teacher: Architecture, selection: Selection) -> State:
    """Return the child's state dict: the kept entries of the kept layers, renumbered in depth order.

    Prefixes of a whole axis stay views of the teacher's storage; everything else is copied. The input is untouched.
    """
    child: State = {}
    lengths = axis_lengths(teacher, teacher.layers[0])
    outer = {"hidden": selection.hidden}
    for module in family.outer_modules(tied=teacher.tie_word_embeddings):
        child[module.weight] = slice_tensor(state[module.weight], module.axes, lengths, outer)
    for position, layer in enumerate(selection.layers):
        lengths = axis_lengths(teacher, teacher.layers[layer.teacher_layer])
        kept = layer_indices(selection, layer)
        for module in family.layer_modules:
            tensor = state[family.layer_weight(layer.teacher_layer, module)]
            child[family.layer_weight(position, module)] = slice_tensor(tensor, module.axes, lengths, kept)
    return child


def layer_indices(selection: Selection, layer: LayerSelection) -> dict[str, Indices]:
    """Return the kept positions of every basic axis in one layer."""
    return {
        "hidden": selection.hidden,
        "group": layer.group,
        "query": layer.query,
        "qk": layer.qk,
        "value": layer.value,
        "neuron": layer.neuron,
    }


def slice_tensor(
    tensor: Tensor, axes: tuple[Axis, ...], lengths: Mapping[str, int], kept: Mapping[str, Indices]
) -> Tensor:
    """Cut one tensor.

    Args:
        tensor: laid out as `axes` says, every dimension a row-major product of basic axes.
        axes: basic axes of every dimension.
        lengths: length of every basic axis.
        kept: positions to keep, by basic axis; an axis that is not named is kept whole.
    """
    for dim, axis in enumerate(axes):
        if all(_is_whole(kept.get(name), lengths[name]) for name in axis):
            continue
        tensor = _slice_dim(tensor, dim, axis, lengths, kept)
    return tensor


def _slice_dim(tensor: Tensor, dim: int, axis: Axis, lengths: Mapping[str, int], kept: Mapping[str, Indices]) -> Tensor:
    basic = tensor.unflatten(dim, [lengths[name] for name in axis]) if len(axis) > 1 else tensor
    for offset, name in enumerate(axis):
        if name in kept and not _is_whole(kept[name], lengths[name]):
            basic = _take(basic, dim + offset, kept[name])
    return basic.flatten(dim, dim + len(axis) - 1) if len(axis) > 1 else basic


def _take(tensor: Tensor, dim: int, indices: Indices) -> Tensor:
    if isinstance(indices, range) and indices.start == 0 and indices.step == 1:
        return tensor.narrow(dim, 0, len(indices))
    return tensor.index_select(dim, torch.as_tensor(list(indices), device=tensor.device))


def _is_whole(indices: Indices | None, length: int) -> bool:
    return indices is None or indices == range(length)
