"""Teachers in GGUF files: the configuration that a header states, and the weights as the family's class has them."""

import math
from pathlib import Path
from typing import Any

import numpy as np
import torch
from gguf import MODEL_ARCH_NAMES, ReaderTensor, dequantize, get_tensor_name_map
from torch import Tensor
from transformers import PretrainedConfig, PreTrainedTokenizerFast

from budwood.arch.config import HFConfig
from budwood.arch.family import Axes, axis_lengths, family_of
from budwood.arch.spec import Architecture, LayerSpec, check_depth
from budwood.models.checkpoint import build_empty, is_whole, model_config, save_sealed
from budwood.models.gguf_model import SETTINGS, SLIDING_BASE, GgufModel
from budwood.models.rotary import SLIDING, RopeParameters, fixed_rope, layer_types
from budwood.records.strict import naming

_FREQUENCIES = "rope_freqs.weight"
"""A divisor for the frequency of every rotary pair: how Llama 3 and other scalings by table are stored."""
_HEAD = "output.weight"

_SPECIAL_TOKENS = {"bos_token_id": "bos_token_id", "eos_token_id": "eos_token_id", "padding_token_id": "pad_token_id"}
# What ggml assumes where a file has no value.
_DEFAULT_BASE = 10_000.0
_DEFAULT_BETAS = {"beta_fast": 32.0, "beta_slow": 1.0}


def describe_gguf(file: Path) -> HFConfig:
    """Return the config of the model in a GGUF file, with all defaults, from its header alone.

    Raises:
        ValueError: the file cannot be read; see `GgufModel` and `gguf_config`.
    """
    config: HFConfig = gguf_config(GgufModel.open(file)).to_dict()
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
    """Return the tokenizer in a GGUF file.

    Raises:
        ValueError: it cannot be read, such as one without merges.
    """
    try:
        # Not AutoTokenizer, which reads the sizes as well and refuses some; the tokenizer that it finds is the same.
        tokenizer: PreTrainedTokenizerFast = PreTrainedTokenizerFast.from_pretrained(file.parent, gguf_file=file.name)
    except Exception as error:  # transformers raises whatever it met, such as the key that is missing
        raise ValueError(f"{file}: its tokenizer cannot be read ({type(error).__name__}: {error})") from error
    return tokenizer


def gguf_config(gguf: GgufModel) -> PretrainedConfig:
    """Return the Hugging Face configuration that a header states.

    Raises:
        ValueError: a key, a tensor or the type of a tensor is not understood, or one is missing.
    """
    kind, architecture = gguf.kind, _architecture(gguf)
    _stored_parameters(gguf, architecture)
    for tensor_type, tensor in {tensor.tensor_type: tensor for tensor in gguf.tensors.values()}.items():
        with naming(f"{gguf.file}: tensor {tensor.name!r} cannot be dequantised", NotImplementedError):
            dequantize(tensor.data[:1], tensor_type)
    base: dict[str, Any] = {
        "vocab_size": architecture.vocab_size,
        "tie_word_embeddings": architecture.tie_word_embeddings,
        **{name: gguf.value(f"tokenizer.ggml.{key}") for key, name in _SPECIAL_TOKENS.items()},
        **kind.constants(gguf),
    }
    for key, name in {**SETTINGS, **kind.settings}.items():
        if (found := gguf.setting(key)) is not None:
            base[name] = found
        elif key in SETTINGS:
            raise gguf.refusal(key, None, "files that state it")
    types = layer_types(family_of(kind.family), base | {"num_hidden_layers": architecture.num_hidden_layers})
    return model_config(base, architecture, [_rope(gguf, layer_type) for layer_type in types])


def _architecture(gguf: GgufModel) -> Architecture:
    depth, heads, head_dim = gguf.size("block_count"), gguf.size("attention.head_count"), gguf.head_dim
    with naming(f"{gguf.file}: block_count"):
        check_depth(depth)
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
        raise ValueError(f"{gguf.file} has no tensor 'token_embd.weight', which a language model needs")
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


def _rope(gguf: GgufModel, layer_type: str | None) -> RopeParameters:
    """Return the `rope_parameters` that a header states for layers of a type, read as ggml reads it.

    Raises:
        ValueError: the scaling is of another type, or there are two.
    """
    if layer_type == SLIDING:
        # ggml scales the positions of the other layers alone.
        return {"rope_type": "default", "rope_theta": gguf.setting(SLIDING_BASE, gguf.kind.sliding_base)}
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
        raise ValueError(f"{gguf.file}: {_FREQUENCIES!r} has {len(divisors)} values for {pairs} pairs")
    return [] if set(divisors) == {1.0} else divisors


def _yarn(gguf: GgufModel, rope: RopeParameters, gain: float) -> RopeParameters:
    betas = {name: gguf.setting(f"rope.scaling.yarn_{name}", value) for name, value in _DEFAULT_BETAS.items()}
    original = gguf.setting("rope.scaling.original_context_length", gguf.size("context_length"))
    # The rule of the YaRN paper; ggml multiplies by it what the file states.
    own = {} if gain == 1 else {"attention_factor": gain * (0.1 * math.log(rope["factor"]) + 1)}
    return dict(rope) | {"original_max_position_embeddings": original} | betas | own


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
            raise ValueError(f"{gguf.file} has no tensor {own!r}, which a {family.model_type} model needs")
        found = tuple(reversed(gguf.tensors[own].shape.tolist()))
        shape = tuple(int(np.prod([lengths[part] for part in axis])) for axis in axes)
        if found != shape:
            raise ValueError(f"{gguf.file}: tensor {own!r} has the shape {found}, and its header asks for {shape}")
        stored[name] = (gguf.tensors[own], axes)
        left.discard(own)
    if left:
        raise ValueError(f"{gguf.file} has a tensor {min(left)!r}, which no {family.model_type} model of budwood has")
    return stored


def _weight(gguf: GgufModel, name: str, tensor: ReaderTensor, axes: Axes) -> Tensor:
    """Return a parameter as the family's class has it, float32."""
    family = family_of(gguf.kind.family)
    weight = torch.from_numpy(np.array(dequantize(tensor.data, tensor.tensor_type), np.float32))
    if gguf.kind.interleaved and axes[0][-1] == "qk":
        weight = weight.unflatten(0, (-1, gguf.head_dim // 2, 2)).transpose(1, 2).flatten(0, 2).contiguous()
    norms = tuple(norm.weight for norm in (family.final_norm, *family.norms, *family.head_norms))
    return weight - family.norm_offset if name.endswith(norms) else weight
