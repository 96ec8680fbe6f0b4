"""Order a teacher by importance: the first entries of every axis are its best, its function stays."""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor
from transformers import PreTrainedModel

from budwood.arch.family import Family, axis_lengths, family_of
from budwood.arch.spec import Architecture
from budwood.subnet.checkpoint import load_model, read_architecture
from budwood.subnet.device import Compute
from budwood.subnet.importance import Importance
from budwood.subnet.rotary import Rope, pair_dims
from budwood.subnet.selection import Indices
from budwood.subnet.slicing import State, slice_tensor

OrderingKind = Literal["activation", "native"]
"""`activation` orders by importance; `native` keeps the teacher as it is, the paper's coarse space."""

_RIDGE = 1e-6
"""Added to the diagonal of a covariance, relative to its mean, so that its Cholesky factor exists."""


@dataclass(frozen=True, slots=True, kw_only=True)
class OrderedTeacher:
    """A teacher whose prefixes are its best sub-networks; it computes what the teacher computes."""

    state: State
    """The permuted state dict: names and shapes as the teacher's."""
    config: dict[str, Any]
    """The teacher's Hugging Face config."""
    architecture: Architecture
    layer_ranking: tuple[int, ...]
    """Layers, the first to keep first."""
    qk_dims: tuple[Indices, ...]
    """For every number of kept rotary pairs, from 0 on: the kept dimensions of queries and keys."""
    pair_ranking: tuple[int, ...]
    """Rotary pairs, the first to keep first."""
    norm_gain: Tensor
    """[2L + 1, E] factor of each norm's weight when only the first e channels are kept, at [norm, e - 1]: the root
    mean square of what stays over that of the whole stream."""
    rope: Rope

    @property
    def family(self) -> Family:
        """The teacher's entry in the family table."""
        return family_of(self.architecture.family)


def load_ordered(
    folder: Path, importance: Importance | None, rope: Rope, compute: Compute | None = None
) -> OrderedTeacher:
    """Load a teacher and order it.

    Args:
        folder: the teacher's checkpoint.
        importance: scores, or None for the teacher's own order.
        rope: how heads that lose dimensions turn.
        compute: where the ordered weights go and in which precision; ordering itself is done in float32 on the CPU.
    """
    model = load_model(folder, torch.float32)
    ordered = order_teacher(model, read_architecture(folder), importance, rope)
    if compute is None:
        return ordered
    state = {name: weight.to(compute.device, compute.dtype) for name, weight in ordered.state.items()}
    return replace(ordered, state=state)


def order_teacher(
    model: PreTrainedModel,
    architecture: Architecture,
    importance: Importance | None,
    rope: Rope,
) -> OrderedTeacher:
    """Order a teacher by its importance, or keep its own order where there is none.

    Channels, neurons, groups and the queries of a group are permuted; the values of each group are rotated into the
    singular basis of what they contribute, so that their first dimensions lose least. Rotary pairs and layers stay
    where they are and are ranked.

    Args:
        model: the teacher; its weights are not changed.
        architecture: the teacher's.
        importance: scores, or None for the paper's coarse space, which takes the first of everything.
        rope: how heads that lose dimensions turn.
    """
    state = _weights(model, architecture)
    layer, depth = architecture.layers[0], architecture.num_hidden_layers
    if importance is None:
        pairs = tuple(range(layer.head_dim // 2))
        ranking = tuple(range(depth))
        gain = torch.ones(2 * depth + 1, architecture.hidden_size)
    else:
        pairs, ranking = _rank_pairs(importance), _descending(importance.layers)
        channels = torch.argsort(importance.channels, descending=True)
        gain = _norm_gain(importance.channel_energy[:, channels])
        state = _rotate_values(state, architecture, importance)
        state = _permute(state, architecture, importance, channels.tolist())
    return OrderedTeacher(
        state=state,
        config=model.config.to_dict(),
        architecture=architecture,
        layer_ranking=ranking,
        qk_dims=_qk_dims(pairs, layer.head_dim, rope),
        pair_ranking=pairs,
        norm_gain=gain,
        rope=rope,
    )


def _weights(model: PreTrainedModel, architecture: Architecture) -> State:
    family = family_of(architecture.family)
    names = family.tensors(architecture.num_hidden_layers, tied=architecture.tie_word_embeddings)
    return {name: model.get_parameter(name).detach() for name, _, _ in names}


def _descending(scores: Tensor) -> tuple[int, ...]:
    return tuple(torch.argsort(scores, descending=True, stable=True).tolist())


def _rank_pairs(importance: Importance) -> tuple[int, ...]:
    """Rank rotary pairs by their mean share of a group's energy: one set serves all heads, as native configs need."""
    shares = importance.pairs / importance.pairs.sum(-1, keepdim=True)
    return _descending(shares.mean((0, 1)))


def _qk_dims(pairs: tuple[int, ...], head_dim: int, rope: Rope) -> tuple[Indices, ...]:
    if rope == "rebuild":
        return tuple(range(2 * kept) for kept in range(len(pairs) + 1))
    return tuple(pair_dims(sorted(pairs[:kept]), head_dim) for kept in range(len(pairs) + 1))


def _norm_gain(energy: Tensor) -> Tensor:
    """Return [2L + 1, E] root mean square of the first e normalised channels, from each channel's mean square."""
    counts = torch.arange(1, energy.shape[1] + 1)
    return (energy.cumsum(1) / counts).sqrt()


def _permute(state: State, architecture: Architecture, importance: Importance, channels: list[int]) -> State:
    family = family_of(architecture.family)
    lengths = axis_lengths(architecture, architecture.layers[0])
    permuted: State = {}
    for name, layer, module in family.tensors(architecture.num_hidden_layers, tied=architecture.tie_word_embeddings):
        kept: dict[str, Indices] = {"hidden": channels}
        if layer is not None:
            kept["neuron"] = _descending(importance.neurons[layer])
            kept["group"] = _descending(importance.heads[layer].sum(1))
        tensor = state[name]
        if layer is not None and "query" in {axis for axes in module.axes for axis in axes}:
            tensor = _permute_queries(tensor, module.axes, lengths, importance.heads[layer])
        permuted[name] = slice_tensor(tensor, module.axes, lengths, kept)
    return permuted


def _permute_queries(
    tensor: Tensor, axes: tuple[tuple[str, ...], ...], lengths: dict[str, int], scores: Tensor
) -> Tensor:
    """Order the queries inside every group, which have an order of their own in each."""
    dim = next(position for position, axis in enumerate(axes) if "query" in axis)
    basic = tensor.unflatten(dim, [lengths[name] for name in axes[dim]])
    groups = [
        part.index_select(dim, torch.as_tensor(_descending(group), device=tensor.device))
        for part, group in zip(basic.unbind(dim), scores, strict=True)
    ]
    return torch.stack(groups, dim).flatten(dim, dim + len(axes[dim]) - 1)


def _rotate_values(state: State, architecture: Architecture, importance: Importance) -> State:
    """Give every group's values the basis in which truncation loses least.

    With C the second moment of head outputs and W_o the stacked output weights of the group's queries, the singular
    vectors of W_o C^(1/2) order the directions by their contribution to the residual stream (activation-aware SVD).
    Values become B v and output weights W_o B^-1: the product stays.
    """
    family = family_of(architecture.family)
    layer_spec = architecture.layers[0]
    groups, queries = layer_spec.num_key_value_heads, layer_spec.heads_per_group
    rotated = dict(state)
    for layer in range(architecture.num_hidden_layers):
        value_name, output_name = (family.layer_weight(layer, m) for m in (family.value, family.output))
        value, output = state[value_name], state[output_name]
        weights = output.double().unflatten(1, (groups, queries, -1))
        values = value.double().unflatten(0, (groups, -1))
        bases = [
            _value_basis(weights[:, group], importance.values[layer, group].to(value.device).double())
            for group in range(groups)
        ]
        basis = torch.stack([forward for forward, _ in bases])
        inverse = torch.stack([backward for _, backward in bases])
        rotated[value_name] = (basis @ values).flatten(0, 1).to(value.dtype)
        rotated[output_name] = torch.einsum("egqs,gsr->egqr", weights, inverse).flatten(1).to(output.dtype)
    return rotated


def _value_basis(weight: Tensor, moment: Tensor) -> tuple[Tensor, Tensor]:
    """Return B and its inverse for one group.

    Args:
        weight: [E, Q, S] output weights of the group's queries.
        moment: [S, S] second moment of the head outputs.
    """
    ridge = _RIDGE * moment.diagonal().mean().clamp_min(_RIDGE) * torch.eye(len(moment), dtype=moment.dtype)
    root = torch.linalg.cholesky(moment + ridge.to(moment.device))
    _, _, directions = torch.linalg.svd(weight.flatten(0, 1) @ root, full_matrices=False)
    inverse = root @ directions.T
    return torch.linalg.solve_triangular(root, directions, upper=False, left=False), inverse
