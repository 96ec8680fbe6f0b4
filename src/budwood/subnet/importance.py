"""How much every component of a teacher matters, from one pass over calibration text.

All statistics stream: memory does not grow with the number of tokens.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, fields
from typing import Self

import torch
from torch import Tensor, nn
from tqdm import tqdm
from transformers import PreTrainedModel

from budwood.arch.family import Family, Module, family_of
from budwood.arch.spec import Architecture

# Shape legend: L layers, E hidden size, G groups, Q queries of a group, S head size, P = S / 2 pairs, D neurons.


@dataclass(frozen=True, slots=True, kw_only=True)
class Importance:
    """Activation statistics of a teacher; a larger score matters more. All float32, on the CPU."""

    layers: Tensor
    """[L] block influence: 1 - cosine of a layer's input and output (paper, appendix E)."""
    channels: Tensor
    """[E] mean absolute output over all norms (paper, appendix E)."""
    channel_energy: Tensor
    """[2L + 1, E] mean square of each norm's normalised input; each row has mean 1. The first position is left out:
    it carries massive activations that no other position has."""
    heads: Tensor
    """[L, G, Q] mean square norm of a query head's contribution to the residual stream."""
    pairs: Tensor
    """[L, G, P] geometric mean of a rotary pair's query and key energy."""
    neurons: Tensor
    """[L, D] mean square activation times the squared norm of the neuron's output weights."""
    values: Tensor
    """[L, G, S, S] second moment of head outputs before the output projection, over the queries of a group."""

    def to_tensors(self) -> dict[str, Tensor]:
        """Return the statistics by name, ready for a safetensors file."""
        return {field.name: getattr(self, field.name).contiguous() for field in fields(self)}

    @classmethod
    def from_tensors(cls, tensors: dict[str, Tensor]) -> Self:
        """Rebuild what `to_tensors` wrote."""
        return cls(**tensors)


@torch.no_grad()
def measure_importance(
    model: PreTrainedModel, architecture: Architecture, windows: Tensor, *, batch_size: int = 4
) -> Importance:
    """Run calibration text through a teacher and return the importance of its components.

    Args:
        model: the teacher, in evaluation mode.
        architecture: the teacher's.
        windows: [number of sequences, length] token ids.
        batch_size: sequences per forward pass.
    """
    statistics = _Statistics(architecture)
    with statistics.watch(model):
        for batch in tqdm(windows.split(batch_size), desc="calibration", unit="batch", dynamic_ncols=True):
            model.model(input_ids=batch.to(model.device), use_cache=False)
    return statistics.result(model)


class _Statistics:
    """Running sums, filled by forward hooks on one model."""

    def __init__(self, architecture: Architecture) -> None:
        self.family: Family = family_of(architecture.family)
        self.layer = architecture.layers[0]
        depth, width = architecture.num_hidden_layers, architecture.hidden_size
        groups, queries, size = self.layer.num_key_value_heads, self.layer.heads_per_group, self.layer.head_dim
        self.depth, self.groups, self.queries = depth, groups, queries
        self.layers = torch.zeros(depth)
        self.channels = torch.zeros(width)
        self.channel_energy = torch.zeros(2 * depth + 1, width)
        self.query_energy = torch.zeros(depth, groups, size // 2)
        self.key_energy = torch.zeros(depth, groups, size // 2)
        self.activations = torch.zeros(depth, self.layer.intermediate_size)
        self.head_moments = torch.zeros(depth, groups, queries, size, size)
        self.tokens = 0
        self.later_tokens = 0

    @contextmanager
    def watch(self, model: PreTrainedModel) -> Iterator[None]:
        """Attach the hooks, and take them off whatever happens."""
        handles = [model.get_submodule(path).register_forward_hook(hook) for path, hook in self._hooks()]
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()

    def _hooks(self) -> Iterator[tuple[str, Callable[..., None]]]:
        family = self.family
        yield family.final_norm.name, self._norm_hook(2 * self.depth, counts=True)
        for layer in range(self.depth):
            yield f"{family.decoder}.{layer}", self._layer_hook(layer)
            yield family.layer_path(layer, family.input_norm), self._norm_hook(2 * layer)
            yield family.layer_path(layer, family.attention_norm), self._norm_hook(2 * layer + 1)
            yield family.layer_path(layer, family.query), self._pair_hook(self.query_energy[layer], self.queries)
            yield family.layer_path(layer, family.key), self._pair_hook(self.key_energy[layer], 1)
            yield family.layer_path(layer, family.output), self._head_hook(layer)
            yield family.layer_path(layer, family.mlp_out), self._neuron_hook(layer)

    def _norm_hook(self, norm: int, *, counts: bool = False) -> Callable[..., None]:
        def hook(_: nn.Module, inputs: tuple[Tensor], output: Tensor) -> None:
            later = inputs[0][:, 1:].float()
            normalised = later.square() / later.square().mean(-1, keepdim=True)
            self.channel_energy[norm] += normalised.sum((0, 1)).cpu()
            self.channels += output.float().abs().sum((0, 1)).cpu()
            if counts:
                self.tokens += output.shape[0] * output.shape[1]
                self.later_tokens += later.shape[0] * later.shape[1]

        return hook

    def _layer_hook(self, layer: int) -> Callable[..., None]:
        def hook(_: nn.Module, inputs: tuple[Tensor], output: Tensor) -> None:
            cosine = torch.cosine_similarity(inputs[0].float(), output.float(), dim=-1)
            self.layers[layer] += (1 - cosine).sum().cpu()

        return hook

    def _pair_hook(self, energy: Tensor, queries: int) -> Callable[..., None]:
        def hook(_: nn.Module, inputs: tuple[Tensor], output: Tensor) -> None:
            del inputs
            halves = output.float().unflatten(-1, (self.groups, queries, 2, -1))
            energy.add_(halves.square().sum((0, 1, 3, 4)).cpu())

        return hook

    def _head_hook(self, layer: int) -> Callable[..., None]:
        def hook(_: nn.Module, inputs: tuple[Tensor], output: Tensor) -> None:
            del output
            heads = inputs[0].float().flatten(0, 1).unflatten(-1, (self.groups, self.queries, -1))
            self.head_moments[layer] += torch.einsum("tgqs,tgqr->gqsr", heads, heads).cpu()

        return hook

    def _neuron_hook(self, layer: int) -> Callable[..., None]:
        def hook(_: nn.Module, inputs: tuple[Tensor], output: Tensor) -> None:
            del output
            self.activations[layer] += inputs[0].float().square().sum((0, 1)).cpu()

        return hook

    def result(self, model: PreTrainedModel) -> Importance:
        """Turn the sums into scores; the output weights enter here."""
        return Importance(
            layers=self.layers / self.tokens,
            channels=self.channels / (self.tokens * (2 * self.depth + 1)),
            channel_energy=self.channel_energy / self.later_tokens,
            heads=torch.stack([self._head_scores(model, layer) for layer in range(self.depth)]) / self.tokens,
            pairs=(self.query_energy * self.key_energy).sqrt() / self.tokens,
            neurons=torch.stack([self._neuron_scores(model, layer) for layer in range(self.depth)]) / self.tokens,
            values=self.head_moments.sum(2) / (self.tokens * self.queries),
        )

    def _head_scores(self, model: PreTrainedModel, layer: int) -> Tensor:
        weight = self._weight(model, layer, self.family.output).unflatten(1, (self.groups, self.queries, -1))
        return torch.einsum("egqs,gqsr,egqr->gq", weight, self.head_moments[layer], weight)

    def _neuron_scores(self, model: PreTrainedModel, layer: int) -> Tensor:
        return self.activations[layer] * self._weight(model, layer, self.family.mlp_out).square().sum(0)

    def _weight(self, model: PreTrainedModel, layer: int, module: Module) -> Tensor:
        return model.get_parameter(self.family.layer_weight(layer, module)).float().cpu()
