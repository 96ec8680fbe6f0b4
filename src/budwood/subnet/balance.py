"""Bring a head's values and what reads them to one size, so that both can be trained at one rate.

Values of a head can be any number of times as large if what reads them is as many times as small. In the singular basis
of an ordered teacher they can be thousands of times as large, and steps of one size for all parameters, as Adam takes
them, ruin what is small. Factors are powers of two: no digit of what the model computes changes.
"""

from collections.abc import Iterator
from functools import partial
from itertools import count

import torch
from torch import Tensor

from budwood.arch.family import family_of
from budwood.arch.spec import Architecture
from budwood.models.tensors import State


def balanced(parts: Iterator[State], architecture: Architecture) -> Iterator[State]:
    """Return the parts of a model with values and output weights of one size, dimension by dimension.

    Args:
        parts: the embedding, the layers in depth order, and the rest: parameters by the names of the family's table.
        architecture: the model's.
    """
    # A loop would keep a part while the next one is made.
    return map(partial(_balance, architecture), count(-1), parts)


def _balance(architecture: Architecture, position: int, part: State) -> State:
    """Return a part; of a layer, with its values and output weights balanced."""
    if not 0 <= position < architecture.num_hidden_layers:
        return part
    family, spec = family_of(architecture.family), architecture.layers[position]
    groups, queries = spec.num_key_value_heads, spec.heads_per_group
    values, outputs = (family.layer_weight(position, module) for module in (family.value, family.output))
    read = part[outputs].unflatten(1, (groups, queries, -1))
    factors = _powers(_size(part[values].unflatten(0, (groups, -1)), (2,)), _size(read, (0, 2)))  # [G, S]
    factors = factors.to(read.dtype)
    part[outputs] = (read / factors[:, None]).flatten(1)
    for name, _ in family.value.parameters:
        parameter = f"{family.decoder}.{position}.{name}"
        part[parameter] = part[parameter] * factors.reshape(-1, *(1,) * (part[parameter].dim() - 1))
    return part


def _powers(values: Tensor, outputs: Tensor) -> Tensor:
    """Return the powers of two by which values are multiplied to come nearest to outputs that are divided by them.

    Where one of the two is zero, it is 1.
    """
    ratio = torch.where((values > 0) & (outputs > 0), outputs / values, 1.0)
    return ratio.log2().div(2).round().exp2()


def _size(weights: Tensor, dims: tuple[int, ...]) -> Tensor:
    """Return the root mean square over some dimensions."""
    return weights.float().square().mean(dims).sqrt()
