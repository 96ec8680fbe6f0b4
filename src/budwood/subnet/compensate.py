"""Closed-form corrections of a cut: what a child keeps is made to do, as well as it can, what it lost.

Every matrix of a child multiplies the kept entries of its input. Here the removed entries are predicted from the kept
ones by least squares on calibration text, and the columns that multiplied them are folded into the kept columns. The
regression is shrunk towards plain slicing: only what was removed is predicted, features have unit variance, and a ridge
of infinite size changes nothing. More corrections give cut norms the gain that the missing entries took, let every head
group choose its own rotary pairs, and replace a run of dropped layers by a linear map of what the layer before it
writes.

All of it follows from second moments of the whole teacher, so moments that are gathered once serve every candidate.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from itertools import chain, combinations, pairwise, product
from math import prod
from pathlib import Path

import torch
from torch import Tensor
from transformers import PretrainedConfig, PreTrainedModel

from budwood.arch.family import Module, axis_lengths, family_of
from budwood.arch.selection import Selection
from budwood.arch.spec import Architecture
from budwood.models.certificate import Expected, expect
from budwood.models.checkpoint import build_empty
from budwood.models.device import release_memory
from budwood.models.export import writing_parts
from budwood.models.tensors import Lazy, State, fuse
from budwood.subnet.balance import balanced
from budwood.subnet.extract import (
    Corrections,
    Cut,
    Mix,
    assemble,
    child_config,
    child_parts,
    child_state,
    kept_positions,
    merged,
    resolve,
    teacher_name,
)
from budwood.subnet.flops import maps_layers, refits
from budwood.subnet.moments import Gap, InputMoment, Moments, StoredMoments, StreamedMoments
from budwood.subnet.ordering import OrderedTeacher
from budwood.subnet.pairs import can_choose_pairs, choose_pairs
from budwood.subnet.refit import fitted_layers
from budwood.subnet.regression import regress
from budwood.subnet.settings import NO_CORRECTION, STEPS, Compensation

_WIDE = 2048
"""Entries of an input from which on its solution leaves holes of megabytes; to hand back smaller ones takes as long as
solving."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Parts:
    """A child that is made part by part, so that neither it nor its teacher is ever whole in memory."""

    architecture: Architecture
    """Layers in depth order."""
    config: PretrainedConfig
    states: Iterator[State]
    """The embedding, the layers in depth order, and the rest: parameters by the names of the family's table."""

    def assemble(self) -> PreTrainedModel:
        """Make all parts and return the child, in evaluation mode."""
        return assemble(merged(self.states), self.config, self.architecture)


def cut_out(
    teacher: OrderedTeacher,
    selection: Selection,
    windows: Tensor,
    settings: Compensation | None,
    refit_windows: Tensor | None = None,
    *,
    batch_size: int = 4,
) -> Parts:
    """Cut a candidate out of its teacher as it is exported: corrected where corrections are wanted.

    The teacher reads calibration text layer by layer, and every layer is corrected as soon as it has: the weights and
    moments of one are in memory at a time. Without a regression nothing is read.

    Args:
        teacher: the ordered teacher; of weights that are on disk one layer is in memory at a time.
        selection: the candidate.
        windows: [number of sequences, length] token ids of calibration text.
        settings: which corrections are made; none without them.
        refit_windows: the same of the text to which the candidate is refitted; `windows` without them.
        batch_size: sequences per forward pass.

    Raises:
        ValueError: the teacher lacks something that is selected, or its rotary embedding cannot be preserved.
    """
    cut, settings = resolve(teacher, selection), settings or NO_CORRECTION
    texts = [text.split(batch_size) for text in (windows, windows if refit_windows is None else refit_windows)]
    refitted = cut if refits(teacher.architecture, cut.architecture, settings) else None
    inputs, gaps = list(_inputs(teacher, cut, settings)), _gaps(teacher, cut, settings)
    # One text is read once, for the regressions and for the refit.
    together = refit_windows is None or torch.equal(windows, refit_windows)
    moments = None
    if inputs or gaps:
        moments = _stream(teacher, texts[0], inputs, gaps, settings, refitted if together else None)
    cut, corrections = _corrections(teacher, cut, settings, moments)
    config, states = child_config(teacher, cut), child_parts(teacher, cut, corrections)
    if refitted:
        whole = moments if moments and together else _stream(teacher, texts[1], [], [], settings, refitted)
        # Whatever fitted the layers goes before the head is made.
        states = chain(fitted_layers(states, teacher, cut, whole, texts[1], settings.refit_ridge), states)
    if teacher.singular_values:
        states = balanced(states, cut.architecture)
    return Parts(architecture=cut.architecture, config=config, states=states)


def write_cut(
    parts: Parts, teacher_folder: Path, target: Path, tokens: Tensor, device: torch.device
) -> tuple[Path, Expected]:
    """Write a child as it is made, and run the texts of its proof through it.

    Args:
        parts: the child.
        teacher_folder: has the tokenizer and the generation settings.
        target: its folder.
        tokens: [T] ids of real text, see `budwood.models.certificate.expect`.
        device: where it runs.

    Returns:
        the folder, and what it must compute.
    """
    decoder = family_of(parts.architecture.family).decoder
    with writing_parts(parts.config, decoder, teacher_folder, target) as write:
        written = map(lambda state: write(fuse(state, parts.architecture)), parts.states)  # noqa: C417 - see `expect`
        expected = expect(build_empty(parts.config), written, decoder, tokens, device)
    return target, expected


@torch.no_grad()
def corrected_child(
    teacher: OrderedTeacher, cut: Cut, settings: Compensation, moments: Moments | None
) -> PreTrainedModel:
    """Return the child of a cut, corrected by what is known of the teacher's activations; it is not refitted.

    Args:
        teacher: the ordered teacher.
        cut: what is kept of it.
        settings: which corrections are made.
        moments: of the inputs that the cut makes smaller, and of its gaps; none where there are no such.
    """
    cut, corrections = _corrections(teacher, cut, settings, moments)
    return assemble(child_state(teacher, cut, corrections), child_config(teacher, cut), cut.architecture)


def _corrections(
    teacher: OrderedTeacher, cut: Cut, settings: Compensation, moments: Moments | None
) -> tuple[Cut, Corrections]:
    """Return a cut with the rotary pairs that its groups choose, and its corrections, made when they are asked for."""
    dims: dict[str, tuple[tuple[int, ...], ...]] = {}
    if settings.pairs and can_choose_pairs(teacher):
        cut, dims = choose_pairs(teacher, cut)
    inputs = {each.module: each for each in _inputs(teacher, cut, settings)}
    readers = {reader: each.module for each in inputs.values() for reader in each.readers}
    writers = _writers(teacher, cut, _gaps(teacher, cut, settings))
    corrections = Corrections(dims=dims, norm_gain=settings.norms)
    if readers or writers:
        assert moments is not None, "a regression needs moments"

        # What reads one input, or writes into one gap, is corrected one after the other.
        made = dict[str, Mix]()

        def mix(module: str) -> Mix:
            if module not in made:
                made.clear()  # the last one goes before this one is made
                made[module] = inputs[module].mix(moments.input(module), teacher.device)
            return made[module]

        over = lru_cache(maxsize=1)(moments.gap)
        mixes, maps = (Lazy(readers, lambda name: mix(readers[name])), Lazy(writers, lambda name: over(writers[name])))
        corrections = replace(corrections, mixes=mixes, maps=maps)
    return cut, corrections


def corrections_made(teacher: OrderedTeacher, selection: Selection, settings: Compensation | None) -> tuple[str, ...]:
    """Return the names of the corrections that `cut_out` makes of a candidate.

    What a candidate keeps whole needs none, and some teachers and orders have no form of one.
    """
    cut = resolve(teacher, selection)
    alone = {step: NO_CORRECTION.model_copy(update={step: True}) for step in STEPS}
    made = {step: any(_inputs(teacher, cut, alone[step])) for step in ("neurons", "channels", "heads")}
    made["norms"] = any(_cut_norms(teacher, cut))
    made["layers"] = any(_gaps(teacher, cut, alone["layers"]))
    made["refit"] = refits(teacher.architecture, cut.architecture, alone["refit"])
    made["pairs"] = can_choose_pairs(teacher) and bool(choose_pairs(teacher, cut)[1])
    return tuple(step for step in (settings.steps if settings else ()) if made[step])


def _cut_norms(teacher: OrderedTeacher, cut: Cut) -> Iterator[bool]:
    """Yield of every norm with statistics whether entries of it are cut."""
    for name, position, axes in teacher.family.parameters(len(cut.layers), tied=True):
        layer = cut.layers[position or 0]
        source = name if position is None else teacher_name(teacher.family, name, position, layer)
        if source in teacher.norms:
            yield len(kept_positions(teacher, axes[0], layer)) < len(teacher.norms[source])


def store_moments(
    teacher: OrderedTeacher,
    windows: Tensor,
    settings: Compensation,
    folder: Path,
    *,
    gaps: Sequence[Gap],
    batch_size: int = 4,
) -> StoredMoments:
    """Gather the moments from which every candidate of a teacher is corrected, into a folder.

    Args:
        teacher: the ordered teacher.
        windows: [number of sequences, length] token ids of calibration text.
        settings: which corrections are made.
        folder: exists, and is empty.
        gaps: that candidates have, see `possible_gaps`.
        batch_size: sequences per forward pass.
    """
    stored, whole = StoredMoments(folder), resolve(teacher, Selection.prefix(teacher.ranked))
    inputs = list(_inputs(teacher, whole, settings, of_all=True))
    gaps = gaps if maps_layers(teacher.architecture, settings) else ()
    moments = _stream(teacher, windows.split(batch_size), inputs, gaps, settings)
    for depth in range(teacher.architecture.num_hidden_layers + 1):
        for gap in gaps:
            if gap[1] == depth:
                stored.add_gap(gap, moments.gap(gap))
        for each in inputs:
            if each.layer == depth:
                stored.add_input(each.module, moments.input(each.module))
    return stored


def possible_gaps(teacher: OrderedTeacher, *, coarse: bool) -> tuple[Gap, ...]:
    """Return the runs of dropped layers that candidates can have.

    Args:
        teacher: the ordered teacher.
        coarse: whether candidates keep the first layers by rank; otherwise any.
    """
    depth = teacher.architecture.num_hidden_layers
    if not coarse:
        return tuple((start, end) for start, end in combinations(range(depth + 1), 2) if end > start + 1)
    kept = [sorted(teacher.ranking[:count]) for count in range(1, depth + 1)]
    return tuple(sorted({gap for layers in kept for gap in gaps_of(layers, depth)}))


def gaps_of(kept: Sequence[int], depth: int) -> list[Gap]:
    """Return the runs of dropped layers that follow a kept one."""
    return [(layer, following) for layer, following in pairwise([*kept, depth]) if following > layer + 1]


@dataclass(frozen=True, slots=True, kw_only=True)
class _Input:
    """An input that some matrices of a child share."""

    layer: int
    """Of the teacher; its number of layers for the input of the head."""
    module: str
    """Of the teacher; reads the input."""
    readers: tuple[str, ...]
    """Matrices of the child that multiply what is kept of it."""
    kept: Tensor
    """[k] entries that are kept."""
    length: int
    """Of the whole input."""
    ridge: float
    first: int
    """Positions at the beginning of a sequence that are left as they are."""

    def mix(self, known: InputMoment, device: torch.device) -> Mix:
        """Return what each kept entry represents, solved on a device."""
        is_removed = torch.ones(self.length, dtype=torch.bool)
        is_removed[self.kept] = False
        kept, removed = self.kept.to(device), is_removed.nonzero()[:, 0].to(device)
        rows, held = known.moment.to(device).index_select(0, kept), known.held.to(device)[kept]
        del known  # gigabytes of a wide layer
        parts = [rows.index_select(1, removed), rows.index_select(1, kept)]
        del rows
        shares = regress(parts.pop(), parts.pop(), self.ridge, held)
        if self.length > _WIDE:
            release_memory()
        return Mix(kept=kept, removed=removed, shares=shares.T.float())


def _stream(
    teacher: OrderedTeacher,
    batches: Sequence[Tensor],
    inputs: Sequence[_Input],
    gaps: Sequence[Gap],
    settings: Compensation,
    passages: Cut | None = None,
) -> StreamedMoments:
    watched = {each.module: each.first for each in inputs}
    return StreamedMoments(teacher, batches, watched, gaps, gap_ridge=settings.layer_ridge, passages=passages)


def _inputs(teacher: OrderedTeacher, cut: Cut, settings: Compensation, *, of_all: bool = False) -> Iterator[_Input]:
    """Yield the inputs of which a cut removes a part, in depth order; or those of all kinds that are corrected."""
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
        depth = layer.teacher_layer
        kept = kept_positions(teacher, modules[0].axes[1], layer)
        lengths = axis_lengths(teacher.architecture, teacher.architecture.layers[depth])
        length = prod(lengths[name] for name in modules[0].axes[1])
        readers = tuple(family.layer_weight(position, module) for module in modules)
        path = family.layer_path(depth, modules[0])
        if of_all or len(kept) < length:
            yield _Input(layer=depth, module=path, readers=readers, kept=kept, length=length, ridge=ridge, first=first)
    kept = kept_positions(teacher, family.head.axes[1], cut.layers[0])
    if settings.channels and (of_all or len(kept) < width) and not teacher.architecture.tie_word_embeddings:
        yield _Input(
            layer=teacher.architecture.num_hidden_layers,
            module=family.final_norm.name,
            readers=(family.head.weight,),
            kept=kept,
            length=width,
            ridge=settings.channel_ridge,
            first=1,
        )


def _gaps(teacher: OrderedTeacher, cut: Cut, settings: Compensation) -> list[Gap]:
    """Return the runs of dropped layers that are replaced by a map."""
    architecture = teacher.architecture
    return gaps_of(cut.kept_layers, architecture.num_hidden_layers) if maps_layers(architecture, settings) else []


def _writers(teacher: OrderedTeacher, cut: Cut, gaps: Sequence[Gap]) -> dict[str, Gap]:
    """Return the child's parameters that write into a gap, with the gap."""
    family, starts = teacher.family, {gap[0]: gap for gap in gaps}
    return {
        f"{family.decoder}.{position}.{name}": starts[layer.teacher_layer]
        for position, layer in enumerate(cut.layers)
        if layer.teacher_layer in starts
        for name, _ in family.mlp_out.parameters
    }
