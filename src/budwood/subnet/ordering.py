"""Order a teacher by importance: the first entries of every axis are its best, its function stays."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property, reduce
from pathlib import Path

import torch
from torch import Tensor

from budwood.arch.config import HFConfig
from budwood.arch.family import Family, axis_lengths, family_of
from budwood.arch.spec import Architecture
from budwood.models.checkpoint import load_config, read_architecture
from budwood.models.device import Compute
from budwood.models.rotary import RopeParameters, layer_rope, layer_types, rank_pairs, rotary_dims
from budwood.models.settings import Rope
from budwood.models.tensors import CheckpointTensors, Lazy, State, fuse
from budwood.subnet.importance import Importance, LayerImportance, importance_of_weights
from budwood.subnet.settings import LayerScore, Ordering
from budwood.subnet.slicing import permute_within_groups, slice_tensor

_RIDGE = 1e-6
"""Added to the energies of a second moment, relative to their mean, so that its root can be inverted."""


@dataclass(frozen=True, kw_only=True)
class OrderedTeacher:
    """A teacher whose prefixes are its best sub-networks; it computes what the teacher computes."""

    weights: Mapping[str, Tensor]
    """Permuted parameters by the names of the family's table, shapes as the teacher's."""
    dtype: torch.dtype
    """The widest precision of the weights, in which the teacher reads calibration text."""
    config: HFConfig
    """The teacher's Hugging Face config."""
    architecture: Architecture
    """The teacher's, layers in depth order."""
    channels: tuple[int, ...]
    """For every channel of the residual stream, where the teacher itself has it."""
    ranking: tuple[int, ...]
    """Layers, the first to keep first."""
    pair_rankings: tuple[Sequence[int], ...]
    """For every layer in depth order: its pairs of head dimensions, the first to keep first."""
    pair_scores: tuple[Tensor, ...] = ()
    """For every layer in depth order, [G, P] the importance of every pair to every group; empty where unknown."""
    norms: Mapping[str, Tensor] = field(default_factory=dict)
    """For every norm by the name of its weight, the mean square of each entry of its normalised input; empty where cut
    norms are left as they are."""
    ordered: bool = False
    """Whether it is in an order of importance; otherwise it is cut as it is, like the paper does."""
    score_gain: bool = False
    """Whether heads that lose pairs keep the size of their scores."""
    singular_values: bool = False
    """Whether values are in their singular basis, so that their first dimensions are their best."""
    rope: Rope

    @property
    def family(self) -> Family:
        """The teacher's entry in the family table."""
        return family_of(self.architecture.family)

    @cached_property
    def ranked(self) -> Architecture:
        """The teacher with its layers by rank, as search spaces count them."""
        return self.architecture.with_layers(tuple(self.architecture.layers[layer] for layer in self.ranking))

    def layer_rope(self, layer: int) -> RopeParameters:
        """Return the `rope_parameters` of a layer of the teacher."""
        return layer_rope(self.config, layer)

    @property
    def device(self) -> torch.device:
        """Where the weights are when they are asked for."""
        return self.weights[self.family.final_norm.weight].device

    def on(self, compute: Compute, dtype: torch.dtype | None = None) -> "OrderedTeacher":
        """Return the same teacher, whose weights are moved to a device when they are asked for.

        Args:
            compute: has the device.
            dtype: in which it reads text; without it that of its files.
        """
        moved = Lazy(self.weights, lambda name: self.weights[name].to(compute.device))
        return replace(self, weights=moved, dtype=dtype or self.dtype)

    def materialise(self, compute: Compute) -> "OrderedTeacher":
        """Return the same teacher with all weights in memory, on a device and in its precision."""
        weights = {name: weight.to(compute.device, compute.dtype) for name, weight in self.weights.items()}
        return replace(self, weights=weights, dtype=compute.dtype)

    def layer(self, depth: int) -> State:
        """Return the parameters of a layer under the names of its model class, in one precision."""
        prefix = f"{self.family.decoder}.{depth}."
        names = [name for name in self.weights if name.startswith(prefix)]
        return fuse({name: self.weights[name].to(self.dtype) for name in names}, self.architecture)


def open_ordered(folder: Path, ordering: Ordering, importance: Importance | None = None) -> OrderedTeacher:
    """Open a checkpoint as an ordered teacher; weights are read and ordered one by one, when they are asked for.

    Raises:
        ValueError: a file is damaged, or there are no scores to order by activation.
    """
    architecture = read_architecture(folder)
    weights = CheckpointTensors(folder, architecture)
    return order_teacher(weights, load_config(folder), architecture, ordering, importance)


def order_teacher(
    weights: Mapping[str, Tensor],
    config: HFConfig,
    architecture: Architecture,
    ordering: Ordering,
    importance: Importance | None = None,
) -> OrderedTeacher:
    """Order a teacher by its importance, or keep its own order.

    Channels, neurons, groups, the queries of a group and the dimensions that do not turn are permuted; the values of
    each group are turned into the singular basis of what they contribute, so that their first dimensions lose least.
    Rotary pairs and layers stay where they are and are ranked. The weights that are given are not changed.

    Raises:
        ValueError: there are no scores to order by activation, or layers were never left out that are ranked by it.
    """
    turning = [rotary_dims(layer_rope(config, layer), spec.head_dim) for layer, spec in enumerate(architecture.layers)]
    heads = zip(architecture.layers, turning, strict=True)
    native = OrderedTeacher(
        weights=weights,
        dtype=_widest_dtype(weights),
        config=config,
        architecture=architecture,
        channels=tuple(range(architecture.hidden_size)),
        ranking=tuple(range(architecture.num_hidden_layers)),
        pair_rankings=tuple(rank_pairs([0.0] * (spec.head_dim // 2), r) for spec, r in heads),
        rope=ordering.rope,
    )
    if ordering.ordering == "native":
        return native
    if ordering.ordering == "magnitude":
        importance = importance_of_weights(weights, architecture)
    if importance is None:
        raise ValueError("ordering: activation needs the importance of the teacher's components")
    ordered = OrderedWeights(weights, architecture, importance, turning, turn_values=ordering.singular_values)
    return replace(
        native,
        weights=ordered,
        channels=ordered.channels,
        ranking=_rank_layers(importance, ordering.layer_score),
        pair_rankings=_rank_pairs_together(importance, architecture, turning, config),
        pair_scores=ordered.pair_scores(turning),
        norms={name: ordered.permute(name, energy) for name, energy in importance.norms.items()},
        ordered=True,
        score_gain=ordering.score_gain,
        singular_values=ordering.singular_values,
    )


def _rank_layers(importance: Importance, score: LayerScore) -> tuple[int, ...]:
    """Return the layers, the first to keep first."""
    if score == "elimination":
        if not importance.eliminated:
            raise ValueError("layer_score: elimination needs an importance in which layers were left out on trial")
        return importance.eliminated[::-1]
    scores = [float(getattr(layer, score)) for layer in importance.layers]
    return tuple(sorted(range(len(scores)), key=lambda layer: -scores[layer]))


def _widest_dtype(weights: Mapping[str, Tensor]) -> torch.dtype:
    if isinstance(weights, CheckpointTensors):
        return weights.dtype
    return reduce(torch.promote_types, (weight.dtype for weight in weights.values()))


class OrderedWeights(Lazy[Tensor]):
    """A teacher's weights, each ordered when it is asked for."""

    def __init__(
        self,
        weights: Mapping[str, Tensor],
        architecture: Architecture,
        importance: Importance,
        turning: Sequence[int],
        *,
        turn_values: bool,
    ) -> None:
        """Sort the scores.

        Args:
            weights: the teacher's.
            architecture: the teacher's.
            importance: scores.
            turning: rotary dimensions of a head, for every layer.
            turn_values: whether values are turned into their singular basis.
        """
        self._turns_values = turn_values
        self._weights, self._architecture, self._importance = weights, architecture, importance
        self._family = family_of(architecture.family)
        tied, depth = architecture.tie_word_embeddings, architecture.num_hidden_layers
        self._axes = {name: (layer, axes) for name, layer, axes in self._family.parameters(depth, tied=tied)}
        super().__init__(self._axes, self._ordered)
        self.channels = descending(importance.channels)
        self._orders = [LayerOrder.of(layer, r) for layer, r in zip(importance.layers, turning, strict=True)]
        self._bases: dict[int, tuple[Tensor, Tensor]] = {}

    def _ordered(self, name: str) -> Tensor:
        """Read and order a parameter."""
        weight, (layer, _) = self._weights[name], self._axes[name]
        if layer is not None and self._turns_values:
            weight = self._turn_values(name.removeprefix(f"{self._family.decoder}.{layer}."), layer, weight)
        return self.permute(name, weight)

    def permute(self, name: str, tensor: Tensor) -> Tensor:
        """Return a tensor [*axes] that is laid out as a parameter, in the new order."""
        layer, axes = self._axes[name]
        if layer is None:
            return slice_tensor(tensor, axes, {"hidden": len(self.channels), "vocab": 0}, {"hidden": self.channels})
        lengths = axis_lengths(self._architecture, self._architecture.layers[layer])
        order = self._orders[layer]
        tensor = permute_within_groups(tensor, axes, lengths, "query", order.queries)
        tensor = permute_within_groups(tensor, axes, lengths, "qk", order.dims)
        kept = {"hidden": self.channels, "group": order.groups, "neuron": order.neurons}
        return slice_tensor(tensor, axes, lengths, kept)

    def pair_scores(self, turning: Sequence[int]) -> tuple[Tensor, ...]:
        """Return for every layer [G, P] the importance of every pair to every group, both in their new order."""
        scores = []
        for layer, order, r in zip(self._importance.layers, self._orders, turning, strict=True):
            dims = torch.tensor(order.dims)
            moved = replace(layer, queries=layer.queries.gather(1, dims), keys=layer.keys.gather(1, dims))
            scores.append(moved.pairs(r)[list(order.groups)])
        return tuple(scores)

    def _turn_values(self, name: str, layer: int, tensor: Tensor) -> Tensor:
        """Turn the values of a layer, or what reads them, into the singular basis of their group."""
        family, spec = self._family, self._architecture.layers[layer]
        groups, queries = spec.num_key_value_heads, spec.heads_per_group
        if name == family.output.weight:
            _, inverse = self._basis(layer, tensor)
            heads = tensor.double().unflatten(1, (groups, queries, -1))
            return torch.einsum("egqs,gsr->egqr", heads, inverse.to(tensor.device)).flatten(1).to(tensor.dtype)
        if name in {parameter for parameter, _ in family.value.parameters}:
            basis, _ = self._basis(layer, self._weights[family.layer_weight(layer, family.output)])
            values = tensor.double().reshape(groups, spec.head_dim, -1)
            return (basis.to(tensor.device) @ values).reshape(tensor.shape).to(tensor.dtype)
        return tensor

    def _basis(self, layer: int, output: Tensor) -> tuple[Tensor, Tensor]:
        """Return [G, S, S] the basis of every group's values, and its inverse.

        With C the second moment of head outputs and W_o the stacked output weights of the group's queries, the singular
        vectors of W_o C^(1/2) order the directions by their contribution to the residual stream (activation-aware
        SVD). Values become B v and output weights W_o B^-1: the product stays.
        """
        if layer not in self._bases:
            # Layers are read one after the other.
            self._bases.clear()
            spec, moments = self._architecture.layers[layer], self._importance.layers[layer].values
            heads = output.double().cpu().unflatten(1, (spec.num_key_value_heads, spec.heads_per_group, -1))
            bases = [_value_basis(heads[:, group], moment.double()) for group, moment in enumerate(moments)]
            self._bases[layer] = (torch.stack([b for b, _ in bases]), torch.stack([inverse for _, inverse in bases]))
        return self._bases[layer]


@dataclass(frozen=True, slots=True, kw_only=True)
class LayerOrder:
    """New orders of a layer's axes."""

    groups: Sequence[int]
    queries: tuple[Sequence[int], ...]
    """For every group."""
    dims: tuple[Sequence[int], ...]
    """For every group: dimensions of queries and keys; those that turn stay where they are."""
    neurons: Sequence[int]

    @classmethod
    def of(cls, importance: LayerImportance, turning: int) -> "LayerOrder":
        """Sort the scores of a layer, of whose heads some dimensions turn."""
        plain = importance.dims[:, turning:]
        return cls(
            groups=descending(importance.heads.sum(1)),
            queries=tuple(descending(group) for group in importance.heads),
            dims=tuple((*range(turning), *(turning + dim for dim in descending(group))) for group in plain),
            neurons=descending(importance.neurons),
        )

    def heads(self, scores: Tensor) -> Tensor:
        """Return [G, Q] scores of heads in the new order."""
        return torch.stack([scores[group][list(self.queries[group])] for group in self.groups])


def descending(scores: Tensor) -> tuple[int, ...]:
    """Return the places of [n] scores, the highest first; of equal ones the first."""
    return tuple(torch.argsort(scores, descending=True, stable=True).tolist())


def _rank_pairs_together(
    importance: Importance, architecture: Architecture, turning: Sequence[int], config: HFConfig
) -> tuple[Sequence[int], ...]:
    """Rank rotary pairs by their mean share of a group's energy.

    One set serves all layers whose heads turn alike, as native configs need.
    """
    types = layer_types(family_of(architecture.family), config)
    kinds = [(spec.head_dim, r, own) for spec, r, own in zip(architecture.layers, turning, types, strict=True)]
    rankings = {}
    for kind in set(kinds):
        pairs = torch.cat(
            [layer.pairs(kind[1]) for layer, other in zip(importance.layers, kinds, strict=True) if other == kind]
        )
        # A group without any energy has no say.
        shares = pairs / pairs.sum(-1, keepdim=True).clamp_min(torch.finfo(pairs.dtype).tiny)
        rankings[kind] = rank_pairs(shares.mean(0).tolist(), kind[1])
    return tuple(rankings[kind] for kind in kinds)


def _value_basis(weight: Tensor, moment: Tensor) -> tuple[Tensor, Tensor]:
    """Return B and its inverse for one group.

    Args:
        weight: [E, Q, S] output weights of the group's queries.
        moment: [S, S] second moment of the head outputs.
    """
    energies, axes = torch.linalg.eigh(moment)
    # Heads that are always zero have no energy: then the output weights alone decide.
    mean = energies.mean() if energies.mean() > 0 else torch.ones(())
    scales = (energies.clamp_min(0) + _RIDGE * mean).sqrt()
    root = axes * scales
    # The triangular factor has the same directions, all of them even where the weights have fewer rows.
    _, triangular = torch.linalg.qr(weight.flatten(0, 1) @ root, mode="r")
    _, _, directions = torch.linalg.svd(triangular)
    return directions @ (axes / scales).T, root @ directions.T
