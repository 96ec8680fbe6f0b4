"""Least squares on a teacher's activations: what is kept of an input predicts what is removed.

Second moments are gathered while the teacher reads calibration text, so memory does not grow with the number of tokens.
"""

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

# Shape legend: E hidden size, n entries of an input, k kept ones, m targets.

_TINY = 1e-12
_NOISE = 1e-6
"""Of the largest moment: what is smaller after a direction was taken out is rounding, moments are sums in float32."""


def without_massive(moment: Tensor) -> Tensor:
    """Return [k, k] the projection that passes over the direction in which first positions are largest.

    Massive activations of the first position have one direction: what is regressed on all other positions and passes
    over it leaves the first position, and the attention that rests there, as they are.

    Args:
        moment: [k, k] second moment of first positions; where all are zero, no direction is passed over.
    """
    if not moment.any():
        return torch.eye(len(moment), dtype=torch.float64)
    _, directions = torch.linalg.eigh(moment.double())
    return torch.eye(len(moment), dtype=torch.float64) - torch.outer(directions[:, -1], directions[:, -1])


def regress(moment: Tensor, target: Tensor, ridge: float, massive: Tensor | None = None) -> Tensor:
    """Return [k, m] the coefficients that predict m targets from k features of unit variance, shrunk to zero.

    Args:
        moment: [k, k] second moment of the features.
        target: [k, m] moments of features and targets.
        ridge: added to the diagonal of the features' correlations.
        massive: [k, k] second moment of first positions, whose largest direction is passed over; see
            `without_massive`.
    """
    floor = _TINY
    if massive is not None:
        seen = without_massive(massive)
        floor = max(floor, _NOISE * float(moment.diagonal().max()))
        moment, target = seen @ moment @ seen, seen @ target
    scale = moment.diagonal().clamp_min(floor).sqrt()
    solution = _solve(moment / scale[:, None] / scale, target / scale[:, None], ridge) / scale[:, None]
    return solution if massive is None else seen @ solution


def _solve(correlations: Tensor, target: Tensor, ridge: float) -> Tensor:
    """Return the solution of a ridge regression; energies that rounding has made negative count as zero."""
    identity = torch.eye(len(correlations), dtype=correlations.dtype)
    factor, failed = torch.linalg.cholesky_ex(correlations + ridge * identity)
    if not failed:
        return torch.cholesky_solve(target, factor)
    energies, axes = torch.linalg.eigh(correlations)
    solved: Tensor = axes @ (axes.T @ target / (energies.clamp_min(0) + ridge)[:, None])
    return solved


class InputMoments:
    """Second moments of the kept entries of an input, that some matrices share, with all of its entries."""

    def __init__(
        self, module: str, readers: tuple[str, ...], kept: Tensor, length: int, ridge: float, first: int
    ) -> None:
        """Begin with no token.

        Args:
            module: of the teacher; reads the input.
            readers: matrices of the child that multiply what is kept of it.
            kept: [k] entries that are kept.
            length: n, all entries.
            ridge: see `regress`.
            first: positions at the beginning of a sequence that are left as they are, see `without_massive`.
        """
        self.module, self.readers, self.kept, self.ridge, self.first = module, readers, kept, ridge, first
        self.moment = torch.zeros(len(kept), length)
        self.massive = torch.zeros(len(kept), len(kept)) if first else None
        self.tokens = 0

    def attach(self, parent: PreTrainedModel) -> None:
        """Watch the input of a matrix of the teacher; that of its head is the output of the final norm."""
        module = parent.get_submodule(self.module)
        if isinstance(module, nn.Linear):
            module.register_forward_pre_hook(self._add)
        else:
            module.register_forward_hook(lambda module, _, output: self._add(module, (output,)))

    def _add(self, _: nn.Module, inputs: tuple[Tensor]) -> None:
        kept = self.kept.to(inputs[0].device)
        if self.massive is not None:
            passed = inputs[0][:, : self.first, kept].float().flatten(0, -2)
            self.massive += (passed.T @ passed).cpu()
        entries = inputs[0][:, self.first :].float().flatten(0, -2)
        self.moment += (entries[:, kept].T @ entries).cpu()
        self.tokens += len(entries)

    def mix(self) -> Tensor:
        """Return [n, k] what each kept entry stands for: itself, and its share in every removed one."""
        num_kept, length = self.moment.shape
        removed = torch.ones(length, dtype=torch.bool)
        removed[self.kept] = False
        moment = self.moment.double() / self.tokens
        mix = torch.zeros(length, num_kept, dtype=torch.float64)
        mix[self.kept, torch.arange(num_kept)] = 1
        mix[removed] = regress(moment[:, self.kept], moment[:, removed], self.ridge, self.massive).T
        return mix


class GapMoments:
    """Dropped layers after a kept one: what they would have added, regressed on what its MLP writes.

    Tokens count by the inverse square of their size after the gap, as norms will see them. The first position is left
    as it is, as in `without_massive`.
    """

    def __init__(
        self, writer: str, writers: tuple[str, ...], ends: tuple[str, str], width: int, ridge: float, scale: float
    ) -> None:
        """Begin with no token.

        Args:
            writer: last matrix of the kept layer's MLP, in the teacher.
            writers: its parameters in the child.
            ends: modules of the teacher: whose output goes into the gap, and which reads what comes out.
            width: E.
            ridge: see `regress`.
            scale: factor of what the MLP adds to the residual stream.
        """
        self.writer, self.writers, self.ends, self.ridge, self.scale = writer, writers, ends, ridge, scale
        self.moment, self.target = torch.zeros(width, width), torch.zeros(width, width)
        self.massive = torch.zeros(width, width)
        self.tokens = 0
        self._written = self._before = torch.empty(0)

    def attach(self, parent: PreTrainedModel) -> None:
        """Watch the teacher on both sides of the gap."""
        parent.get_submodule(self.writer).register_forward_hook(self._keep_written)
        parent.get_submodule(self.ends[0]).register_forward_hook(self._keep_before)
        parent.get_submodule(self.ends[1]).register_forward_pre_hook(self._add)

    def _keep_written(self, _: nn.Module, inputs: tuple[Tensor], output: Tensor) -> None:
        # What is kept here and before the gap waits until the batch has passed it.
        del inputs
        added = output.float() * self.scale
        first = added[:, 0]
        self.massive += (first.T @ first).cpu()
        self._written = added[:, 1:].flatten(0, 1)

    def _keep_before(self, _: nn.Module, inputs: tuple[Tensor], output: Tensor) -> None:
        del inputs
        self._before = output[:, 1:].float().flatten(0, 1)

    def _add(self, _: nn.Module, inputs: tuple[Tensor]) -> None:
        after = inputs[0][:, 1:].float().flatten(0, 1)
        size = after.square().mean(-1, keepdim=True)
        # A token whose stream is zero after the gap has no size to be counted by.
        weight = torch.where(size > 0, size.rsqrt(), 0.0)
        written, missing = self._written * weight, (after - self._before) * weight
        self.moment += (written.T @ written).cpu()
        self.target += (written.T @ missing).cpu()
        self.tokens += len(after)

    def map(self) -> Tensor:
        """Return [E, E] what takes the MLP's output over the gap: the identity and the regression."""
        moment, target = self.moment.double() / self.tokens, self.target.double() / self.tokens
        identity = torch.eye(len(moment), dtype=torch.float64)
        return identity + regress(moment, target, self.ridge, self.massive).T
