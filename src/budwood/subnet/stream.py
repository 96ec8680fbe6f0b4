"""A model reads text layer by layer: one layer runs over all of it before the next one does."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

# Shape legend: E hidden size, N sequences, T tokens of a sequence.

States = list[Tensor]
"""[N, T, ...] of every batch."""
_Call = tuple[tuple[Any, ...], dict[str, Any]]
"""Arguments of a layer beside the stream."""


class LayerStream:
    """The residual stream of a model for some text, at one depth at a time."""

    @torch.no_grad()
    def __init__(self, model: PreTrainedModel, decoder: str, batches: Sequence[Tensor]) -> None:
        """Read the embeddings.

        Args:
            model: in evaluation mode.
            decoder: path of its layers.
            batches: [N, T] token ids each.
        """
        modules = model.get_submodule(decoder)
        assert isinstance(modules, nn.ModuleList)
        self.layers, recorders = list(modules), [_Recorder() for _ in modules]
        for place, recorder in enumerate(recorders):
            modules[place] = recorder
        try:
            for batch in batches:
                model.base_model(input_ids=batch.to(model.device), use_cache=False)
        finally:
            for place, layer in enumerate(self.layers):
                modules[place] = layer
        self._calls = [recorder.calls for recorder in recorders]
        self.states: States = recorders[0].states
        """[N, T, E] into the next layer."""
        self.depth = 0
        """Layers that have read all text."""

    @torch.no_grad()
    def returned(self) -> States:
        """Return what the next layer makes of the stream."""
        layer, calls = self.layers[self.depth], self._calls[self.depth]
        return [
            layer(states, *arguments, **named) for states, (arguments, named) in zip(self.states, calls, strict=True)
        ]

    def pass_on(self, states: States) -> None:
        """Go on to the layer after the next one."""
        self.states, self.depth = states, self.depth + 1

    def advance(self, depth: int) -> None:
        """Read up to a depth."""
        assert self.depth <= depth, f"the text was read to layer {self.depth}, past {depth}"
        while self.depth < depth:
            self.pass_on(self.returned())


@contextmanager
def inputs_of(module: nn.Module) -> Iterator[States]:
    """Keep what a module reads."""
    kept: States = []
    hook = module.register_forward_pre_hook(lambda _, inputs: kept.append(inputs[0]))
    try:
        yield kept
    finally:
        hook.remove()


@contextmanager
def outputs_of(module: nn.Module) -> Iterator[States]:
    """Keep what a module returns."""
    kept: States = []
    hook = module.register_forward_hook(lambda _module, _inputs, output: kept.append(output))
    try:
        yield kept
    finally:
        hook.remove()


class _Recorder(nn.Module):
    """Takes the place of a layer, notes how it is called, and returns the stream as it is."""

    def __init__(self) -> None:
        super().__init__()
        self.calls: list[_Call] = []
        self.states: States = []

    def forward(self, states: Tensor, *arguments: object, **named: object) -> Tensor:
        self.calls.append((arguments, named))
        self.states.append(states)
        return states
