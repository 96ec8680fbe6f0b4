"""Least squares on a teacher's activations: what is kept of an input predicts what is removed."""

from collections.abc import Iterable, Sequence

import torch
from torch import Tensor

# Shape legend: N sequences, T tokens of a sequence, n entries of an input, k features, m targets.

_TINY = 1e-12
SMALL_RIDGE = 1e-2
"""Below it, float32 loses too many digits of a solution."""


def first_direction(first: Tensor) -> Tensor:
    """Return [n] the direction in which the inputs of first positions are largest; zeros where all are zero.

    Massive activations of the first position have one direction. Where predictions are zero in it, the first position,
    and the attention that rests there, stay as they are.

    Args:
        first: [N, n] inputs of the first position of every sequence.
    """
    if not first.any():
        return torch.zeros(first.shape[1], device=first.device)
    directions: Tensor = torch.linalg.svd(first.float(), full_matrices=False).Vh
    return directions[0]


def regress(moment: Tensor, target: Tensor, ridge: float, held: Tensor | None = None) -> Tensor:
    """Return [k, m] the coefficients that predict m targets from k features of unit variance, shrunk to zero.

    Args:
        moment: [k, k] second moment of the features.
        target: [k, m] moments of features and targets.
        ridge: added to the diagonal of the features' correlations.
        held: [k] features for which all predictions must be zero.
    """
    dtype = torch.float64 if ridge < SMALL_RIDGE else torch.promote_types(moment.dtype, torch.float32)
    scale = moment.diagonal().to(dtype).clamp_min(_TINY).sqrt()
    # In place wherever possible: a moment of a wide layer takes gigabytes.
    correlations = moment.to(dtype, copy=True).div_(scale[:, None]).div_(scale)
    if held is None or not held.any():
        return _solve(correlations, target.to(dtype) / scale[:, None], ridge).div_(scale[:, None])
    held = held.to(dtype)
    wanted = torch.cat([target.to(dtype), held[:, None]], 1).div_(scale[:, None])
    solution = _solve(correlations, wanted, ridge).div_(scale[:, None])
    free, towards = solution[:, :-1], solution[:, -1]
    # Lagrange's multipliers of the constraint, one for each target.
    return free.addr_(towards, (held @ free) / (held @ towards), alpha=-1)


def regress_tokens(
    read: Sequence[Tensor], missing: Iterable[Tensor], weights: Sequence[Tensor], ridge: float, *, first: int
) -> Tensor:
    """Return [m, n] the coefficients that predict what tokens miss from what is read of them.

    First positions are left as they are: predictions are zero for what they have in common.

    Args:
        read: [N, T, n] features of every batch.
        missing: [N, T, m] what they are to predict.
        weights: roots of what tokens count, [N, T, 1] or of all.
        ridge: relative to the unit variance of features.
        first: positions at the beginning of a sequence that do not count.
    """
    moment, target, tokens = torch.zeros(()), torch.zeros(()), 0
    for features, lacks, weight in zip(read, missing, weights, strict=True):
        x, y = ((each.float() * weight.to(each.device))[:, first:].flatten(0, 1) for each in (features, lacks))
        moment, target = moment.to(x) + x.T @ x, target.to(x) + x.T @ y
        tokens += len(x)
    held = first_direction(torch.cat([features[:, 0].float() for features in read]))
    return regress(moment / tokens, target / tokens, ridge, held).T.float()


def token_weights(stream: Sequence[Tensor]) -> list[Tensor]:
    """Return [N, T, 1] for every batch the inverse sizes of tokens in a stream, by which norms will see them.

    A token whose stream is zero has no size to be counted by.
    """
    sizes = (states.float().square().mean(-1, keepdim=True) for states in stream)
    return [torch.where(size > 0, size.rsqrt(), 0.0) for size in sizes]


def _solve(correlations: Tensor, target: Tensor, ridge: float) -> Tensor:
    """Return the solution of a ridge regression, and overwrite the correlations.

    Energies that rounding has made negative count as zero.
    """
    correlations.diagonal().add_(ridge)
    factor, failed = torch.linalg.cholesky_ex(correlations)
    if not failed:
        return torch.cholesky_solve(target, factor)
    energies, axes = torch.linalg.eigh(correlations.double())
    solved: Tensor = axes @ (axes.T @ target.double() / energies.clamp_min(ridge)[:, None])
    return solved.to(target.dtype)
