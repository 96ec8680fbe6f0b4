"""The weights of a checkpoint, read from memory-mapped files only when they are asked for."""

from collections.abc import Callable, Iterable, Iterator, Mapping
from math import prod
from pathlib import Path
from typing import Generic, TypeVar

import torch
from torch import Tensor

from budwood.arch.family import Family, Module, family_of, layer_lengths
from budwood.arch.spec import Architecture
from budwood.models.weights import DTYPES, read_object, read_tensor, tensor_files, widest_dtype

State = dict[str, Tensor]
Made = TypeVar("Made")


class Lazy(Mapping[str, Made], Generic[Made]):
    """Something for each of some names, made again whenever it is asked for."""

    def __init__(self, names: Iterable[str], make: Callable[[str], Made]) -> None:
        """Keep the names, and what makes something of one."""
        self._names, self._make = dict.fromkeys(names), make

    def __getitem__(self, name: str) -> Made:
        """Make it.

        Raises:
            KeyError: it is none of the names.
        """
        if name not in self._names:
            raise KeyError(name)
        return self._make(name)

    def __contains__(self, name: object) -> bool:
        """Whether it is one of the names."""
        return name in self._names

    def __iter__(self) -> Iterator[str]:
        """Yield the names."""
        return iter(self._names)

    def __len__(self) -> int:
        """Return their number."""
        return len(self._names)


class CheckpointTensors(Lazy[Tensor]):
    """Parameters of a checkpoint folder by the names of its family's table; each access reads from disk.

    Each has the precision of its file; these may differ. Where one module of a family contains several, each is
    given by itself.
    """

    def __init__(self, folder: Path, architecture: Architecture) -> None:
        """Find the file of every parameter.

        Raises:
            ValueError: a file is damaged, or a parameter of the architecture is missing.
        """
        self._architecture = architecture
        family = family_of(architecture.family)
        tied, depth = architecture.tie_word_embeddings, architecture.num_hidden_layers
        self._layers = {name: layer for name, layer, _ in family.parameters(depth, tied=tied)}
        self._held = _held_names(family, depth)
        self._files = tensor_files(folder, read_object(folder / "config.json"))
        self._stored = {name: other for name, other in family.stored_names.items() if other in self._files}
        super().__init__(self._layers, self._part)
        for name in self:
            if (stored := self._stored_name(name)) not in self._files:
                raise ValueError(f"{folder} has no tensor {stored!r}, which a {family.model_type} model needs")

    def _part(self, name: str) -> Tensor:
        """Read a parameter.

        Raises:
            ValueError: its file is damaged, it is stored in another precision than models compute in, or it has
                values that are not finite.
        """
        layer, whole = self._layers[name], self._read(self._stored_name(name))
        if name not in self._held:
            return whole
        assert layer is not None, "only modules of layers contain several"
        family, spec = family_of(self._architecture.family), self._architecture.layers[layer]
        return part_of(whole, self._held[name][1], family, layer_lengths(spec))

    @property
    def dtype(self) -> torch.dtype:
        """The widest precision of all parameters, by the headers of their files."""
        return widest_dtype(self._files, {self._stored_name(name) for name in self})

    def _stored_name(self, name: str) -> str:
        return self._held[name][0] if name in self._held else self._stored.get(name, name)

    def _read(self, stored: str) -> Tensor:
        file = self._files[stored]
        tensor = read_tensor(file, stored)
        if tensor.dtype not in DTYPES.values():
            allowed = ", ".join(str(dtype).removeprefix("torch.") for dtype in DTYPES.values())
            raise ValueError(f"{file}: tensor {stored!r} is stored as {tensor.dtype}; supported: {allowed}")
        # No number and infinities pass through; `isfinite` of a whole tensor would take twice its memory.
        if not all(bound.isfinite() for bound in tensor.aminmax()):
            raise ValueError(f"{file}: tensor {stored!r} has values that are not finite")
        return tensor


def part_of(whole: Tensor, module: Module, family: Family, lengths: Mapping[str, int], dim: int = 0) -> Tensor:
    """Return the part of a module of several: of its weight, its bias or its output.

    Args:
        whole: [rows, ...] of the module that contains them.
        module: the part, by the family's table.
        family: the table entry.
        lengths: of every basic axis.
        dim: of the module's rows.
    """
    parts, dim = family.holders[module.inside or ""], dim % whole.dim()
    groups = lengths["group"] if family.alternates else 1
    sizes = [prod(lengths[name] for name in part.axes[0]) // groups for part in parts]
    pieces = whole.unflatten(dim, (groups, -1)).split(sizes, dim + 1)
    piece: Tensor = pieces[parts.index(module)]
    return piece.flatten(dim, dim + 1)


def fuse(state: Mapping[str, Tensor], architecture: Architecture) -> State:
    """Return a state under the names of the family's model class, in which one module may contain several.

    Args:
        state: parameters by the names of the family's table; whole layers, not necessarily all of them.
        architecture: the model's, layers in depth order.
    """
    family = family_of(architecture.family)
    held = _held_names(family, architecture.num_hidden_layers)
    joined = {name: tensor for name, tensor in state.items() if name not in held}
    parts: dict[str, list[str]] = {}
    for name, (stored, _) in held.items():
        if name in state:
            parts.setdefault(stored, []).append(name)
    for stored, names in parts.items():
        layer = int(stored.removeprefix(f"{family.decoder}.").split(".")[0])
        groups = architecture.layers[layer].num_key_value_heads if family.alternates else 1
        joined[stored] = torch.cat([state[name].unflatten(0, (groups, -1)) for name in names], 1).flatten(0, 1)
    return joined


def _held_names(family: Family, depth: int) -> dict[str, tuple[str, Module]]:
    """Return, for every parameter that is part of another, the name of that one and the module that it belongs to."""
    names = {}
    for layer in range(depth):
        for holder, parts in family.holders.items():
            for part in parts:
                for name, _ in part.parameters:
                    stored = f"{holder}{name.removeprefix(part.name)}"
                    names[f"{family.decoder}.{layer}.{name}"] = (f"{family.decoder}.{layer}.{stored}", part)
    return names
