"""The header of a GGUF file: every key of it is understood, or the file is refused before a weight is read.

| general.architecture | family | keys beside those of all |
|---|---|---|
| llama | llama, mistral | |
| qwen2 | qwen2 | |
| qwen3 | qwen3 | |
| gemma2 | gemma2 | attn_logit_softcapping, final_logit_softcapping, attention.sliding_window (and `_pattern`) |
| gemma3 | gemma3_text | final_logit_softcapping, attention.sliding_window (and `_pattern`), rope.freq_base_swa |

A key of the architecture that is in none of the tables may change the function, so the file is refused.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from gguf import GGUFValueType, ReaderField, ReaderTensor

from budwood.models.gguf_header import find_parts, open_reader
from budwood.models.rotary import FULL, SLIDING

_SIZES = {
    "block_count",
    "embedding_length",
    "feed_forward_length",
    "attention.head_count",
    "attention.head_count_kv",
    "attention.key_length",
    "attention.value_length",
    "vocab_size",
}
SETTINGS = {
    "context_length": "max_position_embeddings",
    "attention.layer_norm_rms_epsilon": "rms_norm_eps",
}
"""Config field of a key."""
_ROPE = {
    "rope.dimension_count",
    "rope.freq_base",
    "rope.scale_linear",
    "rope.scaling.type",
    "rope.scaling.attn_factor",
    "rope.scaling.factor",
    "rope.scaling.original_context_length",
    "rope.scaling.yarn_beta_fast",
    "rope.scaling.yarn_beta_slow",
}
SLIDING_BASE = "rope.freq_base_swa"
_PATTERN = "attention.sliding_window_pattern"
_INERT = {"rope.scaling.finetuned", "tensor_data_layout"}
_ONLY: Mapping[str, float] = {
    "expert_count": 0,
    "expert_used_count": 0,
    "attention.causal": 1,
    "rope.scaling.yarn_attn_factor": 1,
    "rope.scaling.yarn_ext_factor": 1,
    "rope.scaling.yarn_log_multiplier": 0,
}
"""Keys with the only value that is supported."""


WIDE_LAYERS: Mapping[str, int] = {"gemma2": 46, "gemma3_text": 62}
"""By which llama.cpp knows the one model of a generation, the 27B, whose scores it scales by the width of a head."""
WINDOW_PERIODS: Mapping[str, int] = {"gemma2": 2, "gemma3_text": 6}
"""Every which layer sees everything where a file says nothing."""


def _gemma_constants(model: "GgufModel") -> dict[str, Any]:
    """Return what ggml derives from the size, and which layers have a window."""
    depth, family = model.size("block_count"), model.kind.family
    share = model.size("embedding_length") // model.size("attention.head_count")
    stated = model.setting(_PATTERN, WINDOW_PERIODS[family])
    slides = stated if isinstance(stated, list) else [stated == 0 or (layer + 1) % stated > 0 for layer in range(depth)]
    if len(slides) != depth:
        raise model.refusal(_PATTERN, stated, f"an entry for each of {depth} layers")
    if model.kind.sliding_base and not model.setting("attention.sliding_window"):
        slides = [False] * depth
    return {
        "query_pre_attn_scalar": share if depth == WIDE_LAYERS[family] else model.head_dim,
        "layer_types": [SLIDING if slide else FULL for slide in slides],
    }


@dataclass(frozen=True, slots=True, kw_only=True)
class GgufKind:
    """How files of one `general.architecture` are read."""

    family: str
    interleaved: bool = False
    """Whether the two dimensions of a rotary pair are neighbours in the rows of queries and keys."""
    settings: Mapping[str, str] = field(default_factory=dict)
    """Config field of keys that only this architecture has."""
    sliding_base: float | None = None
    """Base of the rotary embedding of layers with a window where `rope.freq_base_swa` states none; None where it is
    that of all layers."""
    constants: Callable[["GgufModel"], Mapping[str, Any]] = lambda _model: {}
    """Config fields that no key states."""


GGUF_KINDS: Mapping[str, GgufKind] = {
    "llama": GgufKind(family="llama", interleaved=True),
    "qwen2": GgufKind(family="qwen2"),
    "qwen3": GgufKind(family="qwen3"),
    "gemma2": GgufKind(
        family="gemma2",
        settings={
            "attn_logit_softcapping": "attn_logit_softcapping",
            "final_logit_softcapping": "final_logit_softcapping",
            "attention.sliding_window": "sliding_window",
        },
        constants=_gemma_constants,
    ),
    "gemma3": GgufKind(
        family="gemma3_text",
        settings={"final_logit_softcapping": "final_logit_softcapping", "attention.sliding_window": "sliding_window"},
        sliding_base=10_000.0,
        constants=_gemma_constants,
    ),
}
"""By `general.architecture`."""


@dataclass(frozen=True, kw_only=True)
class GgufModel:
    """The header of a GGUF file, or of all parts of one that is split."""

    file: Path
    """The first part; names the model in messages."""
    fields: Mapping[str, ReaderField]
    """Of the first part."""
    tensors: Mapping[str, ReaderTensor]
    """Of all parts, mapped from disk."""

    @classmethod
    def open(cls, file: Path) -> "GgufModel":
        """Read the header.

        Raises:
            ValueError: the file is none of GGUF, is damaged, or is one of several parts of which some are missing.
        """
        parts = find_parts(file)
        readers = [open_reader(part) for part in parts]
        fields = readers[0].fields
        tensors = {tensor.name: tensor for reader in readers for tensor in reader.tensors}
        model = cls(file=parts[0], fields=fields, tensors=tensors)
        count = model.value("split.count", 1)
        if count > 1 and count != len(parts):
            raise ValueError(
                f"{file} is one of split.count={count} parts: all must lie side by side under names that end in "
                f"-00001-of-{count:05}.gguf"
            )
        expected = model.value("split.tensors.count", len(tensors))
        if expected != len(tensors):
            raise ValueError(f"{file}: its parts have {len(tensors)} tensors and not split.tensors.count={expected}")
        return model

    def value(self, key: str, default: Any = None) -> Any:
        """Return what a key of the header says."""
        if key not in self.fields:
            return default
        found = self.fields[key]
        # The shortest decimal that is this float32: 1e-05 and not 9.99999974e-06.
        if found.types == [GGUFValueType.FLOAT32]:
            return float(str(found.parts[-1][0]))
        return found.contents()

    def setting(self, key: str, default: Any = None) -> Any:
        """Return what a key of the architecture says."""
        return self.value(f"{self.architecture}.{key}", default)

    def size(self, key: str, default: int | None = None) -> int:
        """Return a size.

        Raises:
            ValueError: it is missing, or differs from layer to layer.
        """
        found = self.setting(key, default)
        if isinstance(found, list) and len(set(found)) == 1:
            found = found[0]
        if not isinstance(found, int) or found < 1:
            raise self.refusal(key, found, "one positive number for all layers")
        return found

    def refusal(self, key: str, found: object, allowed: str) -> ValueError:
        """Return the error that names a key of the architecture and its value."""
        return ValueError(f"{self.file}: {self.architecture}.{key}={found!r} cannot be read; supported: {allowed}")

    @property
    def architecture(self) -> str:
        """What ggml calls the family."""
        return str(self.value("general.architecture"))

    @property
    def head_dim(self) -> int:
        """Dimensions of a head."""
        return self.size("attention.key_length", self.size("embedding_length") // self.size("attention.head_count"))

    @cached_property
    def kind(self) -> GgufKind:
        """How files of the architecture are read.

        Raises:
            ValueError: they are not, or a key is not understood.
        """
        supported = f"supported: {', '.join(sorted(GGUF_KINDS))}"
        if (content := self.value("general.type", "model")) != "model":
            raise ValueError(f"{self.file}: general.type={content!r} is no language model; supported: model")
        if self.architecture not in GGUF_KINDS:
            raise ValueError(f"{self.file}: general.architecture={self.architecture!r} cannot be read; {supported}")
        kind = GGUF_KINDS[self.architecture]
        known = _SIZES | SETTINGS.keys() | _ROPE | _INERT | kind.settings.keys()
        optional = ((SLIDING_BASE, kind.sliding_base), (_PATTERN, kind.family in WINDOW_PERIODS))
        known |= {key for key, has in optional if has}
        for name in self.fields:
            key = name.removeprefix(f"{self.architecture}.")
            if key == name or key in known:
                continue
            if key not in _ONLY:
                raise self.refusal(key, self.value(name), "files without this key, which may change what is computed")
            if self.value(name) != _ONLY[key]:
                raise self.refusal(key, self.value(name), f"{_ONLY[key]}")
        return kind
