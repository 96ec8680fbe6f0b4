"""Least squares on a teacher's activations: what is kept of an input predicts what is removed."""

import torch
from torch import Tensor

# Shape legend: N sequences, n entries of an input, k features, m targets.

_TINY = 1e-12
_SMALL_RIDGE = 1e-2
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
    dtype = torch.float64 if ridge < _SMALL_RIDGE else torch.promote_types(moment.dtype, torch.float32)
    moment, target = moment.to(dtype), target.to(dtype)
    scale = moment.diagonal().clamp_min(_TINY).sqrt()
    correlations = moment / scale[:, None] / scale
    if held is None or not held.any():
        return _solve(correlations, target / scale[:, None], ridge) / scale[:, None]
    wanted = torch.cat([target, held.to(dtype)[:, None]], 1)
    solution = _solve(correlations, wanted / scale[:, None], ridge) / scale[:, None]
    free, towards = solution[:, :-1], solution[:, -1]
    # Lagrange's multipliers of the constraint, one for each target.
    return free - torch.outer(towards, (wanted[:, -1] @ free) / (wanted[:, -1] @ towards))


def _solve(correlations: Tensor, target: Tensor, ridge: float) -> Tensor:
    """Return the solution of a ridge regression; energies that rounding has made negative count as zero."""
    identity = torch.eye(len(correlations), dtype=correlations.dtype, device=correlations.device)
    factor, failed = torch.linalg.cholesky_ex(correlations + ridge * identity)
    if not failed:
        return torch.cholesky_solve(target, factor)
    energies, axes = torch.linalg.eigh(correlations.double())
    solved: Tensor = axes @ (axes.T @ target.double() / (energies.clamp_min(0) + ridge)[:, None])
    return solved.to(target.dtype)
