"""Cut and permute tensors along the basic axes that the family table names; pure functions."""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from budwood.arch.family import Axes, Axis


def slice_tensor(tensor: Tensor, axes: Axes, lengths: Mapping[str, int], kept: Mapping[str, Sequence[int]]) -> Tensor:
    """Cut one tensor; prefixes of a whole axis stay views of its storage, everything else is copied.

    Args:
        tensor: [*axes], laid out as `axes` says, every dimension a row-major product of basic axes.
        axes: basic axes of every dimension.
        lengths: length of every basic axis.
        kept: positions to keep, by basic axis, in the order of the result; a `range` from 0 is a prefix. An axis that
            is not named is kept whole.
    """
    for dim, axis in enumerate(axes):
        if all(_is_whole(kept.get(name), lengths[name]) for name in axis):
            continue
        tensor = _slice_dim(tensor, dim, axis, lengths, kept)
    return tensor


def permute_within_groups(
    tensor: Tensor, axes: Axes, lengths: Mapping[str, int], name: str, orders: Sequence[Sequence[int]]
) -> Tensor:
    """Permute a basic axis that lies inside groups, in every group by an order of its own.

    Args:
        tensor: [*axes], laid out as `axes` says.
        axes: basic axes of every dimension.
        lengths: length of every basic axis.
        name: the basic axis.
        orders: for every group, the positions in their new order.

    Returns:
        the permuted tensor, or the tensor itself where no dimension has such an axis.
    """
    for dim, axis in enumerate(axes):
        if "group" not in axis or name not in axis:
            continue
        assert axis[0] == "group", "groups are outermost"
        inner = axis.index(name)
        groups = [
            group.index_select(dim + inner - 1, torch.as_tensor(list(order), device=tensor.device))
            for group, order in zip(tensor.unflatten(dim, [lengths[n] for n in axis]).unbind(dim), orders, strict=True)
        ]
        tensor = torch.stack(groups, dim).flatten(dim, dim + len(axis) - 1)
    return tensor


def _slice_dim(
    tensor: Tensor, dim: int, axis: Axis, lengths: Mapping[str, int], kept: Mapping[str, Sequence[int]]
) -> Tensor:
    basic = tensor.unflatten(dim, [lengths[name] for name in axis]) if len(axis) > 1 else tensor
    for offset, name in enumerate(axis):
        if name in kept and not _is_whole(kept[name], lengths[name]):
            basic = _take(basic, dim + offset, kept[name])
    return basic.flatten(dim, dim + len(axis) - 1) if len(axis) > 1 else basic


def _take(tensor: Tensor, dim: int, indices: Sequence[int]) -> Tensor:
    if isinstance(indices, range) and indices.start == 0 and indices.step == 1:
        return tensor.narrow(dim, 0, len(indices))
    return tensor.index_select(dim, torch.as_tensor(list(indices), device=tensor.device))


def _is_whole(indices: Sequence[int] | None, length: int) -> bool:
    return indices is None or indices == range(length)
