"""Optimisers that the Trainer of transformers does not have."""

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import AdamW, Muon, Optimizer
from transformers import PreTrainedModel

_MATRIX_DIMS = 2


class MuonWithAdamW(Optimizer):
    """Muon for some parameters, AdamW for the others, under one learning-rate schedule."""

    def __init__(self, muon: Muon, adamw: AdamW) -> None:
        """Join two optimisers; the schedule sets the learning rate in their own groups."""
        self.parts = (muon, adamw)
        super().__init__(self._groups(), {})

    def _groups(self) -> list[dict[str, Any]]:
        return [group for part in self.parts for group in part.param_groups]

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> None:  # type: ignore[override]
        """Update all parameters."""
        assert closure is None
        for part in self.parts:
            part.step()  # type: ignore[no-untyped-call]

    def state_dict(self) -> dict[str, Any]:
        """Return the state of both."""
        return {"muon": self.parts[0].state_dict(), "adamw": self.parts[1].state_dict()}

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        """Restore the state of both, which replaces their groups."""
        for part, name in zip(self.parts, ("muon", "adamw"), strict=True):
            part.load_state_dict(state_dict[name])
        self.param_groups = self._groups()


def muon_with_adamw(
    model: PreTrainedModel,
    decayed: set[nn.Parameter],
    *,
    learning_rate: float,
    betas: tuple[float, float],
    decay: float,
) -> MuonWithAdamW:
    """Return Muon for the matrices of decoder layers and AdamW for embeddings, head, norms and biases.

    `match_rms_adamw` scales Muon's updates to the size of AdamW's (Liu et al., 2025, "Muon is scalable"), so that one
    learning rate and one weight decay serve both.
    """
    layers: Any = model.base_model.layers
    matrices = [parameter for parameter in layers.parameters() if parameter.ndim == _MATRIX_DIMS]
    taken = set(matrices)
    others = [parameter for parameter in model.parameters() if parameter not in taken]
    groups = [
        {"params": [parameter for parameter in others if parameter in decayed], "weight_decay": decay},
        {"params": [parameter for parameter in others if parameter not in decayed], "weight_decay": 0.0},
    ]
    return MuonWithAdamW(
        Muon(matrices, lr=learning_rate, weight_decay=decay, adjust_lr_fn="match_rms_adamw"),
        AdamW(groups, lr=learning_rate, betas=betas, fused=True),
    )


def state_dtypes(optimizer: Optimizer) -> set[torch.dtype]:
    """Return the types of an optimiser's running averages."""
    parts = getattr(optimizer, "parts", (optimizer,))
    values = [value for part in parts for entry in part.state.values() for value in entry.values()]
    return {value.dtype for value in values if isinstance(value, Tensor)}
