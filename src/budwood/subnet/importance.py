"""How much every component of a teacher matters: by one pass over calibration text, or by its weights alone.

All statistics stream: memory does not grow with the number of tokens.
"""

from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, fields
from typing import Self

import torch
from torch import Tensor, nn
from tqdm import tqdm
from transformers import PreTrainedModel

from budwood.arch.family import Family, Module, family_of, layer_lengths
from budwood.arch.spec import Architecture, LayerSpec
from budwood.models.stream import LayerStream
from budwood.models.tensors import part_of

_NUM_MASSIVE, _NEURONS_PER_MASSIVE = 8, 64
"""Neurons of a layer that are kept for the massive activations they write, and of how many one is at most."""

# Shape legend: L layers, E hidden size, G groups, Q queries of a group, S head size, P = S / 2 pairs, D neurons.


@dataclass(frozen=True, slots=True, kw_only=True)
class LayerImportance:
    """Statistics of one layer; a larger score matters more. All float32, on the CPU."""

    influence: Tensor
    """[] block influence: 1 - cosine of the layer's input and output (paper, appendix E)."""
    change: Tensor
    """[] normalised mean square error of leaving the layer out: what it adds over what it returns, both squared."""
    heads: Tensor
    """[G, Q] mean square norm of a query head's contribution to the residual stream."""
    queries: Tensor
    """[G, S] mean square of each dimension of a group's queries, added over them."""
    keys: Tensor
    """[G, S] mean square of each dimension of a group's keys."""
    neurons: Tensor
    """[D] mean square activation after the first position times the squared norm of the neuron's output weights. The
    few that write most at the first position, whose massive activations all others attend to, come first."""
    head_norms: Tensor
    """[G, Q] mean norm of a query head's output before the output projection (paper, appendix E)."""
    activations: Tensor
    """[D] mean absolute activation of a neuron (paper, appendix E)."""
    values: Tensor
    """[G, S, S] second moment of head outputs before the output projection, over the queries of a group."""

    @property
    def dims(self) -> Tensor:
        """[G, S] geometric mean of a dimension's query and key energy."""
        return (self.queries * self.keys).sqrt()

    def pairs(self, turning: int) -> Tensor:
        """Return [G, P] the geometric mean of every pair's query and key energy.

        Args:
            turning: rotary dimensions of a head; the first pairs are what turns together.
        """
        return (_by_pair(self.queries, turning) * _by_pair(self.keys, turning)).sqrt()


@dataclass(frozen=True, slots=True, kw_only=True)
class Importance:
    """Statistics of a teacher."""

    channels: Tensor
    """[E] mean absolute output over all norms of the residual stream (paper, appendix E)."""
    norms: Mapping[str, Tensor]
    """For every norm by the name of its weight: mean square of each entry of its normalised input, with mean 1. The
    first position is left out: it carries massive activations that no other position has."""
    layers: tuple[LayerImportance, ...]
    """In depth order."""
    eliminated: tuple[int, ...] = ()
    """All layers, those first that can best be left out; empty where that was not tried, see
    `budwood.subnet.elimination`."""

    def to_tensors(self) -> dict[str, Tensor]:
        """Return the statistics by name, ready for a safetensors file."""
        tensors = {"channels": self.channels} | {f"norms.{name}": energy for name, energy in self.norms.items()}
        for position, layer in enumerate(self.layers):
            tensors |= {f"layers.{position}.{field.name}": getattr(layer, field.name) for field in fields(layer)}
        if self.eliminated:
            tensors["eliminated"] = torch.tensor(self.eliminated)
        return {name: tensor.contiguous() for name, tensor in tensors.items()}

    @classmethod
    def from_tensors(cls, tensors: Mapping[str, Tensor]) -> Self:
        """Rebuild what `to_tensors` wrote."""
        names = [field.name for field in fields(LayerImportance)]
        depth = sum(name.endswith(".influence") for name in tensors)
        norms = {name.removeprefix("norms."): energy for name, energy in tensors.items() if name.startswith("norms.")}
        layers = tuple(
            LayerImportance(**{name: tensors[f"layers.{position}.{name}"] for name in names})
            for position in range(depth)
        )
        eliminated = tuple(tensors["eliminated"].tolist()) if "eliminated" in tensors else ()
        return cls(channels=tensors["channels"], norms=norms, layers=layers, eliminated=eliminated)


@torch.no_grad()
def importance_in(stream: LayerStream, architecture: Architecture) -> Importance:
    """Return the importance of a teacher's components by its stream of calibration text, layer by layer."""
    family, model = family_of(architecture.family), stream.model
    residual: dict[str, _NormStatistics] = {}
    heads: dict[str, _NormStatistics] = {}
    layers = []
    for position, spec in enumerate(tqdm(architecture.layers, desc="calibration", unit="layer", dynamic_ncols=True)):
        stream.next_layer()
        statistics = _LayerStatistics(model, family, position, spec)
        own = [_NormStatistics(family.layer_weight(position, norm), model) for norm in family.norms]
        own_heads = [
            _NormStatistics(family.layer_weight(position, norm), model, heads_first=family.heads_first)
            for norm in family.head_norms
        ]
        with _watching([*statistics.hooks(), *(norm.hook for norm in (*own, *own_heads))]):
            returned = stream.returned()
        layers.append(statistics.result())
        residual |= {norm.weight: norm for norm in own}
        heads |= {norm.weight: norm for norm in own_heads}
        stream.pass_on(returned)
    last = _NormStatistics(family.final_norm.weight, model)
    with _watching([last.hook]):
        for states in stream.states:
            last.module(states)
    residual = {last.weight: last} | residual
    return Importance(
        channels=torch.stack([norm.outputs / norm.tokens for norm in residual.values()]).mean(0),
        norms={weight: norm.mean_energy() for weight, norm in (residual | heads).items()},
        layers=tuple(layers),
    )


@torch.no_grad()
def importance_of_weights(weights: Mapping[str, Tensor], architecture: Architecture) -> Importance:
    """Return the importance of a teacher's components by the magnitude of their weights, without any text.

    Every score is the sum of the squares of the weights that belong to the component: for neurons and heads the product
    of what leads in and what leads out; values count as uncorrelated, and norms as if all their entries were alike. The
    layers that write least are those that can best be left out. The paper's scores of heads and neurons are the norms
    of all weights that belong to them, keys and values to every head of their group (appendix E gives no formula).
    """
    family, width = family_of(architecture.family), architecture.hidden_size
    channels, layers = torch.zeros(width), []
    for position, spec in enumerate(architecture.layers):
        squares = {
            module: weights[family.layer_weight(position, module)].float().square()
            for module in (*family.readers, family.output, family.mlp_out)
        }
        channels += sum(
            (squares[module].mean(0) for module in family.readers),
            squares[family.output].mean(1) + squares[family.mlp_out].mean(1),
        )
        layers.append(_layer_of_weights(squares, family, spec))
    eliminated = sorted(range(len(layers)), key=lambda layer: float(layers[layer].change))
    return Importance(channels=channels, norms={}, layers=tuple(layers), eliminated=tuple(eliminated))


def _layer_of_weights(squares: Mapping[Module, Tensor], family: Family, spec: LayerSpec) -> LayerImportance:
    groups, queries, size = spec.num_key_value_heads, spec.heads_per_group, spec.head_dim
    output = squares[family.output].unflatten(1, (groups, queries, size)).sum((0, 3))
    query = squares[family.query].unflatten(0, (groups, queries, size))
    key = squares[family.key].unflatten(0, (groups, size)).sum(2)
    value = squares[family.value].unflatten(0, (groups, size)).sum((1, 2))
    read = (key.sum(1) + value)[:, None] + query.sum((2, 3))
    written = squares[family.output].sum() + squares[family.mlp_out].sum()
    reading = sum((squares[module].sum(1) for module in family.mlp_in), torch.zeros(spec.intermediate_size))
    return LayerImportance(
        influence=written,
        change=written,
        heads=output * value[:, None],
        queries=query.sum((1, 3)),
        keys=key,
        neurons=reading * squares[family.mlp_out].sum(0),
        head_norms=(read + output).sqrt(),
        activations=(reading + squares[family.mlp_out].sum(0)).sqrt(),
        values=torch.eye(size).repeat(groups, 1, 1),
    )


Hook = tuple[nn.Module, Callable[[Tensor, Tensor], None]]
"""A module, and what takes its first input and its output."""


@contextmanager
def _watching(hooks: list[Hook]) -> Iterator[None]:
    """Attach forward hooks, and take them off whatever happens."""
    with ExitStack() as attached:
        for module, note in hooks:
            attached.enter_context(module.register_forward_hook(lambda _, x, y, note=note: note(x[0], y)))
        yield


class _NormStatistics:
    """Running sums of one norm."""

    def __init__(self, weight: str, model: PreTrainedModel, *, heads_first: bool = False) -> None:
        self.weight = weight
        self.token_axis = 2 if heads_first else 1
        self.module = model.get_submodule(weight.removesuffix(".weight"))
        self.energy = torch.zeros(len(model.get_parameter(weight)))
        self.outputs = torch.zeros_like(self.energy)
        self.tokens = self.later_entries = 0

    @property
    def hook(self) -> Hook:
        return self.module, self._add

    def mean_energy(self) -> Tensor:
        """Return [entries] mean squares; all alike where every input was zero."""
        return self.energy / self.later_entries if self.later_entries else torch.ones_like(self.energy)

    def _add(self, inputs: Tensor, output: Tensor) -> None:
        later = inputs.movedim(self.token_axis, 0)[1:].float().flatten(0, -2)
        if isinstance(self.module, nn.LayerNorm):
            later = later - later.mean(-1, keepdim=True)
        size = later.square().mean(-1, keepdim=True)
        # Zeros, as masked heads give, have no direction.
        self.energy += torch.where(size > 0, later.square() / size, 0.0).sum(0).cpu()
        self.later_entries += int((size > 0).sum())
        outputs = output.float().abs().flatten(0, -2)
        self.outputs += outputs.sum(0).cpu()
        self.tokens += len(outputs)


class _LayerStatistics:
    """Running sums of one layer."""

    def __init__(self, model: PreTrainedModel, family: Family, position: int, spec: LayerSpec) -> None:
        self.model, self.family, self.position, self.spec = model, family, position, spec
        self.lengths = layer_lengths(spec)
        groups, queries, size = spec.num_key_value_heads, spec.heads_per_group, spec.head_dim
        self.influence, self.added, self.returned = torch.zeros(()), torch.zeros(()), torch.zeros(())
        self.queries, self.keys = torch.zeros(groups, size), torch.zeros(groups, size)
        self.activations, self.first_activations = torch.zeros(2, spec.intermediate_size)
        self.absolute, self.head_norms = torch.zeros(spec.intermediate_size), torch.zeros(groups, queries)
        self.moments = torch.zeros(groups, queries, size, size)
        self.tokens = self.later_tokens = 0

    def hooks(self) -> Iterator[Hook]:
        family = self.family
        yield self.model.get_submodule(f"{family.decoder}.{self.position}"), self._add_layer
        yield self._module(family.output), lambda inputs, _: self._add_heads(inputs)
        yield self._module(family.mlp_out), lambda inputs, _: self._add_neurons(inputs)
        yield self._module(family.query_norm or family.query), lambda _, output: self._add_queries(output)
        yield self._module(family.key_norm or family.key), lambda _, output: self._add_keys(output)

    def _module(self, module: Module) -> nn.Module:
        return self.model.get_submodule(self.family.layer_path(self.position, module))

    def _add_layer(self, inputs: Tensor, output: Tensor) -> None:
        before, after = inputs.float(), output.float()
        self.influence += (1 - torch.cosine_similarity(before, after, dim=-1)).sum().cpu()
        self.added += (after - before)[:, 1:].square().sum().cpu()
        self.returned += after[:, 1:].square().sum().cpu()
        self.tokens += before.shape[0] * before.shape[1]

    def _add_queries(self, output: Tensor) -> None:
        self.queries += self._energy(output, self.family.query, self.spec.heads_per_group)

    def _add_keys(self, output: Tensor) -> None:
        self.keys += self._energy(output, self.family.key, 1)

    def _energy(self, output: Tensor, module: Module, heads: int) -> Tensor:
        """Return [G, S] squares of what a module wrote, added over tokens and over the heads of a group."""
        if module.inside:
            output = part_of(output, module, self.family, self.lengths, dim=-1)
        elif self.family.heads_first:
            output = output.transpose(1, 2)
        groups, size = self.spec.num_key_value_heads, self.spec.head_dim
        return output.float().reshape(-1, groups, heads, size).square().sum((0, 2)).cpu()

    def _add_heads(self, inputs: Tensor) -> None:
        heads = inputs.float().reshape(-1, *self.moments.shape[:3])
        self.moments += torch.einsum("tgqs,tgqr->gqsr", heads, heads).cpu()
        self.head_norms += heads.norm(dim=-1).sum(0).cpu()

    def _add_neurons(self, inputs: Tensor) -> None:
        entries = inputs.float()
        self.absolute += entries.abs().flatten(0, -2).sum(0).cpu()
        squares = entries.square()
        del entries  # at most two of them are there
        self.activations += squares[:, 1:].flatten(0, -2).sum(0).cpu()
        self.first_activations += squares[:, 0].sum(0).cpu()
        self.later_tokens += squares[:, 1:].shape[:2].numel()

    def result(self) -> LayerImportance:
        """Turn the sums into scores; the output weights enter here."""
        output, mlp_out = (
            self.model.get_parameter(self.family.layer_weight(self.position, module)).float().cpu()
            for module in (self.family.output, self.family.mlp_out)
        )
        groups, queries, size = self.moments.shape[:3]
        heads = output.unflatten(1, (groups, queries, size))
        return LayerImportance(
            influence=self.influence / self.tokens,
            change=self.added / self.returned if self.returned > 0 else torch.zeros(()),
            heads=torch.einsum("egqs,gqsr,egqr->gq", heads, self.moments, heads) / self.tokens,
            queries=self.queries / self.tokens,
            keys=self.keys / self.tokens,
            neurons=self._neuron_scores(mlp_out),
            head_norms=self.head_norms / self.tokens,
            activations=self.absolute / self.tokens,
            values=self.moments.sum(1) / (self.tokens * queries),
        )

    def _neuron_scores(self, mlp_out: Tensor) -> Tensor:
        norms = mlp_out.square().sum(0)
        scores: Tensor = self.activations * norms / self.later_tokens
        massive = (self.first_activations * norms).topk(min(_NUM_MASSIVE, len(norms) // _NEURONS_PER_MASSIVE)).indices
        scores[massive] += scores.max()
        return scores


def _by_pair(energy: Tensor, turning: int) -> Tensor:
    """Add the energies of the dimensions of every pair: [G, S] to [G, P]."""
    rotary = energy[:, :turning].unflatten(1, (2, turning // 2)).sum(1)
    plain = energy[:, turning:].unflatten(1, (-1, 2)).sum(2) if turning < energy.shape[1] else energy[:, :0]
    return torch.cat([rotary, plain], 1)
