"""Settings of models; imports no torch."""

from pathlib import Path
from typing import Literal

from budwood.records.strict import Strict

DeviceName = Literal["auto", "cpu", "cuda", "mps"]
Precision = Literal["auto", "float32", "bfloat16"]
Rope = Literal["preserve", "rebuild"]
Storage = Literal["f32", "f16", "bf16"]
"""Number format of the matrices of a GGUF file; vectors are float32. llama.cpp's own tools make smaller ones of it."""


class ServingSettings(Strict):
    """In which forms an export is written, and where it is tried."""

    gguf: Storage | None = None
    """Write `model.gguf` too, where llama.cpp has a form for the sub-network."""
    engines: Path | None = None
    """Folder of environments, as `make engines` makes one; every export is tried in the engines that are there."""


class PushSettings(Strict):
    """Where an export is published."""

    repository: str
    """Id on the Hub, `owner/name`."""
    private: bool = True
    dry_run: bool = True
    """Only report what would be uploaded."""
    revision: str | None = None
    """Branch; it is made where there is none."""
