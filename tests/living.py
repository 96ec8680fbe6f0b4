"""How many bytes of tensors are alive."""

import weakref
from dataclasses import dataclass, field
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves


@dataclass
class Living(TorchDispatchMode):
    """Counts the bytes of all tensors that an operation has made and somebody still has."""

    now: int = 0
    peak: int = 0
    _known: set[int] = field(default_factory=set)

    def __post_init__(self) -> None:
        super().__init__()

    def __torch_dispatch__(self, operation: Any, types: object, args: Any = (), kwargs: Any = None) -> Any:
        made = operation(*args, **kwargs or {})
        for tensor in tree_leaves(made):
            # Memory that nobody has written to takes none.
            if isinstance(tensor, torch.Tensor) and tensor.device.type == "cpu" and "aten.empty" not in str(operation):
                self._add(tensor.untyped_storage())
        self.peak = max(self.peak, self.now)
        return made

    def _add(self, storage: torch.UntypedStorage) -> None:
        if (place := storage._cdata) not in self._known:
            self._known.add(place)
            self.now += storage.nbytes()
            weakref.finalize(storage, self._drop, place, storage.nbytes())

    def _drop(self, place: int, size: int) -> None:
        self._known.remove(place)
        self.now -= size
