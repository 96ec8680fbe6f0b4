"""Closed-form corrections of a cut: what a child keeps is made to do, as well as it can, what it lost.

Every matrix of a child multiplies the kept entries of its input. Here the removed entries are predicted from the kept
ones by least squares on calibration text, and the columns that multiplied them are folded into the kept columns. The
regression is shrunk towards plain slicing: only what was removed is predicted, features have unit variance, and a ridge
of infinite size changes nothing. More corrections give cut norms the gain that the missing entries took, let every head
group choose its own rotary pairs, and replace a run of dropped layers by a linear map of what the layer before it
writes.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise, product
from math import prod
from typing import ClassVar

import torch
from torch import Tensor, nn
from tqdm import tqdm
from transformers import PreTrainedModel

from budwood.arch.count import forward_flops_per_token
from budwood.arch.family import Module, axis_lengths, family_of
from budwood.arch.selection import Selection
from budwood.arch.spec import Architecture
from budwood.subnet.extract import (
    Corrections,
    Cut,
    KeptLayer,
    assemble,
    child_config,
    child_state,
    extract_child,
    kept_positions,
    resolve,
)
from budwood.subnet.ordering import OrderedTeacher
from budwood.subnet.rotary import pair_dims, rope_for_pairs, rotary_dims
from budwood.subnet.slicing import Indices

# Shape legend: T tokens, E hidden size, n entries of an input, k kept ones.

STEPS = ("norms", "neurons", "channels", "heads", "layers", "pairs")
"""Names of the corrections."""

_TINY = 1e-12


@dataclass(frozen=True, slots=True, kw_only=True)
class Compensation:
    """Which corrections are made, and how strongly regressions are shrunk; a ridge is relative to unit variance."""

    norms: bool = True
    """Norms that lose entries get the gain that those took; needs an ordering by activation."""
    neurons: bool = True
    """Removed neurons are predicted from kept ones."""
    channels: bool = True
    """Removed channels of the residual stream are predicted from kept ones."""
    heads: bool = True
    """Removed heads and value dimensions are predicted from kept ones."""
    layers: bool = True
    """Runs of dropped layers become a linear map; not where outputs are normalised before they are added."""
    pairs: bool = True
    """Every head group keeps its own rotary pairs, turned at frequencies that all share; not where one norm weights
    the dimensions of all heads alike."""
    neuron_ridge: float = 0.3
    channel_ridge: float = 0.3
    head_ridge: float = 0.1
    layer_ridge: float = 0.3

    # pydantic reads this where a configuration holds the class.
    __pydantic_config__: ClassVar = {"extra": "forbid"}

    def __post_init__(self) -> None:
        """Refuse ridges that no regression can have.

        Raises:
            ValueError: a ridge is not positive.
        """
        for name in ("neuron_ridge", "channel_ridge", "head_ridge", "layer_ridge"):
            if not getattr(self, name) > 0:
                raise ValueError(f"{name} must be positive, got {getattr(self, name)}")

    @property
    def steps(self) -> tuple[str, ...]:
        """Names of the corrections that are made."""
        return tuple(name for name in STEPS if getattr(self, name))


def cut_out(
    teacher: OrderedTeacher,
    selection: Selection,
    windows: Tensor,
    settings: Compensation | None,
    *,
    batch_size: int = 4,
) -> PreTrainedModel:
    """Cut a candidate out of its teacher as it is exported: corrected where corrections are wanted.

    Args and errors: those of `compensate`.
    """
    if settings and settings.steps:
        return compensate(teacher, selection, windows, settings, batch_size=batch_size)
    return extract_child(teacher, selection)


@torch.no_grad()
def compensate(
    teacher: OrderedTeacher, selection: Selection, windows: Tensor, settings: Compensation, *, batch_size: int = 4
) -> PreTrainedModel:
    """Cut a candidate out of its teacher and correct it; see `budwood.subnet.extract.extract_child`.

    One pass over calibration text gathers second moments of the inputs of the teacher's matrices: memory does not grow
    with the number of tokens.

    Args:
        teacher: the ordered teacher.
        selection: the candidate.
        windows: [number of sequences, length] token ids of calibration text.
        settings: which corrections are made.
        batch_size: sequences per forward pass.

    Returns:
        the child in evaluation mode.

    Raises:
        ValueError: the teacher lacks something that is selected, or its rotary embedding cannot be preserved.
    """
    cut = resolve(teacher, selection)
    dims: dict[str, tuple[tuple[int, ...], ...]] = {}
    if settings.pairs and _can_choose_pairs(teacher):
        cut, dims = _choose_pairs(teacher, cut)
    watch = _Watch(teacher, cut, settings)
    parent = extract_child(teacher, Selection.prefix(teacher.ranked))
    nn.Module.to(parent, teacher.weights[teacher.family.final_norm.weight].device)
    watch.attach(parent)
    for batch in tqdm(windows.split(batch_size), desc="compensation", unit="batch", dynamic_ncols=True):
        parent.base_model(input_ids=batch.to(parent.device), use_cache=False)
    state = child_state(teacher, cut, watch.corrections(dims))
    return assemble(state, child_config(teacher, cut), cut.architecture)


def regression_flops(
    teacher: Architecture, child: Architecture, settings: Compensation, *, num_tokens: int, num_gaps: int
) -> float:
    """Return the FLOPs of the moments and regressions behind corrections, beside the teacher's pass over the text.

    An input of n entries of which k are kept takes 2kn for every token and k^3/3 + 2k^2(n - k) to solve (Cholesky); a
    gap of dropped layers takes 4E^2 for every token and E^3/3 + 2E^3.

    Args:
        teacher: what is cut; its layers are taken to be alike where the child keeps only some.
        child: what is left of it.
        settings: which corrections are made.
        num_tokens: of calibration text.
        num_gaps: runs of dropped layers that follow a kept one.
    """
    family, width, kept = family_of(teacher.family), teacher.hidden_size, child.hidden_size
    inputs: list[tuple[int, int]] = []
    for spec, whole in zip(child.layers, teacher.layers, strict=False):
        inputs += [(kept, width)] * (2 if settings.channels else 0)
        if settings.heads:
            inputs.append((spec.num_attention_heads * spec.head_dim, whole.num_attention_heads * whole.head_dim))
        if settings.neurons:
            inputs.append((spec.intermediate_size, whole.intermediate_size))
    if settings.channels and not teacher.tie_word_embeddings:
        inputs.append((kept, width))
    flops = sum(2 * k * n * num_tokens + k**3 / 3 + 2 * k**2 * (n - k) for k, n in inputs if k < n)
    gaps = num_gaps if settings.layers and not family.output_norms else 0
    return flops + gaps * (4 * width**2 * num_tokens + width**3 / 3 + 2 * width**3)


def compensation_flops(
    teacher: Architecture, cut: Cut, settings: Compensation, num_sequences: int, length: int
) -> float:
    """Return what it costs to correct a cut: the teacher's pass over calibration text, and the regressions.

    Args:
        teacher: what was cut.
        cut: what is kept of it.
        settings: which corrections are made.
        num_sequences: of calibration text.
        length: tokens of a sequence.
    """
    tokens = num_sequences * length
    gaps = count_gaps([layer.teacher_layer for layer in cut.layers], teacher.num_hidden_layers)
    regressions = regression_flops(teacher, cut.architecture, settings, num_tokens=tokens, num_gaps=gaps)
    return regressions + tokens * forward_flops_per_token(teacher, context=length)


def count_gaps(kept: Sequence[int], depth: int) -> int:
    """Return how many runs of dropped layers follow a kept one.

    Args:
        kept: layers of the teacher that are kept, ascending.
        depth: layers of the teacher.
    """
    return sum(following > layer + 1 for layer, following in pairwise([*kept, depth]))


def _can_choose_pairs(teacher: OrderedTeacher) -> bool:
    shared = any("group" not in norm.axes[0] for norm in teacher.family.head_norms)
    return teacher.rope == "preserve" and bool(teacher.pair_scores) and not shared


def _choose_pairs(teacher: OrderedTeacher, cut: Cut) -> tuple[Cut, dict[str, tuple[tuple[int, ...], ...]]]:
    """Let every group keep its own most important rotary pairs, as many as the cut keeps.

    The k-th fastest kept pairs of all groups turn at one frequency, the median of theirs: over all layers that turn
    alike where the child's layers have one size, as stock classes need, else within each layer.

    Returns:
        the cut with its rotary parameters, and the dimensions of every group with the kept ones first, by parameter.
    """
    family = teacher.family
    chosen = [_best_pairs(teacher, layer) for layer in cut.layers]
    kept = [pairs[list(layer.axes["group"])] for pairs, layer in zip(chosen, cut.layers, strict=True)]
    layers, dims = [], {}
    turns_alike = cut.architecture.is_uniform and all(layer.rope == cut.layers[0].rope for layer in cut.layers)
    for position, (layer, pairs) in enumerate(zip(cut.layers, chosen, strict=True)):
        head_dim = cut.architecture.layers[position].head_dim
        teacher_dim = teacher.architecture.layers[layer.teacher_layer].head_dim
        if head_dim == teacher_dim or not layer.turning:
            layers.append(layer)
            continue
        rope, context = teacher.layer_rope(layer.teacher_layer), teacher.config["max_position_embeddings"]
        slots = torch.cat(kept if turns_alike else [kept[position]]).double().quantile(0.5, dim=0).tolist()
        own_rope = rope_for_pairs(rope, slots, teacher_dim, head_dim, context)
        turning = rotary_dims(rope, teacher_dim)
        plain_pairs = layer.pairs[layer.pairs >= turning // 2].repeat(len(kept[position]), 1)
        all_pairs = torch.cat([kept[position], plain_pairs], 1)
        layers.append(replace(layer, axes={**layer.axes, "qk": range(head_dim)}, pairs=all_pairs, rope=own_rope))
        plain = [dim for dim in layer.axes["qk"] if dim >= turning]
        orders = tuple(_kept_first((*pair_dims(group, turning), *plain), teacher_dim) for group in pairs.tolist())
        for module in (family.query, family.key, *family.head_norms):
            for name, _ in module.parameters:
                dims[f"{family.decoder}.{position}.{name}"] = orders
    return replace(cut, layers=tuple(layers)), dims


def _best_pairs(teacher: OrderedTeacher, layer: KeptLayer) -> Tensor:
    """Return [G, k] the rotary pairs that matter most to every group, ascending."""
    turning = rotary_dims(teacher.layer_rope(layer.teacher_layer), 2 * len(teacher.pair_rankings[layer.teacher_layer]))
    scores = teacher.pair_scores[layer.teacher_layer][:, : turning // 2]
    return scores.topk(layer.turning // 2, dim=1).indices.sort(dim=1).values


def _kept_first(kept: tuple[int, ...], length: int) -> tuple[int, ...]:
    return (*kept, *sorted(set(range(length)) - set(kept)))


class _Watch:
    """What is gathered of the teacher's activations while it reads calibration text."""

    def __init__(self, teacher: OrderedTeacher, cut: Cut, settings: Compensation) -> None:
        self.norm_gain = settings.norms
        self.inputs = list(_inputs(teacher, cut, settings))
        maps = settings.layers and not teacher.family.output_norms
        self.gaps = list(_gaps(teacher, cut, settings)) if maps else []

    def attach(self, parent: PreTrainedModel) -> None:
        """Put hooks on a model of the whole teacher, which is dropped when it has read the text."""
        for watched in self.inputs:
            watched.attach(parent)
        for gap in self.gaps:
            parent.get_submodule(gap.writer).register_forward_hook(gap.keep_written)
            parent.get_submodule(gap.before).register_forward_hook(gap.keep_before)
            parent.get_submodule(gap.after).register_forward_pre_hook(gap.add)

    def corrections(self, dims: Mapping[str, tuple[Indices, ...]]) -> Corrections:
        """Solve all regressions."""
        mixes = {name: watched.mix() for watched in self.inputs for name in watched.readers}
        maps = {name: gap.map() for gap in self.gaps for name in gap.writers}
        return Corrections(mixes=mixes, maps=maps, dims=dims, norm_gain=self.norm_gain)


class _Input:
    """Second moments of the kept entries of an input, that some matrices share, with all of its entries."""

    def __init__(
        self, module: str, readers: tuple[str, ...], kept: Tensor, length: int, ridge: float, first: int
    ) -> None:
        self.module, self.readers, self.kept, self.ridge, self.first = module, readers, kept, ridge, first
        self.moment = torch.zeros(len(kept), length)
        self.massive = torch.zeros(len(kept), len(kept)) if first else None
        self.tokens = 0

    def attach(self, parent: PreTrainedModel) -> None:
        """Watch the input of a matrix of the teacher; that of its head is the output of the final norm."""
        module = parent.get_submodule(self.module)
        if isinstance(module, nn.Linear):
            module.register_forward_pre_hook(self.add)
        else:
            module.register_forward_hook(lambda module, _, output: self.add(module, (output,)))

    def add(self, _: nn.Module, inputs: tuple[Tensor]) -> None:
        """Add the tokens of a batch, from the first position that counts on."""
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


def without_massive(moment: Tensor) -> Tensor:
    """Return [k, k] the projection that passes over the direction in which first positions are largest.

    Massive activations of the first position have one direction: what is regressed on all other positions and passes
    over it leaves the first position, and the attention that rests there, as they are.

    Args:
        moment: [k, k] second moment of first positions.
    """
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
    if massive is not None:
        seen = without_massive(massive)
        return seen @ regress(seen @ moment @ seen, seen @ target, ridge)
    scale = moment.diagonal().clamp_min(_TINY).sqrt()
    correlations = moment / scale[:, None] / scale + ridge * torch.eye(len(moment), dtype=moment.dtype)
    solution = torch.cholesky_solve(target / scale[:, None], torch.linalg.cholesky(correlations))
    return solution / scale[:, None]


class _Gap:
    """Dropped layers after a kept one: what they would have added, regressed on what its MLP writes.

    Tokens count by the inverse square of their size after the gap, as norms will see them. The first position is left
    as it is, as in `without_massive`.
    """

    def __init__(
        self, writer: str, writers: tuple[str, ...], before: str, after: str, width: int, ridge: float
    ) -> None:
        self.writer, self.writers, self.before, self.after, self.ridge = writer, writers, before, after, ridge
        self.moment, self.target = torch.zeros(width, width), torch.zeros(width, width)
        self.massive = torch.zeros(width, width)
        self.tokens = 0
        self._written = self._before = torch.empty(0)

    def keep_written(self, _: nn.Module, inputs: tuple[Tensor], output: Tensor) -> None:
        """Keep what the MLP writes until the batch has passed the gap."""
        del inputs
        first = output[:, 0].float()
        self.massive += (first.T @ first).cpu()
        self._written = output[:, 1:].float().flatten(0, 1)

    def keep_before(self, _: nn.Module, inputs: tuple[Tensor], output: Tensor) -> None:
        """Keep the residual stream before the gap."""
        del inputs
        self._before = output[:, 1:].float().flatten(0, 1)

    def add(self, _: nn.Module, inputs: tuple[Tensor]) -> None:
        """Add the tokens of a batch, which has passed the gap."""
        after = inputs[0][:, 1:].float().flatten(0, 1)
        weight = after.square().mean(-1, keepdim=True).rsqrt()
        written, missing = self._written * weight, (after - self._before) * weight
        self.moment += (written.T @ written).cpu()
        self.target += (written.T @ missing).cpu()
        self.tokens += len(after)

    def map(self) -> Tensor:
        """Return [E, E] what takes the MLP's output over the gap: the identity and the regression."""
        moment, target = self.moment.double() / self.tokens, self.target.double() / self.tokens
        identity = torch.eye(len(moment), dtype=torch.float64)
        return identity + regress(moment, target, self.ridge, self.massive).T


def _inputs(teacher: OrderedTeacher, cut: Cut, settings: Compensation) -> Iterator[_Input]:
    """Yield the inputs of which a cut removes a part."""
    family, width = teacher.family, teacher.architecture.hidden_size
    kinds: list[tuple[bool, tuple[Module, ...], float, int]] = [
        # Massive activations at the first position would drown all others.
        (settings.channels, (family.query, family.key, family.value), settings.channel_ridge, 1),
        (settings.channels, family.mlp_in, settings.channel_ridge, 1),
        (settings.heads, (family.output,), settings.head_ridge, 0),
        (settings.neurons, (family.mlp_out,), settings.neuron_ridge, 0),
    ]
    wanted = [kind for kind in kinds if kind[0]]
    for (position, layer), (_, modules, ridge, first) in product(enumerate(cut.layers), wanted):
        kept = kept_positions(teacher, modules[0].axes[1], layer)
        lengths = axis_lengths(teacher.architecture, teacher.architecture.layers[layer.teacher_layer])
        length = prod(lengths[name] for name in modules[0].axes[1])
        if len(kept) < length:
            stored = family.fused if family.fused and modules[0] == family.query else modules[0]
            readers = tuple(family.layer_weight(position, module) for module in modules)
            yield _Input(family.layer_path(layer.teacher_layer, stored), readers, kept, length, ridge, first)
    kept = kept_positions(teacher, family.head.axes[1], cut.layers[0])
    if settings.channels and len(kept) < width and not teacher.architecture.tie_word_embeddings:
        yield _Input(family.final_norm.name, (family.head.weight,), kept, width, settings.channel_ridge, 1)


def _gaps(teacher: OrderedTeacher, cut: Cut, settings: Compensation) -> Iterator[_Gap]:
    """Yield the runs of dropped layers that follow a kept one."""
    family, depth = teacher.family, teacher.architecture.num_hidden_layers
    kept = [layer.teacher_layer for layer in cut.layers]
    for position, (layer, following) in enumerate(zip(kept, [*kept[1:], depth], strict=True)):
        if following > layer + 1:
            yield _Gap(
                writer=family.layer_path(layer, family.mlp_out),
                writers=tuple(f"{family.decoder}.{position}.{name}" for name, _ in family.mlp_out.parameters),
                before=f"{family.decoder}.{layer}",
                after=f"{family.decoder}.{following}" if following < depth else family.final_norm.name,
                width=teacher.architecture.hidden_size,
                ridge=settings.layer_ridge,
            )
