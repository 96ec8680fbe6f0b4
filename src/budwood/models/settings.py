"""Settings of models; imports no torch."""

from typing import Literal

DeviceName = Literal["auto", "cpu", "cuda", "mps"]
Precision = Literal["auto", "float32", "bfloat16"]
Rope = Literal["preserve", "rebuild"]
