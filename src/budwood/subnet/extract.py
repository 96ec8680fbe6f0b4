"""Build the dense child of a candidate; what a search evaluates is what an export saves."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from math import prod

import torch
from torch import Tensor
from transformers import PretrainedConfig, PreTrainedModel

from budwood.arch.family import Axes, Axis, Family, axis_lengths
from budwood.arch.selection import LayerSelection, Selection
from budwood.arch.spec import Architecture
from budwood.models.checkpoint import build_empty, model_config
from budwood.models.rotary import (
    ORIGINAL,
    RopeParameters,
    original_rope,
    pair_dims,
    rebuilt_rope,
    rope_for_pairs,
    rotary_dims,
)
from budwood.models.tensors import State, fuse
from budwood.subnet.ordering import OrderedTeacher
from budwood.subnet.slicing import permute_within_groups, slice_tensor

ROWS_TOGETHER = 1024
"""Of a weight, that are folded at once."""


@dataclass(frozen=True, slots=True, kw_only=True)
class KeptLayer:
    """What a layer of a child keeps of a layer of its teacher."""

    teacher_layer: int
    axes: Mapping[str, Sequence[int]]
    """Kept positions of every basic axis."""
    pairs: Tensor
    """[k] or, where groups differ, [G', k]: kept pairs of head dimensions."""
    turning: int
    """Dimensions of a head that turn."""
    rope: RopeParameters
    """The layer's `rope_parameters`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Cut:
    """A selection, spelt out in the dimensions of an ordered teacher."""

    architecture: Architecture
    """The child's, layers in depth order."""
    layers: tuple[KeptLayer, ...]
    """In depth order."""

    @property
    def kept_layers(self) -> tuple[int, ...]:
        """For every layer in depth order, the teacher's."""
        return tuple(layer.teacher_layer for layer in self.layers)


@dataclass(frozen=True, slots=True, kw_only=True)
class Mix:
    """What the kept entries of an input stand for: themselves, and their shares in the removed ones."""

    kept: Tensor
    """[k] positions."""
    removed: Tensor
    """[n - k] positions."""
    shares: Tensor
    """[n - k, k] by which kept entries predict removed ones."""

    def fold(self, weight: Tensor) -> Tensor:
        """Return [rows, k] the weight [rows, n] of what is kept, with that of what is removed folded in."""
        kept, removed = self.kept.to(weight.device), self.removed.to(weight.device)
        shares = self.shares.to(weight.device, torch.float32)
        folded = weight.new_empty(len(weight), len(kept))
        # A head of tens of thousands of rows would take gigabytes in float32.
        for rows, into in zip(weight.split(ROWS_TOGETHER), folded.split(ROWS_TOGETHER), strict=True):
            # Four times as fast as indexing.
            own, missing = (rows.index_select(1, columns).float() for columns in (kept, removed))
            into.copy_(torch.addmm(own, missing, shares))
        return folded


@dataclass(frozen=True, slots=True, kw_only=True)
class Corrections:
    """What takes the place of plain slicing; all by the names of the child's parameters."""

    mixes: Mapping[str, Mix] = field(default_factory=dict)
    """Of the inputs of matrices."""
    maps: Mapping[str, Tensor] = field(default_factory=dict)
    """[E, E] applied to what a parameter writes into the residual stream, before channels are cut."""
    dims: Mapping[str, tuple[Sequence[int], ...]] = field(default_factory=dict)
    """For every group of the teacher, an order of its query and key dimensions with the kept ones first."""
    norm_gain: bool = False
    """Whether cut norms get the gain that the missing entries took."""


def resolve(teacher: OrderedTeacher, selection: Selection) -> Cut:
    """Spell a selection out.

    Raises:
        ValueError: the teacher lacks something that is selected, or its rotary embedding cannot be preserved.
    """
    selection.require_within(teacher.ranked)
    by_depth = sorted(selection.layers, key=lambda layer: teacher.ranking[layer.layer])
    layers = tuple(_resolve_layer(teacher, selection.hidden, layer) for layer in by_depth)
    sizes = selection.architecture(teacher.architecture)
    return Cut(architecture=sizes.with_layers(tuple(layer.spec for layer in by_depth)), layers=layers)


def _resolve_layer(teacher: OrderedTeacher, hidden: Sequence[int], layer: LayerSelection) -> KeptLayer:
    depth = teacher.ranking[layer.layer]
    ranking, rope = teacher.pair_rankings[depth], teacher.layer_rope(depth)
    teacher_dim, head_dim = 2 * len(ranking), 2 * len(layer.pairs)
    turning = rotary_dims(rope, teacher_dim)
    kept = [ranking[pair] for pair in layer.pairs]
    rotary = sorted(pair for pair in kept if pair < turning // 2)
    prefix = isinstance(layer.pairs, range)
    # The paper's coarse space takes the first dimensions of a head, whatever turned with what.
    dims: Sequence[int] = range(head_dim) if prefix and teacher.rope == "rebuild" else pair_dims(kept, turning)
    if head_dim == teacher_dim:
        dims, child_rope = range(head_dim), rope
    elif teacher.rope == "rebuild":
        child_rope = rebuilt_rope(teacher.config, depth, 2 * len(rotary), head_dim)
    else:
        context = teacher.config["max_position_embeddings"]
        child_rope = rope_for_pairs(rope, rotary, teacher_dim, head_dim, context)
    return KeptLayer(
        teacher_layer=depth,
        axes={
            "hidden": hidden,
            "group": layer.groups,
            "query": layer.queries,
            "qk": dims,
            "value": range(head_dim) if teacher.singular_values or prefix else dims,
            "neuron": layer.neurons,
        },
        pairs=torch.tensor(kept),
        turning=2 * len(rotary),
        rope=child_rope,
    )


def extract_child(teacher: OrderedTeacher, selection: Selection) -> PreTrainedModel:
    """Cut a candidate out of its teacher as a dense model in evaluation mode.

    The result is of the family's stock class where that can express it, and of ours elsewhere. Weights that are
    prefixes of whole axes share the teacher's memory: pass the child through `own_weights` before it is saved or
    trained.

    Raises:
        ValueError: the teacher lacks something that is selected, or its rotary embedding cannot be preserved.
    """
    cut = resolve(teacher, selection)
    return assemble(child_state(teacher, cut), child_config(teacher, cut), cut.architecture)


def assemble(state: Mapping[str, Tensor], config: PretrainedConfig, architecture: Architecture) -> PreTrainedModel:
    """Return a model in evaluation mode around weights, without copying them.

    Args:
        state: parameters by the names of the family's table.
        config: of the model.
        architecture: the model's, layers in depth order.
    """
    model = build_empty(config)
    parameters, weights = dict(model.named_parameters()), fuse(state, architecture)
    assert parameters.keys() == weights.keys(), f"not of both: {sorted(parameters.keys() ^ weights.keys())}"
    for name, weight in weights.items():
        parameters[name].data = weight
    model.eval()
    return model


def child_state(teacher: OrderedTeacher, cut: Cut, corrections: Corrections | None = None) -> State:
    """Slice the ordered teacher, correct it, and mend the scale of attention scores and embeddings.

    Returns:
        the child's parameters by the names of the family's table.
    """
    return merged(child_parts(teacher, cut, corrections or Corrections()))


def child_parts(teacher: OrderedTeacher, cut: Cut, corrections: Corrections) -> Iterator[State]:
    """Return the parameters of a child part by part: the embedding, its layers in depth order, and the rest."""
    parts = teacher.family.parts(len(cut.layers), tied=teacher.architecture.tie_word_embeddings)
    # A loop would keep a part while the next one is made.
    return (_child_part(teacher, cut, corrections, parameters) for parameters in parts)


def _child_part(
    teacher: OrderedTeacher, cut: Cut, corrections: Corrections, parameters: Sequence[tuple[str, int | None, Axes]]
) -> State:
    family, state = teacher.family, State()
    for name, position, axes in parameters:
        layer = cut.layers[position or 0]
        source = name if position is None else teacher_name(family, name, position, layer)
        state[name], shrunk = _cut_parameter(teacher, source, axes, layer, name, corrections)
        if corrections.norm_gain and shrunk and source in teacher.norms:
            energy = float(cut_tensor(teacher, teacher.norms[source], axes, layer).mean())
            # Entries that are always zero leave no size to keep.
            _scale(state, name, energy**0.5 if energy > 0 else 1.0, family.norm_offset)
    if (position := parameters[0][1]) is None:
        _mend_embedding(state, teacher, cut)
    elif teacher.rope == "preserve":
        _mend_scores(state, teacher, cut, position)
    return state


def merged(parts: Iterable[State]) -> State:
    """Return the parameters of all parts."""
    return {name: weight for part in parts for name, weight in part.items()}


def cut_tensor(teacher: OrderedTeacher, tensor: Tensor, axes: Axes, layer: KeptLayer) -> Tensor:
    """Return what a child's layer keeps of a tensor [*axes] that is laid out as a parameter of its teacher's layer."""
    lengths = axis_lengths(teacher.architecture, teacher.architecture.layers[layer.teacher_layer])
    return slice_tensor(tensor, axes, lengths, layer.axes)


def kept_positions(teacher: OrderedTeacher, axis: Axis, layer: KeptLayer) -> Tensor:
    """Return [k] the positions that a layer of the child keeps of a dimension of its teacher's parameters."""
    lengths = axis_lengths(teacher.architecture, teacher.architecture.layers[layer.teacher_layer])
    return slice_tensor(torch.arange(prod(lengths[name] for name in axis)), (axis,), lengths, layer.axes)


def child_config(teacher: OrderedTeacher, cut: Cut) -> PretrainedConfig:
    """Return the Hugging Face configuration of a child."""
    lists = {name: [teacher.config[name][layer] for layer in cut.kept_layers] for name in teacher.family.layer_lists}
    dtype = str(teacher.weights[teacher.family.final_norm.weight].dtype).removeprefix("torch.")
    base = {**teacher.config, **lists, "dtype": dtype}
    if any(layer.rope != teacher.layer_rope(layer.teacher_layer) for layer in cut.layers):
        base[ORIGINAL] = dict(original_rope(teacher.config))
    return model_config(base, cut.architecture, [layer.rope for layer in cut.layers])


def _cut_parameter(
    teacher: OrderedTeacher, source: str, axes: Axes, layer: KeptLayer, name: str, corrections: Corrections
) -> tuple[Tensor, bool]:
    """Return what is kept of a parameter, and whether that is less than all."""
    mix = corrections.mixes.get(name)  # made before the weight is there
    whole = tensor = teacher.weights[source]
    if name in corrections.dims:
        lengths = axis_lengths(teacher.architecture, teacher.architecture.layers[layer.teacher_layer])
        tensor = permute_within_groups(tensor, axes, lengths, "qk", corrections.dims[name])
    rows = axes[:1]
    if name in corrections.maps:
        over = cut_tensor(teacher, corrections.maps[name], rows, layer).to(tensor.device, torch.float32)
        written = over @ tensor.float().reshape(len(tensor), -1)
        tensor, rows = written.reshape(-1, *tensor.shape[1:]).to(tensor.dtype), ()
    if mix is not None:
        kept = mix.fold(cut_tensor(teacher, tensor, rows, layer))
    else:
        kept = cut_tensor(teacher, tensor, axes if rows else ((), *axes[1:]), layer)
    return kept, kept.shape != whole.shape


def teacher_name(family: Family, name: str, position: int, layer: KeptLayer) -> str:
    """Return what the teacher calls a parameter of a layer of the child."""
    return f"{family.decoder}.{layer.teacher_layer}.{name.removeprefix(f'{family.decoder}.{position}.')}"


def _mend_scores(state: State, teacher: OrderedTeacher, cut: Cut, position: int) -> None:
    """Keep the teacher's attention scores in a layer.

    A stock model divides them by sqrt(d'), the teacher's by sqrt(d). What the dropped pairs would have added to their
    size, each group's kept pairs make up for.
    """
    family = teacher.family
    offset = family.norm_offset if family.query_norm else 0
    layer, spec = cut.layers[position], cut.architecture.layers[position]
    teacher_dim = teacher.architecture.layers[layer.teacher_layer].head_dim
    temperature = (spec.head_dim / teacher_dim) ** 0.5 if family.scales_by_head_dim else 1.0
    gains = temperature * _score_gains(teacher, layer)
    for name, axes in (family.query_norm or family.query).parameters:
        rows = gains if "group" in axes[0] else gains.mean(0, keepdim=True)
        if (rows != 1).any():
            full = f"{family.decoder}.{position}.{name}"
            weight = state[full]
            factors = rows.to(weight).repeat_interleave(len(weight) // len(rows))
            state[full] = (weight + offset) * factors.reshape(-1, *[1] * (weight.dim() - 1)) - offset


def _score_gains(teacher: OrderedTeacher, layer: KeptLayer) -> Tensor:
    """Return [kept groups] the size of all pairs' scores over that of the kept pairs'; one where those are zero."""
    if not teacher.score_gain:
        return torch.ones(len(layer.axes["group"]))
    scores = teacher.pair_scores[layer.teacher_layer][list(layer.axes["group"])]
    kept = scores.gather(1, layer.pairs) if layer.pairs.dim() > 1 else scores[:, layer.pairs]
    whole, rest = scores.sum(1), kept.sum(1)
    return torch.where(rest > torch.finfo(rest.dtype).eps * whole, whole / rest, 1.0)


def _mend_embedding(state: State, teacher: OrderedTeacher, cut: Cut) -> None:
    """Keep the size of embeddings, which some models multiply by the root of a hidden size that is smaller now."""
    family = teacher.family
    if not (family.scales_embedding and teacher.ordered):
        return
    factor = (teacher.architecture.hidden_size / cut.architecture.hidden_size) ** 0.5
    _scale(state, family.embedding.weight, factor)
    if teacher.architecture.tie_word_embeddings:
        # The head grows with the table that it shares; the final norm takes that back.
        _scale(state, family.final_norm.weight, 1 / factor, family.norm_offset)


def _scale(state: State, name: str, factor: float, offset: int = 0) -> None:
    if factor != 1 and name in state:
        state[name] = (state[name] + offset) * factor - offset
