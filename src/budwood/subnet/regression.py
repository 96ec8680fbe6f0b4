"""Least squares on a teacher's activations: what is kept of an input predicts what is removed."""

from collections.abc import Callable, Iterable, Sequence

import torch
from torch import Tensor

from budwood.models.device import release_memory

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

    The moments are overwritten: those of a wide layer take gigabytes.

    Args:
        moment: [k, k] second moment of the features.
        target: [k, m] moments of features and targets.
        ridge: added to the diagonal of the features' correlations.
        held: [k] features for which all predictions must be zero.
    """
    dtype = torch.float64 if ridge < SMALL_RIDGE else torch.promote_types(moment.dtype, torch.float32)
    scale = moment.diagonal().to(dtype).clamp_min(_TINY).sqrt()
    correlations = [moment.to(dtype).div_(scale[:, None]).div_(scale)]
    del moment
    solve = _solver(correlations.pop(), ridge)
    free = solve(target.to(dtype).div_(scale[:, None])).div_(scale[:, None])
    if held is None or not held.any():
        return free
    held = held.to(dtype)
    towards = solve((held / scale)[:, None])[:, 0] / scale
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
        weights: [N, T, 1] roots of what tokens count, in float32.
        ridge: relative to the unit variance of features.
        first: positions at the beginning of a sequence that do not count.
    """
    sums, tokens = _sums(read, missing, weights, first)
    release_memory()  # batches in float32 have left holes
    held = first_direction(torch.cat([features[:, 0].float() for features in read]))
    # Handed over, for a moment to go once it is factored.
    return regress(sums.pop().div_(tokens), sums.pop().div_(tokens), ridge, held).T.float()


def _sums(
    read: Sequence[Tensor], missing: Iterable[Tensor], weights: Sequence[Tensor], first: int
) -> tuple[list[Tensor], int]:
    """Return [n, m] and [n, n] sums of the products of targets and features, and of features, over so many tokens."""
    moment, target, tokens = torch.zeros(()), torch.zeros(()), 0
    for features, lacks, weight in zip(read, missing, weights, strict=True):
        x, y = (_weighted(each, weight.to(each.device), first) for each in (features, lacks))
        if not tokens:
            moment, target = x.new_zeros(x.shape[1], x.shape[1]), x.new_zeros(x.shape[1], y.shape[1])
        moment.addmm_(x.T, x)
        target.addmm_(x.T, y)
        tokens += len(x)
        del x, y
    return [target, moment], tokens


def _weighted(each: Tensor, weight: Tensor, first: int) -> Tensor:
    """Return [N(T - first), n] what counts of [N, T, n] entries, in float32, times [N, T, 1] weights."""
    taken = each[:, first:].to(torch.float32, copy=True, memory_format=torch.contiguous_format)
    return taken.mul_(weight[:, first:]).flatten(0, 1)


def token_weights(stream: Sequence[Tensor]) -> list[Tensor]:
    """Return [N, T, 1] for every batch the inverse sizes of tokens in a stream, by which norms will see them.

    A token whose stream is zero has no size to be counted by.
    """
    sizes = (states.float().square().mean(-1, keepdim=True) for states in stream)
    return [torch.where(size > 0, size.rsqrt(), 0.0) for size in sizes]


def _solver(correlations: Tensor, ridge: float) -> Callable[[Tensor], Tensor]:
    """Return what solves a ridge regression for any target, and overwrite the correlations.

    Energies that rounding has made negative count as zero.
    """
    correlations.diagonal().add_(ridge)
    factor, failed = torch.linalg.cholesky_ex(correlations)
    if not failed:
        return lambda target: torch.cholesky_solve(target, factor)
    energies, axes = torch.linalg.eigh(correlations.double())

    def solve(target: Tensor) -> Tensor:
        solved: Tensor = axes @ (axes.T @ target.double() / energies.clamp_min(ridge)[:, None])
        return solved.to(target.dtype)

    return solve
