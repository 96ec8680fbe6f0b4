"""Write a checkpoint folder as one GGUF file, the form that llama.cpp and all that is built on it read.

Written with `gguf` and not by llama.cpp's converter: that one leaves out the factors of rotary embeddings whose kept
pairs are no progression, without a word, and knows no layers of different sizes. What no form of llama.cpp expresses is
refused. How each architecture computes was read in `src/models/*.cpp` of llama.cpp.
"""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from budwood.arch.count import num_parameters
from budwood.arch.family import Family, Module, family_of
from budwood.arch.spec import Architecture
from budwood.models.checkpoint import load_config, load_tokenizer, read_architecture
from budwood.models.gguf_tokenizer import add_tokenizer
from budwood.models.rotary import inverse_frequencies, layer_rope, rotary_dims
from budwood.models.settings import Storage
from budwood.models.tensors import CheckpointTensors

_STORAGE = {
    "f32": (gguf.GGMLQuantizationType.F32, gguf.LlamaFileType.ALL_F32),
    "f16": (gguf.GGMLQuantizationType.F16, gguf.LlamaFileType.MOSTLY_F16),
    "bf16": (gguf.GGMLQuantizationType.BF16, gguf.LlamaFileType.MOSTLY_BF16),
}
_SMOLLM3_PERIOD = 4
"""Every fourth layer of llama.cpp's smollm3 has no positions."""
_GEMMA2_27B_LAYERS = 46
"""llama.cpp knows the one Gemma 2 whose scores it scales otherwise by its number of layers."""
_ROPE_TOLERANCE = 1e-5
_PAIR = 2


@dataclass(frozen=True, slots=True, kw_only=True)
class Positions:
    """The rotary embedding of a model in llama.cpp's words."""

    dims: int
    """Dimensions of a head that turn."""
    theta: float
    slowdown: float
    """Constant factor by which every pair turns more slowly."""
    factors: Tensor | None
    """[dims / 2] such a factor for every pair, where no constant does."""
    gain: float
    """Factor on cosine and sine."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Source:
    """A checkpoint, read as far as its form depends on it."""

    config: Mapping[str, Any]
    architecture: Architecture
    positions: Positions | None
    """None where layers turn differently."""

    @property
    def family(self) -> Family:
        """The table entry of the family."""
        return family_of(self.architecture.family)

    @property
    def context(self) -> int:
        """Largest number of positions."""
        return int(self.config["max_position_embeddings"])


@dataclass(frozen=True, slots=True, kw_only=True)
class Form:
    """One architecture of llama.cpp."""

    arch: gguf.MODEL_ARCH
    interleaved: bool
    """Whether the two dimensions of a rotary pair lie side by side; transformers puts them half a head apart."""
    factors: bool = False
    """Whether its graph reads `rope_freqs.weight`."""
    layerwise: bool = False
    """Whether heads, groups and neurons may differ by layer."""
    activation: str = "silu"
    needs_head: bool = False
    """Whether it wants an output matrix of its own even where that is the embedding."""
    refuses: Callable[[Source], str | None] = lambda _source: None
    """What else it cannot express, in words."""


def _refuse_silent_layers(source: Source) -> str | None:
    turning = source.config.get("no_rope_layers")
    return "it has layers without positions" if turning and not all(turning) else None


def _refuse_other_period(source: Source) -> str | None:
    turning = list(map(bool, source.config["no_rope_layers"]))
    expected = [bool((layer + 1) % _SMOLLM3_PERIOD) for layer in range(len(turning))]
    return None if turning == expected else f"its layers without positions are not every {_SMOLLM3_PERIOD}th"


def _refuse_other_gemma(source: Source) -> str | None:
    config = source.config
    if not source.architecture.tie_word_embeddings:
        return "its head is not tied to its embedding"
    if config["attn_logit_softcapping"] is None or config["final_logit_softcapping"] is None:
        return "it does not cap its logits"
    sliding = [kind == "sliding_attention" for kind in config["layer_types"]]
    alternates = sliding == [layer % 2 == 0 for layer in range(len(sliding))]
    if not alternates and config["sliding_window"] < source.context:
        return "its sliding and full layers do not alternate"
    return None


def _refuse_unfilled(source: Source) -> str | None:
    layer = source.architecture.layers[0]
    fills = layer.num_attention_heads * layer.head_dim == source.architecture.hidden_size
    return None if fills else "its heads do not add up to the hidden size"


_LLAMA = Form(arch=gguf.MODEL_ARCH.LLAMA, interleaved=True, factors=True, refuses=_refuse_silent_layers)
_DECI = Form(arch=gguf.MODEL_ARCH.DECI, interleaved=True, factors=True, layerwise=True, refuses=_refuse_silent_layers)
FORMS: Mapping[str, tuple[Form, ...]] = {
    "gemma2": (
        Form(
            arch=gguf.MODEL_ARCH.GEMMA2,
            interleaved=False,
            activation="gelu_pytorch_tanh",
            refuses=_refuse_other_gemma,
        ),
    ),
    "gpt_neox": (
        Form(
            arch=gguf.MODEL_ARCH.GPTNEOX,
            interleaved=False,
            activation="gelu",
            needs_head=True,
            refuses=_refuse_unfilled,
        ),
    ),
    "llama": (_LLAMA, _DECI),
    "mistral": (_LLAMA, _DECI),
    "olmo2": (Form(arch=gguf.MODEL_ARCH.OLMO2, interleaved=False, needs_head=True, refuses=_refuse_unfilled),),
    # llama.cpp's llama takes biases too, any heads, and the factors that its qwen2 ignores.
    "qwen2": (Form(arch=gguf.MODEL_ARCH.QWEN2, interleaved=False, refuses=_refuse_unfilled), _LLAMA),
    "qwen3": (Form(arch=gguf.MODEL_ARCH.QWEN3, interleaved=False),),
    "smollm3": (Form(arch=gguf.MODEL_ARCH.SMOLLM3, interleaved=True, refuses=_refuse_other_period), _LLAMA, _DECI),
}
"""What llama.cpp has for a family, the nearest first."""


def choose_form(folder: Path) -> str:
    """Return the architecture of llama.cpp that expresses a checkpoint.

    Raises:
        ValueError: none does; the message says why not.
    """
    return gguf.MODEL_ARCH_NAMES[_form(folder, _read(folder)).arch]


def write_gguf(folder: Path, target: Path, storage: Storage = "f16") -> Path:
    """Write a checkpoint folder as a GGUF file with its tokenizer, read the header back, and return the file.

    Args:
        folder: a checkpoint of a stock class, or one of our own.
        target: the file; it appears whole or not at all.
        storage: number format of the matrices.

    Raises:
        ValueError: llama.cpp has no form for the model or its tokenizer, a weight is too large for the format, or the
            file does not say what the checkpoint says.
    """
    source = _read(folder)
    form = _form(folder, source)
    partial = target.with_name(f"{target.name}.partial")
    writer = gguf.GGUFWriter(partial, gguf.MODEL_ARCH_NAMES[form.arch])
    _add_sizes(writer, form, source)
    _add_positions(writer, source)
    writer.add_file_type(_STORAGE[storage][1])
    add_tokenizer(writer, load_tokenizer(folder), source.config)
    # The header lists all tensors before the first: they are read twice, and never all at once.
    for name, data, kind in _stored(folder, form, source, storage):
        writer.add_tensor_info(name, data.shape, data.dtype, data.nbytes, kind)
    try:
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_ti_data_to_file()
        for _, data, _ in _stored(folder, form, source, storage):
            writer.write_tensor_data(data)
        writer.close()
        _check(partial, writer, source)
        return partial.replace(target)
    finally:
        writer.close()
        partial.unlink(missing_ok=True)


def _read(folder: Path) -> Source:
    config, architecture = load_config(folder), read_architecture(folder)
    return Source(config=config, architecture=architecture, positions=_shared_positions(config, architecture))


def _form(folder: Path, source: Source) -> Form:
    forms = FORMS.get(source.architecture.family, ())
    if not forms:
        raise ValueError(
            f"{folder.name} cannot be written as GGUF: budwood writes none of the family {source.architecture.family}; "
            f"supported: {', '.join(FORMS)}"
        )
    objections = {gguf.MODEL_ARCH_NAMES[form.arch]: _objection(form, source) for form in forms}
    for form in forms:
        if objections[gguf.MODEL_ARCH_NAMES[form.arch]] is None:
            return form
    reasons = "; ".join(f"as {name}, {reason}" for name, reason in objections.items())
    raise ValueError(f"{folder.name} cannot be written as GGUF, llama.cpp has no form for it: {reasons}")


def _objection(form: Form, source: Source) -> str | None:
    """Return why a form does not express a model, or None where it does."""
    architecture, positions = source.architecture, source.positions
    if len({layer.head_dim for layer in architecture.layers}) > 1:
        return "its head dimension differs by layer"
    if positions is None or positions.dims < _PAIR:
        return "its rotary embedding differs by layer" if positions is None else "no dimension of its heads turns"
    if not architecture.is_uniform and not form.layerwise:
        return "its sizes differ by layer"
    if positions.factors is not None and not form.factors:
        return "its kept rotary pairs need a factor each, which this graph ignores (rope: rebuild needs none)"
    activation = source.config.get("hidden_activation") or source.config["hidden_act"]
    if activation != form.activation:
        return f"its activation is {activation} and not {form.activation}"
    return form.refuses(source)


def _shared_positions(config: Mapping[str, Any], architecture: Architecture) -> Positions | None:
    """Return the rotary embedding that all layers share, or None."""
    found: list[Positions] = []
    for layer, spec in enumerate(architecture.layers):
        rope = layer_rope(config, layer)
        frequencies, gain = inverse_frequencies(rope, spec.head_dim, int(config["max_position_embeddings"]))
        dims, theta = rotary_dims(rope, spec.head_dim), float(rope["rope_theta"])
        slots = theta ** (-2 * torch.arange(len(frequencies), dtype=torch.float64) / dims)
        factors = slots / frequencies.double()
        constant = not len(factors) or bool(factors.max() <= factors.min() * (1 + _ROPE_TOLERANCE))
        found.append(
            Positions(
                dims=dims,
                theta=theta,
                slowdown=float(factors[0]) if len(factors) and constant else 1.0,
                factors=None if constant else factors,
                gain=gain,
            )
        )
    return found[0] if all(_turn_alike(found[0], other) for other in found[1:]) else None


def _turn_alike(one: Positions, other: Positions) -> bool:
    return (
        one.dims == other.dims
        and one.gain == other.gain
        and torch.allclose(_frequencies(one), _frequencies(other), rtol=_ROPE_TOLERANCE, atol=0)
    )


def _frequencies(positions: Positions) -> Tensor:
    slots = positions.theta ** (-2 * torch.arange(positions.dims // 2, dtype=torch.float64) / positions.dims)
    return slots / (positions.slowdown if positions.factors is None else positions.factors)


def _add_sizes(writer: gguf.GGUFWriter, form: Form, source: Source) -> None:
    config, architecture = source.config, source.architecture
    layers, first = architecture.layers, architecture.layers[0]

    def by_layer(sizes: Sequence[int]) -> int | list[int]:
        return list(sizes) if form.layerwise else sizes[0]

    writer.add_name(f"{num_parameters(architecture) / 1e6:.1f}M {architecture.family}")
    writer.add_context_length(source.context)
    writer.add_vocab_size(architecture.vocab_size)
    writer.add_embedding_length(architecture.hidden_size)
    writer.add_block_count(architecture.num_hidden_layers)
    writer.add_head_count(by_layer([layer.num_attention_heads for layer in layers]))
    writer.add_head_count_kv(by_layer([layer.num_key_value_heads for layer in layers]))
    writer.add_feed_forward_length(by_layer([layer.intermediate_size for layer in layers]))
    writer.add_key_length(first.head_dim)
    writer.add_value_length(first.head_dim)
    if form.arch == gguf.MODEL_ARCH.GPTNEOX:
        writer.add_layer_norm_eps(config["layer_norm_eps"])
        writer.add_parallel_residual(config["use_parallel_residual"])
    else:
        writer.add_layer_norm_rms_eps(config["rms_norm_eps"])
    if form.arch == gguf.MODEL_ARCH.GEMMA2:
        writer.add_attn_logit_softcapping(config["attn_logit_softcapping"])
        writer.add_final_logit_softcapping(config["final_logit_softcapping"])
        writer.add_sliding_window(config["sliding_window"])


def _add_positions(writer: gguf.GGUFWriter, source: Source) -> None:
    positions = source.positions
    assert positions is not None, "no form takes layers that turn differently"
    writer.add_rope_dimension_count(positions.dims)
    writer.add_rope_freq_base(positions.theta)
    if positions.slowdown != 1:
        writer.add_rope_scaling_type(gguf.RopeScalingType.LINEAR)
        writer.add_rope_scaling_factor(positions.slowdown)
    if positions.gain != 1:
        writer.add_rope_scaling_attn_factors(positions.gain)


def _tensors(folder: Path, form: Form, source: Source) -> Iterator[tuple[str, Tensor]]:
    """Yield llama.cpp's name and the float32 value of every tensor."""
    family, architecture = source.family, source.architecture
    stored = CheckpointTensors(folder, architecture)
    names = gguf.get_tensor_name_map(form.arch, architecture.num_hidden_layers)
    parts = (family.query, family.key, family.value) if family.fused else ()
    for name, layer, _ in family.parameters(architecture.num_hidden_layers, tied=architecture.tie_word_embeddings):
        if any(f".{part.name}." in name for part in parts[1:]):
            continue
        if parts and f".{parts[0].name}." in name:
            pieces = [stored[name.replace(parts[0].name, part.name)] for part in parts]
            name, value = name.replace(parts[0].name, _name_of(family.fused)), torch.cat(pieces)  # noqa: PLW2901
        else:
            value = _converted(stored[name].float(), name, layer, form, source)
        yield _renamed(names, name), value.float()
    if form.needs_head and architecture.tie_word_embeddings:
        yield "output.weight", stored[family.embedding.weight].float()
    if source.positions is not None and source.positions.factors is not None:
        yield "rope_freqs.weight", source.positions.factors.float()


def _name_of(module: Module | None) -> str:
    assert module is not None
    return module.name


def _renamed(names: gguf.TensorNameMap, name: str) -> str:
    found: str | None = names.get_name(name, try_suffixes=(".weight", ".bias"))
    assert found is not None, f"gguf has no name for {name}"
    return found


def _converted(value: Tensor, name: str, layer: int | None, form: Form, source: Source) -> Tensor:
    """Return a tensor as llama.cpp's graph expects it: norms whole, queries scaled, rotary pairs side by side."""
    family = source.family
    if family.norm_offset and "norm" in name:
        return value + family.norm_offset
    if layer is None:
        return value
    spec = source.architecture.layers[layer]
    if not family.scales_by_head_dim and f".{family.query.name}." in name:
        wide = source.architecture.num_hidden_layers == _GEMMA2_27B_LAYERS
        divisor = source.architecture.hidden_size // spec.num_attention_heads if wide else spec.head_dim
        return value * math.sqrt(divisor / source.config["query_pre_attn_scalar"])
    turning = any(f".{module.name}." in name for module in (family.query, family.key))
    if form.interleaved and turning:
        halves: Tensor = value.unflatten(0, (-1, 2, spec.head_dim // 2))
        return halves.transpose(1, 2).flatten(0, 2)
    return value


def _stored(
    folder: Path, form: Form, source: Source, storage: Storage
) -> Iterator[tuple[str, NDArray[Any], gguf.GGMLQuantizationType]]:
    """Yield name, bytes and format of every tensor.

    Raises:
        ValueError: a weight does not fit the format.
    """
    for name, tensor in _tensors(folder, form, source):
        kind = _STORAGE[storage][0] if tensor.ndim > 1 else gguf.GGMLQuantizationType.F32
        largest = float(tensor.abs().max())
        if kind == gguf.GGMLQuantizationType.F16 and not largest <= float(np.finfo("f2").max):
            raise ValueError(f"gguf: f16 cannot express {largest:.3g} in {name}; write bf16 or f32")
        yield name, gguf.quantize(tensor.contiguous().numpy(), kind), kind


def _check(file: Path, writer: gguf.GGUFWriter, source: Source) -> None:
    """Compare a written file with what was to be written, and that with the checkpoint.

    Raises:
        ValueError: they differ.
    """
    reader = gguf.GGUFReader(file)
    wrong = [key for key, value in writer.kv_data[0].items() if not _same(reader.fields[key].contents(), value.value)]
    extra = {"output.weight"} if source.architecture.tie_word_embeddings else set()
    shapes = {tensor.name: tensor for tensor in reader.tensors}
    counted = sum(
        int(tensor.n_elements) for name, tensor in shapes.items() if name not in extra | {"rope_freqs.weight"}
    )
    if counted != num_parameters(source.architecture):
        wrong.append(f"number of parameters ({counted:,})")
    positions = source.positions
    assert positions is not None, "no form takes layers that turn differently"
    if (positions.factors is not None) != ("rope_freqs.weight" in shapes):
        wrong.append("rope_freqs.weight")
    elif positions.factors is not None:
        factors = torch.from_numpy(np.array(shapes["rope_freqs.weight"].data)).double()
        if not torch.allclose(factors, positions.factors, rtol=_ROPE_TOLERANCE, atol=0):
            wrong.append("rope_freqs.weight")
    if wrong:
        raise ValueError(f"{file.name} differs from its checkpoint in {', '.join(wrong)}: it is not fit for use")


def _same(read: object, meant: object) -> bool:
    if isinstance(meant, float) and isinstance(read, float):
        return math.isclose(read, meant, rel_tol=1e-6)
    return bool(read == meant) if not isinstance(meant, list | tuple) else list(read) == list(meant)  # type: ignore[call-overload]
