"""Second moments of what a teacher's matrices read, gathered one layer at a time.

The hidden states of calibration text are carried from layer to layer, so memory grows neither with the number of tokens
that a moment has seen nor with the depth of the teacher.
"""

from collections.abc import Collection, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

import numpy as np
import torch
from torch import Tensor, nn
from tqdm import tqdm

from budwood.arch.selection import Selection
from budwood.models.checkpoint import build_empty
from budwood.models.stream import LayerStream, States, fill, headless, hollow, outputs_of
from budwood.records.hashes import fingerprint_folder
from budwood.subnet.extract import Cut, child_config, resolve
from budwood.subnet.ordering import OrderedTeacher
from budwood.subnet.regression import first_direction, regress_tokens, token_weights

# Shape legend: E hidden size, N sequences, T tokens of a sequence, n entries of an input.

Gap = tuple[int, int]
"""A kept layer, and the next kept one or the number of layers; those between are dropped."""


@dataclass(frozen=True, slots=True)
class InputMoment:
    """What is known of an input that some matrices of a teacher share."""

    moment: Tensor
    """[n, n] mean of the outer products of its entries."""
    held: Tensor
    """[n] a direction in which nothing may change, see `first_direction`; zeros without one."""


@dataclass(frozen=True, slots=True)
class Passage:
    """A teacher's stream around a kept layer, in the channels that a child keeps."""

    before: States
    """Into the layer."""
    between: States
    """Behind its attention."""
    after: States
    """Behind its MLP and the layers that are dropped after it."""


class Moments(Protocol):
    """What corrections follow from."""

    def input(self, module: str) -> InputMoment:
        """Return the moment of the input that a module of the teacher reads."""
        ...

    def gap(self, gap: Gap) -> Tensor:
        """Return [E, E] what takes the output of a kept layer's MLP over the layers that are dropped after it."""
        ...


@dataclass(frozen=True, slots=True)
class StoredMoments:
    """Moments in a folder, a file each, mapped into memory when they are asked for."""

    folder: Path

    @property
    def fingerprint(self) -> str:
        """Distinguishes these moments from others."""
        return fingerprint_folder(self.folder, "*.npy")

    def input(self, module: str) -> InputMoment:
        """Return the moment of an input."""
        return InputMoment(self._read(module), self._read(f"{module}.held"))

    def gap(self, gap: Gap) -> Tensor:
        """Return [H, H] the map over a gap."""
        return self._read("gap.{}.{}".format(*gap))

    def add_input(self, module: str, moment: InputMoment) -> None:
        """Keep the moment of an input."""
        self._write(module, moment.moment)
        self._write(f"{module}.held", moment.held)

    def add_gap(self, gap: Gap, over: Tensor) -> None:
        """Keep [H, H] the map over a gap."""
        self._write("gap.{}.{}".format(*gap), over)

    def _read(self, name: str) -> Tensor:
        # Copy on write: torch takes no array that cannot be written to.
        return torch.from_numpy(np.load(self.folder / f"{name}.npy", mmap_mode="c"))

    def _write(self, name: str, tensor: Tensor) -> None:
        np.save(self.folder / f"{name}.npy", tensor.float().cpu().numpy())


class StreamedMoments:
    """Moments that are gathered when they are asked for, in the order of the teacher's layers.

    Inputs of a layer are asked for before those of later ones, before gaps that end later, and before the passage of
    the layer.
    """

    def __init__(
        self,
        teacher: OrderedTeacher,
        batches: Sequence[Tensor],
        inputs: Mapping[str, int],
        gaps: Collection[Gap],
        *,
        gap_ridge: float,
        passages: Cut | None = None,
    ) -> None:
        """Read the embeddings.

        Args:
            teacher: the ordered teacher.
            batches: [N, T] token ids of calibration text each.
            inputs: all that will be asked for, by the path of the module that reads each, or of the final norm, that
                makes it; with the number of positions at the beginning of a sequence that are left as they are.
            gaps: all that will be asked for.
            gap_ridge: of the regressions over gaps.
            passages: the cut of which every layer's passage will be asked for; none without it.
        """
        self._family, self._ridge = teacher.family, gap_ridge
        self._watched, self._gaps = inputs, set(gaps)
        self._stream, self._scale = teacher_stream(teacher, batches), residual_scale(teacher)
        self._followed = frozenset(passages.kept_layers) if passages else frozenset[int]()
        channels = passages.layers[0].axes["hidden"] if passages else ()
        self._channels = torch.tensor(channels, dtype=torch.long, device=teacher.device)
        self._starts: dict[int, _Start] = {}
        self._inputs: dict[str, InputMoment] = {}
        self._passed: dict[int, tuple[States, States]] = {}
        self._bar = tqdm(
            total=self._stream.num_layers,
            desc="compensation",
            unit="layer",
            dynamic_ncols=True,
            disable=not (inputs or gaps),  # a refit has a bar of its own
        )

    def input(self, module: str) -> InputMoment:
        """Return the moment of an input, once; the text is read up to its layer."""
        while module not in self._inputs and self._stream.depth < self._stream.num_layers:
            self._read_layer()
        if module not in self._inputs:
            assert module == self._family.final_norm.name, f"{module} was read before layer {self._stream.depth}"
            self._read_norm(module)
        return self._inputs.pop(module)

    def gap(self, gap: Gap) -> Tensor:
        """Return [H, H] the map over a gap, once; the text is read up to its end."""
        start, end = gap
        self._inputs = {}
        self._read_to(end)
        over = self._starts[start].map(self._stream.states, self._ridge)
        if (start, end) == max(gap for gap in self._gaps if gap[0] == start):
            del self._starts[start]  # no later gap begins there
        return over

    def passage(self, layer: int, following: int) -> Passage:
        """Return the stream around a kept layer, once; the text is read up to the next kept one, or to the end."""
        self._read_to(following)
        before, between = self._passed.pop(layer)
        return Passage(before, between, self._narrowed(self._stream.states))

    def _narrowed(self, states: States) -> States:
        return [each.index_select(-1, self._channels) for each in states]

    def _read_to(self, depth: int) -> None:
        while self._stream.depth < depth:
            self._read_layer()
        assert self._stream.depth == depth, f"the text was read to layer {self._stream.depth}, past {depth}"

    @torch.no_grad()
    def _read_layer(self) -> None:
        """Let a layer read all text, and note what is wanted of it."""
        depth = self._stream.depth
        place = f"{self._family.decoder}.{depth}."
        needed = {start for start, end in self._gaps if end > depth}
        self._starts = {start: kept for start, kept in self._starts.items() if start in needed}
        sums = {name: _Sum(first) for name, first in self._watched.items() if name.startswith(place)}
        if sums:
            self._inputs = {}
        layer = self._stream.next_layer()
        with ExitStack() as watching:
            for name, total in sums.items():
                reader = layer.get_submodule(name.removeprefix(place))
                watching.enter_context(reader.register_forward_pre_hook(total.hook))
            begins, came = any(start == depth for start, _ in self._gaps), self._stream.states
            written: States = []
            if begins or depth in self._followed:
                written = watching.enter_context(outputs_of(layer.get_submodule(self._family.mlp_out.name)))
            self._stream.pass_on(self._stream.returned())
        if sums:
            self._inputs = {name: total.moment() for name, total in sums.items()}
        if begins:
            self._starts[depth] = _Start([self._scale * added for added in written], self._stream.states)
        if depth in self._followed:
            streams = zip(self._narrowed(self._stream.states), self._narrowed(written), strict=True)
            self._passed[depth] = self._narrowed(came), [after - self._scale * added for after, added in streams]
        self._bar.update()

    @torch.no_grad()
    def _read_norm(self, module: str) -> None:
        self._inputs = {}
        norm, total = self._stream.model.get_submodule(module), _Sum(self._watched[module])
        for states in self._stream.states:
            total.add(norm(states))
        self._inputs = {module: total.moment()}


def teacher_stream(teacher: OrderedTeacher, batches: Sequence[Tensor]) -> LayerStream:
    """Return the stream of the whole ordered teacher, of which a layer at a time is in memory.

    Args:
        teacher: the ordered teacher.
        batches: [N, T] token ids each.
    """
    family, whole = teacher.family, resolve(teacher, Selection.prefix(teacher.ranked))
    model = headless(hollow(build_empty(child_config(teacher, whole)), family.decoder, teacher.device, teacher.dtype))
    outer = [name for module in (family.embedding, family.final_norm) for name, _ in module.parameters]
    fill(model, {name: teacher.weights[name].to(teacher.dtype) for name in outer})
    return LayerStream(model, family.decoder, batches, teacher.layer)


def residual_scale(teacher: OrderedTeacher) -> float:
    """Return the factor of what attention and MLPs add to the stream."""
    multiplier = teacher.family.residual_multiplier
    return float(teacher.config[multiplier]) if multiplier else 1.0


@dataclass(slots=True)
class _Start:
    """Where a gap begins."""

    written: States
    """What the kept layer's MLP added to the stream."""
    before: States
    """The stream that goes into the gap."""

    def map(self, after: States, ridge: float) -> Tensor:
        """Return [E, E] the identity and the regression of what the gap adds on what was written.

        Tokens count by the inverse square of their size after the gap, as norms will see them. The first position is
        left as it is.
        """
        missing = (came.float() - before.float() for came, before in zip(after, self.before, strict=True))
        predicted = regress_tokens(self.written, missing, token_weights(after), ridge, first=1)
        return torch.eye(len(predicted), device=predicted.device) + predicted


@dataclass(slots=True)
class _Sum:
    """A moment that grows batch by batch."""

    first: int
    total: Tensor = field(default_factory=lambda: torch.zeros(()))
    firsts: States = field(default_factory=list)
    tokens: int = 0

    def hook(self, _: nn.Module, inputs: tuple[Tensor]) -> None:
        self.add(inputs[0])

    def add(self, inputs: Tensor) -> None:
        entries = inputs[:, self.first :].float().flatten(0, -2)
        if not self.firsts:
            self.total = entries.new_zeros(2 * entries.shape[1:])
        self.total.addmm_(entries.T, entries)
        self.firsts.append(inputs[:, : self.first].float().flatten(0, -2))
        self.tokens += len(entries)

    def moment(self) -> InputMoment:
        return InputMoment(self.total.div_(self.tokens), first_direction(torch.cat(self.firsts)))
