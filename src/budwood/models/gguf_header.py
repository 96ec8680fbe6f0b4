"""Open GGUF files: all parts of a model, and of each the header without the vocabulary."""

import re
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import numpy as np
from gguf import GGUFReader, GGUFValueType
from numpy.typing import NDArray

_MAGIC = b"GGUF"
_PART = re.compile(r"(.*)-(\d{5})-of-(\d{5})\.gguf")
_OTHER_ORDER: Mapping[str, Literal["little", "big"]] = {"little": "big", "big": "little"}
_STRING_BYTES = 8
"""Before each string: its length."""
_MOST_VALUES = 4096
"""Of a list that is read; lists by layer are shorter, and only the lengths of vocabularies matter here."""


def find_parts(file: Path) -> tuple[Path, ...]:
    """Return the file, or all parts of the model that it is a part of.

    Raises:
        ValueError: a part is missing.
    """
    named = _PART.fullmatch(file.name)
    if not named:
        return (file,)
    stem, _, total = named.groups()
    parts = tuple(file.with_name(f"{stem}-{part:05}-of-{total}.gguf") for part in range(1, int(total) + 1))
    missing = [part.name for part in parts if not part.is_file()]
    if missing:
        raise ValueError(f"{file} is one of {int(total)} parts; these are not beside it: {', '.join(missing)}")
    return parts


class _HeaderReader(GGUFReader):
    """Skips the contents of long lists, such as vocabularies: read value by value they take a minute."""

    def _get_field_parts(
        self, orig_offs: int, raw_type: int
    ) -> tuple[int, list[NDArray[Any]], list[int], list[GGUFValueType]]:
        if raw_type != GGUFValueType.ARRAY:
            return super()._get_field_parts(orig_offs, raw_type)
        kind = GGUFValueType(int(self._get(orig_offs, np.uint32)[0]))
        length = int(self._get(orig_offs + 4, np.uint64)[0])
        if length <= _MOST_VALUES or kind == GGUFValueType.ARRAY:
            return super()._get_field_parts(orig_offs, raw_type)
        is_text = kind == GGUFValueType.STRING
        end, size = orig_offs + 12, _STRING_BYTES if is_text else np.dtype(self.gguf_scalar_to_np[kind]).itemsize
        if end + length * size > len(self.data):
            raise ValueError(f"a list of {length} values is longer than the file")
        if is_text:
            raw, order = self.data.data, sys.byteorder if self.byte_order == "I" else _OTHER_ORDER[sys.byteorder]
            for _ in range(length):
                end += size + int.from_bytes(raw[end : end + size], order)
        else:
            end += length * size
        return end - orig_offs, [], list(range(length)), [GGUFValueType.ARRAY, kind]


def open_reader(file: Path) -> GGUFReader:
    """Open one file.

    Raises:
        ValueError: it is no GGUF file, or is damaged.
    """
    with file.open("rb") as stream:
        magic = stream.read(len(_MAGIC))
    if magic != _MAGIC:
        raise ValueError(f"{file} is no GGUF file: it begins with {magic!r} and not with {_MAGIC!r}")
    try:
        return _HeaderReader(file)
    except (ValueError, IndexError, KeyError, OverflowError, MemoryError) as error:
        raise ValueError(
            f"{file} is damaged or truncated, or of a version of GGUF that cannot be read ({error}): fetch it again"
        ) from error
