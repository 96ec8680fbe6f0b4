"""Closed-form corrections of a cut: what a child keeps is made to do, as well as it can, what it lost.

Every matrix of a child multiplies the kept entries of its input. Here the removed entries are predicted from the kept
ones by least squares on calibration text, and the columns that multiplied them are folded into the kept columns. The
regression is shrunk towards plain slicing: only what was removed is predicted, features have unit variance, and a ridge
of infinite size changes nothing. More corrections give cut norms the gain that the missing entries took, let every head
group choose its own rotary pairs, and replace a run of dropped layers by a linear map of what the layer before it
writes.
"""

from collections.abc import Iterator, Sequence
from itertools import pairwise, product
from math import prod

import torch
from torch import Tensor, nn
from tqdm import tqdm
from transformers import PreTrainedModel

from budwood.arch.family import Module, axis_lengths, family_of
from budwood.arch.selection import Selection
from budwood.arch.spec import Architecture
from budwood.subnet.extract import (
    Corrections,
    Cut,
    assemble,
    child_config,
    child_state,
    extract_child,
    kept_positions,
    resolve,
    teacher_name,
    widest_dtype,
)
from budwood.subnet.ordering import OrderedTeacher
from budwood.subnet.pairs import can_choose_pairs, choose_pairs
from budwood.subnet.regression import GapMoments, InputMoments
from budwood.subnet.settings import STEPS, Compensation


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
    with the number of tokens. Without a regression there is no pass.

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
    if settings.pairs and can_choose_pairs(teacher):
        cut, dims = choose_pairs(teacher, cut)
    inputs, gaps = list(_inputs(teacher, cut, settings)), list(_gaps(teacher, cut, settings))
    watched: list[InputMoments | GapMoments] = [*inputs, *gaps]
    if watched:
        _watch(teacher, watched, windows.split(batch_size))
    corrections = Corrections(
        mixes={name: moment.mix() for moment in inputs for name in moment.readers},
        maps={name: moment.map() for moment in gaps for name in moment.writers},
        dims=dims,
        norm_gain=settings.norms,
    )
    return assemble(child_state(teacher, cut, corrections), child_config(teacher, cut), cut.architecture)


def corrections_made(teacher: OrderedTeacher, selection: Selection, settings: Compensation | None) -> tuple[str, ...]:
    """Return the names of the corrections that `compensate` makes of a candidate.

    What a candidate keeps whole needs none, and some teachers and orders have no form of one.
    """
    cut = resolve(teacher, selection)
    alone = {step: Compensation(**dict.fromkeys(STEPS, False) | {step: True}) for step in STEPS}
    made = {step: any(_inputs(teacher, cut, alone[step])) for step in ("neurons", "channels", "heads")}
    made["norms"] = any(_cut_norms(teacher, cut))
    made["layers"] = any(_gaps(teacher, cut, alone["layers"]))
    made["pairs"] = can_choose_pairs(teacher) and bool(choose_pairs(teacher, cut)[1])
    return tuple(step for step in (settings.steps if settings else ()) if made[step])


def _cut_norms(teacher: OrderedTeacher, cut: Cut) -> Iterator[bool]:
    """Yield of every norm with statistics whether entries of it are cut."""
    for name, position, axes in teacher.family.parameters(len(cut.layers), tied=True):
        layer = cut.layers[position or 0]
        source = name if position is None else teacher_name(teacher.family, name, position, layer)
        if source in teacher.norms:
            yield len(kept_positions(teacher, axes[0], layer)) < len(teacher.norms[source])


def _watch(teacher: OrderedTeacher, watched: Sequence[InputMoments | GapMoments], batches: Sequence[Tensor]) -> None:
    """Let the whole teacher read text while moments are gathered."""
    # A model of its own: the hooks go with it.
    parent = extract_child(teacher, Selection.prefix(teacher.ranked))
    nn.Module.to(parent, teacher.weights[teacher.family.final_norm.weight].device, widest_dtype(parent))
    for moments in watched:
        moments.attach(parent)
    for batch in tqdm(batches, desc="compensation", unit="batch", dynamic_ncols=True):
        parent.base_model(input_ids=batch.to(parent.device), use_cache=False)


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


def count_gaps(kept: Sequence[int], depth: int) -> int:
    """Return how many runs of dropped layers follow a kept one.

    Args:
        kept: layers of the teacher that are kept, ascending.
        depth: layers of the teacher.
    """
    return sum(following > layer + 1 for layer, following in pairwise([*kept, depth]))


def _inputs(teacher: OrderedTeacher, cut: Cut, settings: Compensation) -> Iterator[InputMoments]:
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
            yield InputMoments(family.layer_path(layer.teacher_layer, stored), readers, kept, length, ridge, first)
    kept = kept_positions(teacher, family.head.axes[1], cut.layers[0])
    if settings.channels and len(kept) < width and not teacher.architecture.tie_word_embeddings:
        yield InputMoments(family.final_norm.name, (family.head.weight,), kept, width, settings.channel_ridge, 1)


def _gaps(teacher: OrderedTeacher, cut: Cut, settings: Compensation) -> Iterator[GapMoments]:
    """Yield the runs of dropped layers that follow a kept one."""
    family, depth = teacher.family, teacher.architecture.num_hidden_layers
    if not settings.layers or family.output_norms:
        return
    kept = [layer.teacher_layer for layer in cut.layers]
    for position, (layer, following) in enumerate(zip(kept, [*kept[1:], depth], strict=True)):
        if following > layer + 1:
            yield GapMoments(
                writer=family.layer_path(layer, family.mlp_out),
                writers=tuple(f"{family.decoder}.{position}.{name}" for name, _ in family.mlp_out.parameters),
                before=f"{family.decoder}.{layer}",
                after=f"{family.decoder}.{following}" if following < depth else family.final_norm.name,
                width=teacher.architecture.hidden_size,
                ridge=settings.layer_ridge,
            )
