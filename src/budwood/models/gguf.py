"""Teachers in GGUF files: the whole header is understood, or the file is refused before a weight is read.

| general.architecture | family | keys beside those of all, see `_SIZES`, `_SETTINGS` and `_rope` |
|---|---|---|
| llama | llama, mistral | |
| qwen2 | qwen2 | |
| qwen3 | qwen3 | |
| gemma2 | gemma2 | attn_logit_softcapping, final_logit_softcapping, attention.sliding_window |
| gemma3 | gemma3_text | final_logit_softcapping, attention.sliding_window, rope.freq_base_swa |

A key of the architecture that is in none of the tables may change the function, so the file is refused.
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from gguf import MODEL_ARCH_NAMES, GGUFValueType, ReaderField, ReaderTensor, dequantize, get_tensor_name_map
from torch import Tensor
from transformers import PretrainedConfig, PreTrainedTokenizerFast

from budwood.arch.family import Axes, Family, axis_lengths, family_of
from budwood.arch.spec import Architecture, LayerSpec, check_depth
from budwood.models.checkpoint import build_empty, is_whole, model_config, save_sealed
from budwood.models.gguf_header import find_parts, open_reader
from budwood.models.rotary import fixed_rope, layer_types

_FREQUENCIES = "rope_freqs.weight"
"""A divisor for the frequency of every rotary pair: how Llama 3 and other scalings by table are stored."""
_HEAD = "output.weight"

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
_SETTINGS = {
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
_SLIDING_BASE = "rope.freq_base_swa"
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
_SPECIAL_TOKENS = {"bos_token_id": "bos_token_id", "eos_token_id": "eos_token_id", "padding_token_id": "pad_token_id"}
# What ggml assumes where a file says nothing.
_DEFAULT_BASE = 10_000.0
_DEFAULT_BETAS = {"beta_fast": 32.0, "beta_slow": 1.0}


def _no_constants(_: "GgufModel") -> dict[str, Any]:
    return {}


def _gemma2_constants(model: "GgufModel") -> dict[str, Any]:
    """Return what ggml derives from the size: only the 27B model, by its 46 layers, scales by the width of a head."""
    large = model.size("block_count") == 46  # noqa: PLR2004
    share = model.size("embedding_length") // model.size("attention.head_count")
    return {"query_pre_attn_scalar": share if large else model.head_dim}


def _gemma3_constants(model: "GgufModel") -> dict[str, Any]:
    """Return what ggml derives from the size: only the 27B model, by its 62 layers, scales by the width of a head.

    Every sixth layer sees everything; without a window all do.
    """
    large = model.size("block_count") == 62  # noqa: PLR2004
    share = model.size("embedding_length") // model.size("attention.head_count")
    windowed, depth = bool(model.setting("attention.sliding_window")), model.size("block_count")
    types = ["sliding_attention" if windowed and (layer + 1) % 6 else "full_attention" for layer in range(depth)]
    return {"query_pre_attn_scalar": share if large else model.head_dim, "layer_types": types}


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
    constants: Callable[["GgufModel"], Mapping[str, Any]] = _no_constants
    """Config fields that no key states."""


KINDS: Mapping[str, GgufKind] = {
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
        constants=_gemma2_constants,
    ),
    "gemma3": GgufKind(
        family="gemma3_text",
        settings={"final_logit_softcapping": "final_logit_softcapping", "attention.sliding_window": "sliding_window"},
        sliding_base=10_000.0,
        constants=_gemma3_constants,
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
            raise ValueError(f"{file}: its parts hold {len(tensors)} tensors and not split.tensors.count={expected}")
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
        supported = f"supported: {', '.join(sorted(KINDS))}"
        if (content := self.value("general.type", "model")) != "model":
            raise ValueError(f"{self.file}: general.type={content!r} is no language model; supported: model")
        if self.architecture not in KINDS:
            raise ValueError(f"{self.file}: general.architecture={self.architecture!r} cannot be read; {supported}")
        kind = KINDS[self.architecture]
        known = _SIZES | _SETTINGS.keys() | _ROPE | _INERT | kind.settings.keys()
        known |= {_SLIDING_BASE} if kind.sliding_base else set()
        for name in self.fields:
            key = name.removeprefix(f"{self.architecture}.")
            if key == name or key in known:
                continue
            if key not in _ONLY:
                raise self.refusal(key, self.value(name), "files without this key, which may change what is computed")
            if self.value(name) != _ONLY[key]:
                raise self.refusal(key, self.value(name), f"{_ONLY[key]}")
        return kind


def describe_gguf(file: Path) -> dict[str, Any]:
    """Return the config of the model in a GGUF file, with all defaults, from its header alone.

    Raises:
        ValueError: the file cannot be read; see `GgufModel` and `gguf_config`.
    """
    config: dict[str, Any] = gguf_config(GgufModel.open(file)).to_dict()
    return config


def convert_gguf(file: Path, target: Path) -> Path:
    """Write the model in a GGUF file as a checkpoint folder in float32, unless it is there already.

    Returns:
        the folder.

    Raises:
        ValueError: the file cannot be read; see `GgufModel` and `gguf_config`.
    """
    if is_whole(target):
        return target
    gguf = GgufModel.open(file)
    config = gguf_config(gguf)
    tokenizer, model = gguf_tokenizer(gguf.file), build_empty(config)
    parameters, stored = dict(model.named_parameters()), _stored_parameters(gguf, _architecture(gguf))
    assert parameters.keys() == stored.keys(), f"not of both: {sorted(parameters.keys() ^ stored.keys())}"
    for name, (tensor, axes) in stored.items():
        parameters[name].data = _weight(gguf, name, tensor, axes)
    return save_sealed(model, tokenizer, target)


def gguf_tokenizer(file: Path) -> PreTrainedTokenizerFast:
    """Return the tokenizer in a GGUF file."""
    # Not AutoTokenizer, which reads the sizes as well and refuses some; the tokenizer that it finds is the same.
    tokenizer: PreTrainedTokenizerFast = PreTrainedTokenizerFast.from_pretrained(file.parent, gguf_file=file.name)
    return tokenizer


def gguf_config(gguf: GgufModel) -> PretrainedConfig:
    """Return the Hugging Face configuration that a header states.

    Raises:
        ValueError: a key, a tensor or the type of a tensor is not understood, or one is missing.
    """
    kind, architecture = gguf.kind, _architecture(gguf)
    _stored_parameters(gguf, architecture)
    for tensor_type, tensor in {tensor.tensor_type: tensor for tensor in gguf.tensors.values()}.items():
        try:
            dequantize(tensor.data[:1], tensor_type)
        except NotImplementedError as error:
            raise ValueError(f"{gguf.file}: tensor {tensor.name!r} cannot be dequantised: {error}") from error
    base: dict[str, Any] = {
        "vocab_size": architecture.vocab_size,
        "tie_word_embeddings": architecture.tie_word_embeddings,
        **{name: gguf.value(f"tokenizer.ggml.{key}") for key, name in _SPECIAL_TOKENS.items()},
        **kind.constants(gguf),
    }
    for key, name in {**_SETTINGS, **kind.settings}.items():
        if (found := gguf.setting(key)) is not None:
            base[name] = found
        elif key in _SETTINGS:
            raise gguf.refusal(key, None, "files that state it")
    types = layer_types(family_of(kind.family), base | {"num_hidden_layers": architecture.num_hidden_layers})
    return model_config(base, architecture, [_rope(gguf, layer_type) for layer_type in types])


def _architecture(gguf: GgufModel) -> Architecture:
    depth, heads, head_dim = gguf.size("block_count"), gguf.size("attention.head_count"), gguf.head_dim
    try:
        check_depth(depth)
    except ValueError as error:
        raise ValueError(f"{gguf.file}: block_count: {error}") from error
    for key in ("attention.value_length", "rope.dimension_count"):
        if (found := gguf.size(key, head_dim)) != head_dim:
            raise gguf.refusal(key, found, f"the {head_dim} dimensions of a head")
    layer = LayerSpec(
        num_attention_heads=heads,
        num_key_value_heads=gguf.size("attention.head_count_kv", heads),
        head_dim=head_dim,
        intermediate_size=gguf.size("feed_forward_length"),
    )
    if "token_embd.weight" not in gguf.tensors:
        raise ValueError(f"{gguf.file} holds no tensor 'token_embd.weight', which a language model needs")
    rows = int(gguf.tensors["token_embd.weight"].shape[-1])
    tokens = gguf.fields.get("tokenizer.ggml.tokens")
    if tokens is not None and len(tokens.data) > rows:
        raise ValueError(f"{gguf.file} names {len(tokens.data)} tokens, and its embedding has {rows} rows")
    return Architecture(
        family=gguf.kind.family,
        vocab_size=rows,
        hidden_size=gguf.size("embedding_length"),
        tie_word_embeddings=_HEAD not in gguf.tensors,
        layers=(layer,) * depth,
    )


def _rope(gguf: GgufModel, layer_type: str | None) -> dict[str, Any]:
    """Return the `rope_parameters` that a header states for layers of a type, read as ggml reads it.

    Raises:
        ValueError: the scaling is of another type, or there are two.
    """
    if layer_type == "sliding_attention":
        # ggml scales the positions of the other layers alone.
        return {"rope_type": "default", "rope_theta": gguf.setting(_SLIDING_BASE, gguf.kind.sliding_base)}
    theta, context = gguf.setting("rope.freq_base", _DEFAULT_BASE), gguf.size("context_length")
    scaling = gguf.setting("rope.scaling.type", "linear")
    factor = gguf.setting("rope.scaling.factor", gguf.setting("rope.scale_linear", 0.0)) or 1.0
    gain = gguf.setting("rope.scaling.attn_factor", 1.0)
    if scaling not in ("none", "linear", "yarn"):
        raise gguf.refusal("rope.scaling.type", scaling, "none, linear, yarn")
    if scaling == "none":
        factor = 1.0
    divisors = _divisors(gguf)
    if divisors and factor != 1:
        raise gguf.refusal("rope.scaling.factor", factor, f"1 beside the tensor {_FREQUENCIES!r}")
    if gguf.kind.sliding_base and (divisors or gain != 1 or scaling == "yarn"):
        raise gguf.refusal("rope.scaling.type", scaling, "none and linear, without factors of single pairs")
    if scaling == "yarn" and factor != 1:
        return _yarn(gguf, {"rope_type": "yarn", "rope_theta": theta, "factor": factor}, gain)
    if divisors or gain != 1:
        return fixed_rope(theta, divisors or [factor] * (gguf.head_dim // 2), gain, context)
    if factor == 1:
        return {"rope_type": "default", "rope_theta": theta}
    return {"rope_type": "linear", "rope_theta": theta, "factor": factor}


def _divisors(gguf: GgufModel) -> list[float]:
    """Return by what the frequency of every rotary pair is divided; empty where all keep theirs.

    Raises:
        ValueError: there is not one for every pair.
    """
    if _FREQUENCIES not in gguf.tensors:
        return []
    tensor, pairs = gguf.tensors[_FREQUENCIES], gguf.head_dim // 2
    divisors: list[float] = np.array(dequantize(tensor.data, tensor.tensor_type), np.float64).tolist()
    if len(divisors) != pairs:
        raise ValueError(f"{gguf.file}: {_FREQUENCIES!r} holds {len(divisors)} values for {pairs} pairs")
    return [] if set(divisors) == {1.0} else divisors


def _yarn(gguf: GgufModel, rope: dict[str, Any], gain: float) -> dict[str, Any]:
    betas = {name: gguf.setting(f"rope.scaling.yarn_{name}", value) for name, value in _DEFAULT_BETAS.items()}
    original = gguf.setting("rope.scaling.original_context_length", gguf.size("context_length"))
    # The rule of the YaRN paper; ggml multiplies by it what the file states.
    own = {} if gain == 1 else {"attention_factor": gain * (0.1 * math.log(rope["factor"]) + 1)}
    return rope | {"original_max_position_embeddings": original} | betas | own


def _stored_parameters(gguf: GgufModel, architecture: Architecture) -> dict[str, tuple[ReaderTensor, Axes]]:
    """Return the tensor and the axes of every parameter of the family's class.

    Raises:
        ValueError: a tensor is missing, is of another shape, or belongs to no parameter.
    """
    family, depth = family_of(architecture.family), architecture.num_hidden_layers
    by_name = {name: kind for kind, name in MODEL_ARCH_NAMES.items()}
    names, lengths = (
        get_tensor_name_map(by_name[gguf.architecture], depth),
        axis_lengths(architecture, architecture.layers[0]),
    )
    stored, left = {}, gguf.tensors.keys() - {_FREQUENCIES}
    for name, _, axes in family.parameters(depth, tied=architecture.tie_word_embeddings):
        own = str(names.get_name(name, (".weight", ".bias")))
        if own not in gguf.tensors:
            raise ValueError(f"{gguf.file} holds no tensor {own!r}, which a {family.model_type} model needs")
        found = tuple(reversed(gguf.tensors[own].shape.tolist()))
        shape = tuple(int(np.prod([lengths[part] for part in axis])) for axis in axes)
        if found != shape:
            raise ValueError(f"{gguf.file}: tensor {own!r} has the shape {found}, and its header asks for {shape}")
        stored[name] = (gguf.tensors[own], axes)
        left.discard(own)
    if left:
        raise ValueError(f"{gguf.file} holds a tensor {min(left)!r}, which no {family.model_type} model of budwood has")
    return stored


def _weight(gguf: GgufModel, name: str, tensor: ReaderTensor, axes: Axes) -> Tensor:
    """Return a parameter as the family's class has it, float32."""
    family = family_of(gguf.kind.family)
    weight = torch.from_numpy(np.array(dequantize(tensor.data, tensor.tensor_type), np.float32))
    if gguf.kind.interleaved and axes[0][-1] == "qk":
        weight = weight.unflatten(0, (-1, gguf.head_dim // 2, 2)).transpose(1, 2).flatten(0, 2).contiguous()
    return weight - family.norm_offset if _is_norm(family, name) else weight


def _is_norm(family: Family, name: str) -> bool:
    return name.endswith(tuple(norm.weight for norm in (family.final_norm, *family.norms, *family.head_norms)))
