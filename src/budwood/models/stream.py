"""A model reads text layer by layer: one layer runs over all of it before the next one does.

Where the weights of layers are read when their turn comes, only one layer's are in memory.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from budwood.models.device import release_memory

# Shape legend: E hidden size, N sequences, T tokens of a sequence, V vocabulary.

States = list[Tensor]
"""[N, T, ...] of every batch."""
Read = Callable[[int], Mapping[str, Tensor]]
"""Returns the parameters of the layer at a depth, by their names in the model."""
_Call = tuple[tuple[Any, ...], dict[str, Any]]
"""Arguments of a layer beside the stream."""


class LayerStream:
    """The residual stream of a model for some text, at one depth at a time."""

    @torch.no_grad()
    def __init__(
        self, model: PreTrainedModel, decoder: str, batches: Sequence[Tensor], read: Read | None = None
    ) -> None:
        """Read the embeddings.

        Args:
            model: in evaluation mode.
            decoder: path of its layers.
            batches: [N, T] token ids each.
            read: gives layers their weights, for as long as they run; without it the model has them. An embedding
                that is no head loses its own once the text is read.
        """
        modules = model.get_submodule(decoder)
        assert isinstance(modules, nn.ModuleList)
        self.model, self._modules, self._read = model, modules, read
        self._layers, recorders = list(modules), [_Recorder() for _ in modules]
        with self._in_place_of_layers(recorders):
            for batch in batches:
                model.base_model(input_ids=batch.to(model.device), use_cache=False)
        if read:
            _forget_embedding(model)
        self._calls = [recorder.calls for recorder in recorders]
        self.states: States = recorders[0].states
        """[N, T, E] into the next layer."""
        self.depth = 0
        """Layers that have read all text."""
        self.num_layers = len(self._layers)

    def next_layer(self) -> nn.Module:
        """Return the next layer, with its weights."""
        layer = self._layers[self.depth]
        if self._read and not next(layer.parameters()).numel():
            fill(self.model, self._read(self.depth))
            release_memory()  # reading and permuting has left holes
        return layer

    @torch.no_grad()
    def returned(self) -> States:
        """Return what the next layer makes of the stream."""
        layer, calls = self.next_layer(), self._calls[self.depth]
        return [
            layer(states, *arguments, **named) for states, (arguments, named) in zip(self.states, calls, strict=True)
        ]

    def pass_on(self, states: States) -> None:
        """Go on to the layer after the next one."""
        if self._read:
            _empty(self._layers[self.depth])
            release_memory()
        self.states, self.depth = states, self.depth + 1

    def advance(self, depth: int) -> None:
        """Read up to a depth."""
        assert self.depth <= depth, f"the text was read to layer {self.depth}, past {depth}"
        while self.depth < depth:
            self.pass_on(self.returned())

    @contextmanager
    def finished(self) -> Iterator[PreTrainedModel]:
        """Yield the model; called with the batches in order, it continues from the stream after its last layer."""
        assert self.depth == self.num_layers, f"the text was read to layer {self.depth} of {self.num_layers}"
        with self._in_place_of_layers([Given(self.states), *(Passed() for _ in self._layers[1:])]):
            yield self.model

    @contextmanager
    def _in_place_of_layers(self, others: Sequence[nn.Module]) -> Iterator[None]:
        for place, other in enumerate(others):
            self._modules[place] = other
        try:
            yield
        finally:
            for place, layer in enumerate(self._layers):
                self._modules[place] = layer


def hollow(model: PreTrainedModel, decoder: str, device: torch.device, dtype: torch.dtype) -> PreTrainedModel:
    """Take the weights of a model's layers away, those of the rest for uninitialised memory; return it.

    Args:
        model: in evaluation mode afterwards.
        decoder: path of its layers.
        device: of the weights that it will get.
        dtype: of the weights that it will get.
    """
    _empty(model.get_submodule(decoder))
    for parameter in model.parameters():
        parameter.data = torch.empty(parameter.shape, device=device, dtype=dtype)
    nn.Module.to(model, device)
    model.eval()
    return model


def headless(model: PreTrainedModel) -> PreTrainedModel:
    """Take the head away from a model that makes no logits, so that its embedding is none; return it."""
    model.set_output_embeddings(nn.Identity())
    return model


def fill(model: PreTrainedModel, state: Mapping[str, Tensor]) -> None:
    """Give some parameters of a model their weights, without copying them."""
    for name, weight in state.items():
        model.get_parameter(name).data = weight


def parts_of(model: PreTrainedModel, decoder: str, *, consume: bool = False) -> Iterator[dict[str, Tensor]]:
    """Yield the parameters of a model in parts: the embedding, every layer in depth order, and the rest.

    Args:
        model: the model.
        decoder: path of its layers.
        consume: whether the model loses its weights once they were seen.
    """
    embedding, parts = model.get_input_embeddings().weight, [dict[str, nn.Parameter](), {}]
    parts[1:1] = [dict[str, nn.Parameter]() for _ in model.get_submodule(decoder).children()]
    for name, weight in model.named_parameters():
        place = name.removeprefix(f"{decoder}.").partition(".")[0] if name.startswith(f"{decoder}.") else None
        parts[(0 if weight is embedding else -1) if place is None else int(place) + 1][name] = weight
    for part in parts:
        yield {name: weight.data for name, weight in part.items()}
        if consume:
            for weight in part.values():
                weight.data = weight.data.new_empty(0)


@torch.no_grad()
def logits_by_part(
    model: PreTrainedModel, decoder: str, parts: Iterable[Mapping[str, Tensor]], texts: Sequence[Tensor]
) -> list[Tensor]:
    """Return [N, T, V] the float32 logits of a model whose parameters come in parts.

    Args:
        model: hollow, in float32.
        decoder: path of its layers.
        parts: its parameters: the embedding, every layer in depth order, and the rest. They are kept for as long as
            they are needed.
        texts: [N, T] token ids each.
    """
    device, rest = model.device, iter(parts)

    def next_part() -> dict[str, Tensor]:
        part = next(rest)
        release_memory()  # it was made of much more
        # A product of one row rounds by where a matrix lies in memory, and in a file it may lie anywhere.
        return {
            name: weight.to(device, torch.float32, copy=True, memory_format=torch.contiguous_format)
            for name, weight in part.items()
        }

    fill(model, next_part())
    stream = LayerStream(model, decoder, texts, lambda _: next_part())
    stream.advance(stream.num_layers)
    fill(model, next_part())
    # Whatever the parts were made of goes before the logits come.
    assert next(rest, None) is None, "more parts than a model has"
    with stream.finished():
        return [model(input_ids=text.to(device), use_cache=False).logits for text in texts]


@contextmanager
def inputs_of(module: nn.Module) -> Iterator[States]:
    """Keep what a module reads."""
    kept: States = []
    with module.register_forward_pre_hook(lambda _, inputs: kept.append(inputs[0])):
        yield kept


@contextmanager
def outputs_of(module: nn.Module) -> Iterator[States]:
    """Keep what a module returns."""
    kept: States = []
    with module.register_forward_hook(lambda _module, _inputs, output: kept.append(output)):
        yield kept


class Given(nn.Module):
    """Takes the place of the first layers, and returns what the last of them returned, batch by batch."""

    def __init__(self, states: States) -> None:
        """Begin with the first batch."""
        super().__init__()
        self.batches = iter(states)

    def forward(self, *_args: object, **_kwargs: object) -> Tensor:
        """Return [B, T, H] states of the next batch."""
        return next(self.batches)


class Passed(nn.Module):
    """Takes the place of a layer whose result is known."""

    def forward(self, hidden_states: Tensor, *_args: object, **_kwargs: object) -> Tensor:
        """Return the [B, T, H] states that came."""
        return hidden_states


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


def _forget_embedding(model: PreTrainedModel) -> None:
    """Put one zero in place of an embedding that is no head; the model can still be called."""
    embedding, head = model.get_input_embeddings(), model.get_output_embeddings()
    assert isinstance(embedding, nn.Embedding)
    if not isinstance(head, nn.Linear) or head.weight is not embedding.weight:
        embedding.weight.data = embedding.weight.new_zeros(()).expand_as(embedding.weight)


def _empty(module: nn.Module) -> None:
    """Take a module's weights away."""
    for parameter in module.parameters():
        parameter.data = parameter.data.new_empty(0)
