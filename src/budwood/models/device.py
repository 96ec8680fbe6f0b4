"""Where models run, and in which precision."""

import ctypes
import os
import platform
import socket
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, cast

import torch
from torch import nn
from transformers import PreTrainedModel

from budwood.models.settings import DeviceName, Precision

_PREFERENCE: tuple[DeviceName, ...] = ("cuda", "mps", "cpu")
# malloc.h of glibc
_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD, _M_MMAP_MAX = -1, -3, -4
_REUSE = ((_M_MMAP_MAX, 0), (_M_TRIM_THRESHOLD, -1))
"""Take no tensor from the system directly, and hand nothing back."""
_RETURN = ((_M_MMAP_MAX, 1 << 16), (_M_MMAP_THRESHOLD, 1 << 25), (_M_TRIM_THRESHOLD, 1 << 26))
"""What glibc does by itself once it has met tensors of 32 MiB."""


@dataclass(frozen=True, slots=True)
class Compute:
    """A device and the precision of matrix products on it."""

    device: torch.device
    precision: Literal["float32", "bfloat16"]

    @property
    def fingerprint(self) -> str:
        """What decides results beyond rounding: the precision, not the device."""
        return self.precision

    @property
    def dtype(self) -> torch.dtype:
        """Type of weights that are only read."""
        return torch.bfloat16 if self.precision == "bfloat16" else torch.float32

    def place(self, model: PreTrainedModel) -> PreTrainedModel:
        """Move a model to the device and return it."""
        nn.Module.to(model, self.device)
        return model

    @property
    def name(self) -> DeviceName:
        """Kind of the device, as settings name it."""
        return cast("DeviceName", self.device.type)

    def describe(self) -> str:
        """Return the device's name as a person knows it."""
        if self.device.type == "cuda":
            return torch.cuda.get_device_name(self.device)
        return f"{self.device.type} ({torch.get_num_threads()} threads)" if self.device.type == "cpu" else "mps"


def choose_compute(device: DeviceName = "auto", precision: Precision = "auto") -> Compute:
    """Choose a device and a precision.

    `auto` takes an accelerator where there is one, and bfloat16 where the hardware multiplies it faster than float32.
    Such CPUs have AMX, or AVX-512 BF16 and are not Intel's.

    Raises:
        ValueError: the device was named and does not exist here.
    """
    available: dict[DeviceName, bool] = {
        "cpu": True,
        "cuda": torch.cuda.is_available(),
        "mps": torch.backends.mps.is_available(),
    }
    if device == "auto":
        device = next(name for name in _PREFERENCE if available[name])
    if not available[device]:
        raise ValueError(f"device: {device!r} is not available here; use auto or cpu")
    if precision == "auto":
        precision = "bfloat16" if _prefers_bfloat16(device) else "float32"
    return Compute(torch.device(device), precision)


def require_device_for_each(num_processes: int) -> None:
    """Check that this machine has a CUDA device for each of the processes that a launcher has started here.

    Raises:
        ValueError: they are more than the devices.
    """
    if num_processes > torch.cuda.device_count():
        raise ValueError(
            f"engine.launcher: more processes ({num_processes}) than devices ({torch.cuda.device_count()}) on "
            f"{socket.gethostname()}; start one for each device"
        )


def memory_bytes(device: torch.device) -> int:
    """Return the memory of a device; of all but CUDA's, that of the machine."""
    if device.type == "cuda":
        return int(torch.cuda.get_device_properties(device).total_memory)
    return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")


def release_memory() -> None:
    """Hand freed memory back to the system, where its C library can (glibc).

    Models of ever new shapes leave holes that it would keep: 4 GB after 800 candidates of SmolLM2 in bfloat16.
    """
    library = _glibc()
    if library:
        library.malloc_trim(0)


@contextmanager
def reusing_memory() -> Iterator[None]:
    """Keep freed memory for the next tensors, where the C library can (glibc), and hand it back at the end.

    Otherwise every tensor of more than 32 MiB comes from the system, which clears it page by page. In a training step
    logits, their gradients and those of the embedding are such: 13% of the time of a half of SmolLM2 on a CPU.
    """
    library = _glibc()
    if not library:
        yield
        return
    for name, value in _REUSE:
        library.mallopt(name, value)
    try:
        yield
    finally:
        for name, value in _RETURN:
            library.mallopt(name, value)
        release_memory()


def _glibc() -> ctypes.CDLL | None:
    """Return the C library where it is glibc."""
    library = ctypes.CDLL(None) if sys.platform == "linux" else None
    return library if hasattr(library, "malloc_trim") else None


def _prefers_bfloat16(device: str) -> bool:
    if device == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    if device != "cpu":
        return False
    # torch has no public question for a CPU.
    if torch.cpu._is_amx_tile_supported():  # noqa: SLF001
        return True
    # Intel's AVX-512 takes 1.8 times as long for bfloat16 as for float32 (benchmarks/precision.py).
    return torch.cpu._is_avx512_bf16_supported() and "GenuineIntel" not in _processor()  # noqa: SLF001


def _processor() -> str:
    """Return what the system says of the processor, its vendor among other things."""
    file = Path("/proc/cpuinfo")
    return file.read_text(encoding="utf-8") if file.is_file() else platform.processor()
