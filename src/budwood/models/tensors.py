"""The weights of a checkpoint, read from memory-mapped files only when they are asked for."""

from collections.abc import Iterator, Mapping
from pathlib import Path

import torch
from torch import Tensor

from budwood.arch.family import Family, family_of
from budwood.arch.spec import Architecture
from budwood.models.weights import open_tensors, read_json, tensor_files

State = dict[str, Tensor]

_NUM_FUSED = 3
_DTYPES = (torch.float16, torch.bfloat16, torch.float32, torch.float64)


class CheckpointTensors(Mapping[str, Tensor]):
    """Parameters of a checkpoint folder by the names of its family's table; each access reads from disk.

    Each has the precision of its file, and they need not be alike. Where a family fuses query, key and value, the three
    are handed out one by one.
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
        self._fused = _fused_names(family, depth)
        self._files = tensor_files(folder, read_json(folder / "config.json"))
        self._stored = {name: other for name, other in family.stored_names.items() if other in self._files}
        for name in self:
            stored, _ = self._fused.get(name, (self._stored.get(name, name), 0))
            if stored not in self._files:
                raise ValueError(f"{folder} holds no tensor {stored!r}, which a {family.model_type} model needs")

    def __getitem__(self, name: str) -> Tensor:
        """Read a parameter.

        Raises:
            KeyError: there is none of that name.
            ValueError: its file is damaged, it is stored in another precision than models compute in, or it holds
                values that are not finite.
        """
        layer = self._layers[name]
        if name not in self._fused:
            return self._read(self._stored.get(name, name))
        stored, part = self._fused[name]
        assert layer is not None, "only layers fuse projections"
        heads = self._architecture.layers[layer].num_attention_heads
        parts: Tensor = self._read(stored).unflatten(0, (heads, _NUM_FUSED, -1))
        return parts.select(1, part).flatten(0, 1)

    def __iter__(self) -> Iterator[str]:
        """Yield the names of all parameters."""
        return iter(self._layers)

    def __len__(self) -> int:
        """Return the number of parameters."""
        return len(self._layers)

    def _read(self, stored: str) -> Tensor:
        file = self._files[stored]
        with open_tensors(file) as tensors:
            tensor: Tensor = tensors.get_tensor(stored)
        if tensor.dtype not in _DTYPES:
            allowed = ", ".join(str(dtype).removeprefix("torch.") for dtype in _DTYPES)
            raise ValueError(f"{file}: tensor {stored!r} is stored as {tensor.dtype}; supported: {allowed}")
        if not torch.isfinite(tensor).all():
            raise ValueError(f"{file}: tensor {stored!r} holds values that are not finite")
        return tensor


def fuse(state: Mapping[str, Tensor], architecture: Architecture) -> State:
    """Return a state under the names of the family's model class: query, key and value fused where it fuses them.

    Args:
        state: parameters by the names of the family's table.
        architecture: the model's, layers in depth order.
    """
    family = family_of(architecture.family)
    fused = _fused_names(family, architecture.num_hidden_layers)
    joined = {name: tensor for name, tensor in state.items() if name not in fused}
    for stored in dict.fromkeys(stored for stored, _ in fused.values()):
        layer = int(stored.removeprefix(f"{family.decoder}.").split(".")[0])
        heads = architecture.layers[layer].num_attention_heads
        parts = [state[name].unflatten(0, (heads, -1)) for name, (whole, _) in fused.items() if whole == stored]
        joined[stored] = torch.stack(parts, 1).flatten(0, 2)
    return joined


def _fused_names(family: Family, depth: int) -> dict[str, tuple[str, int]]:
    """Return for every fused parameter of the table the name it is stored under, and its position there."""
    if family.fused is None:
        return {}
    names = {}
    for layer in range(depth):
        for position, module in enumerate((family.query, family.key, family.value)):
            for (name, _), (stored, _) in zip(module.parameters, family.fused.parameters, strict=True):
                names[f"{family.decoder}.{layer}.{name}"] = (f"{family.decoder}.{layer}.{stored}", position)
    return names
