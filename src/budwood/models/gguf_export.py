"""Write a checkpoint folder as one GGUF file, the form that llama.cpp and all that is built on it read.

Written with `gguf` and not by llama.cpp's converter: that one leaves out the factors of rotary embeddings whose kept
pairs are no progression, without a word, and knows no layers of different sizes. What no form of llama.cpp expresses is
refused.
"""

import math
from collections.abc import Iterator, Sequence
from functools import reduce
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from budwood.arch.config import HFConfig
from budwood.arch.count import num_parameters
from budwood.arch.family import family_of
from budwood.arch.spec import Architecture
from budwood.models.checkpoint import load_config, load_tokenizer, read_architecture
from budwood.models.gguf_form import FORMS, Form, Positions, Source
from budwood.models.gguf_tokenizer import add_tokenizer
from budwood.models.rotary import FULL, SLIDING, inverse_frequencies, layer_rope, layer_types, rotary_dims
from budwood.models.settings import Storage
from budwood.models.tensors import CheckpointTensors
from budwood.records.files import write_file_atomically

_STORAGE = {
    "f32": (gguf.GGMLQuantizationType.F32, gguf.LlamaFileType.ALL_F32),
    "f16": (gguf.GGMLQuantizationType.F16, gguf.LlamaFileType.MOSTLY_F16),
    "bf16": (gguf.GGMLQuantizationType.BF16, gguf.LlamaFileType.MOSTLY_BF16),
}
_ROPE_TOLERANCE = 1e-5
_LISTING_VERSION = "0.5"
"""Of llama.cpp: it reads which layers have a window, which 0.4 overlooks."""
_STRIPPING_NAME, _OTHER_NAME = "phi3", "phi"
"""llama.cpp lets the special tokens of a model with the first in its name take the spaces behind them, as Phi-3 mini
does, and opens no such file whose vocabulary lacks one of `_STRIPPING`."""
_STRIPPING = ("</s>", "<unk>", "<s>", "<|endoftext|>")
_PAIR = 2


def choose_form(folder: Path) -> str:
    """Return the architecture of llama.cpp that expresses a checkpoint.

    Raises:
        ValueError: none does; the message says why not.
    """
    return gguf.MODEL_ARCH_NAMES[_form(folder, _read(folder)).arch]


def least_version(folder: Path) -> str | None:
    """Return the first version of llama.cpp that reads all of a checkpoint's file; None where every version does.

    Raises:
        ValueError: it has no form for the checkpoint.
    """
    source = _read(folder)
    return _LISTING_VERSION if _lists_windows(_form(folder, source), source) else None


def write_gguf(folder: Path, target: Path, storage: Storage = "f16") -> Path:
    """Write a checkpoint folder as a GGUF file with its tokenizer, read the header back, and return the file.

    Raises:
        ValueError: llama.cpp has no form for the model or its tokenizer, a weight is too large for the format, or the
            file does not say what the checkpoint says.
    """
    source = _read(folder)
    form = _form(folder, source)
    with write_file_atomically(target) as partial:
        writer = gguf.GGUFWriter(partial, gguf.MODEL_ARCH_NAMES[form.arch])
        try:
            _write(writer, folder, form, source, storage)
        finally:
            writer.close()
        _check(partial, writer, form, source)
    return target


def _write(writer: gguf.GGUFWriter, folder: Path, form: Form, source: Source, storage: Storage) -> None:
    tokenizer = load_tokenizer(folder)
    writer.add_name(_name(tokenizer, source.architecture))
    _add_sizes(writer, form, source)
    _add_settings(writer, form, source)
    _add_windows(writer, form, source)
    _add_positions(writer, form, source)
    writer.add_file_type(_STORAGE[storage][1])
    add_tokenizer(writer, tokenizer, source.config)
    # The header lists all tensors before the first: they are read twice, and never all at once.
    for name, data, kind in _stored(folder, form, source, storage):
        writer.add_tensor_info(name, data.shape, data.dtype, data.nbytes, kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_ti_data_to_file()
    for _, data, _ in _stored(folder, form, source, storage):
        writer.write_tensor_data(data)


def _read(folder: Path) -> Source:
    config, architecture = load_config(folder), read_architecture(folder)
    types = layer_types(family_of(architecture.family), config)
    found = {
        kind: _shared_positions(config, architecture, [layer for layer, own in enumerate(types) if own == kind])
        for kind in dict.fromkeys(types)
    }
    sliding = found.get(SLIDING)
    positions = None if None in found.values() else found.get(None) or found.get(FULL) or sliding
    return Source(config=config, architecture=architecture, positions=positions, sliding=sliding)


def _form(folder: Path, source: Source) -> Form:
    forms = FORMS.get(source.family.model_type, ())
    if not forms:
        raise ValueError(
            f"{folder.name} cannot be written as GGUF: budwood writes none of the family {source.family.model_type}; "
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
    if positions.factors is not None and not form.factors and not (form.yarn and positions.yarn):
        return "its kept rotary pairs need a factor each, which this graph ignores (rope: rebuild needs none)"
    activation = source.config.get("hidden_activation") or source.config["hidden_act"]
    if activation != form.activation:
        return f"its activation is {activation} and not {form.activation}"
    return form.refuses(source)


def _shared_positions(config: HFConfig, architecture: Architecture, layers: Sequence[int]) -> Positions | None:
    """Return the rotary embedding that some layers share, or None."""
    found: list[Positions] = []
    for layer in layers:
        rope, spec = layer_rope(config, layer), architecture.layers[layer]
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
                yarn=rope if rope["rope_type"] == "yarn" else None,
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


def _name(tokenizer: PreTrainedTokenizerBase, architecture: Architecture) -> str:
    name = f"{num_parameters(architecture) / 1e6:.1f}M {architecture.family}"
    strips = {token.content for token in tokenizer.added_tokens_decoder.values() if token.rstrip}
    if _STRIPPING[0] in strips and set(_STRIPPING) <= tokenizer.get_vocab().keys():
        return name
    return name.replace(_STRIPPING_NAME, _OTHER_NAME)


def _add_sizes(writer: gguf.GGUFWriter, form: Form, source: Source) -> None:
    architecture = source.architecture
    layers, first = architecture.layers, architecture.layers[0]

    def by_layer(sizes: Sequence[int]) -> int | list[int]:
        return list(sizes) if form.layerwise else sizes[0]

    writer.add_context_length(source.limits(windows=form.windows > 0))
    writer.add_vocab_size(architecture.vocab_size)
    writer.add_embedding_length(architecture.hidden_size)
    writer.add_block_count(architecture.num_hidden_layers)
    writer.add_head_count(by_layer([layer.num_attention_heads for layer in layers]))
    writer.add_head_count_kv(by_layer([layer.num_key_value_heads for layer in layers]))
    writer.add_feed_forward_length(by_layer([layer.intermediate_size for layer in layers]))
    writer.add_key_length(first.head_dim)
    writer.add_value_length(first.head_dim)


def _add_settings(writer: gguf.GGUFWriter, form: Form, source: Source) -> None:
    for method, place in form.keys.items():
        value: Any = place
        if isinstance(place, str):
            value = reduce(lambda fields, name: fields[name], place.split("."), source.config)
        if value is not None:
            getattr(writer, method)(value)


def _add_windows(writer: gguf.GGUFWriter, form: Form, source: Source) -> None:
    if not form.windows:
        return
    if source.window is not None:
        writer.add_sliding_window(source.window)
    elif form.always_slides:
        writer.add_sliding_window(source.limits(windows=True))
    if _lists_windows(form, source):
        writer.add_sliding_window_pattern(source.slides)
    if source.sliding is not None:
        writer.add_rope_freq_base_swa(source.sliding.theta)


def _lists_windows(form: Form, source: Source) -> bool:
    """Whether layers with a window are not those that a form takes for granted."""
    usual = [bool((layer + 1) % form.windows) for layer in range(source.num_layers)] if form.windows else source.slides
    return source.window is not None and source.slides != usual


def _add_positions(writer: gguf.GGUFWriter, form: Form, source: Source) -> None:
    positions = source.positions
    assert positions is not None, "no form takes layers that turn differently"
    writer.add_rope_dimension_count(positions.dims)
    writer.add_rope_freq_base(positions.theta)
    gain = positions.gain
    if form.yarn and positions.yarn is not None:
        factor = float(positions.yarn["factor"])
        # llama.cpp's own factor on cosine and sine.
        gain /= 1 + 0.1 * math.log(factor)
        writer.add_rope_scaling_type(gguf.RopeScalingType.YARN)
        writer.add_rope_scaling_factor(factor)
        writer.add_rope_scaling_orig_ctx_len(positions.yarn["original_max_position_embeddings"])
        writer.add_rope_scaling_yarn_beta_fast(float(positions.yarn.get("beta_fast") or 32))
        writer.add_rope_scaling_yarn_beta_slow(float(positions.yarn.get("beta_slow") or 1))
    elif positions.slowdown != 1:
        writer.add_rope_scaling_type(gguf.RopeScalingType.LINEAR)
        writer.add_rope_scaling_factor(positions.slowdown)
    if gain != 1:
        writer.add_rope_scaling_attn_factors(gain)


def _tensors(folder: Path, form: Form, source: Source) -> Iterator[tuple[str, Tensor]]:
    """Yield llama.cpp's name and the float32 value of every tensor."""
    family, architecture = source.family, source.architecture
    stored = CheckpointTensors(folder, architecture)
    names = gguf.get_tensor_name_map(form.arch, architecture.num_hidden_layers)
    held = {part.name: (holder, parts) for holder, parts in family.holders.items() for part in parts}
    for name, layer, _ in family.parameters(source.num_layers, tied=architecture.tie_word_embeddings):
        own = next((own for own in held if f".{own}." in name), None)
        if own is None:
            yield _renamed(names, name), _converted(stored[name].float(), name, layer, form, source).float()
            continue
        holder, parts = held[own]
        # One after the other, whatever the class does.
        if own == parts[0].name:
            pieces = [stored[name.replace(own, part.name)].float() for part in parts]
            yield _renamed(names, name.replace(own, holder)), torch.cat(pieces)
    if form.needs_head and architecture.tie_word_embeddings:
        yield "output.weight", stored[family.embedding.weight].float()
    if source.positions is not None and source.positions.factors is not None:
        for name in form.factors:
            yield name, source.positions.factors.float()


def _renamed(names: gguf.TensorNameMap, name: str) -> str:
    found: str | None = names.get_name(name, try_suffixes=(".weight", ".bias"))
    assert found is not None, f"gguf has no name for {name}"
    return found


def _converted(value: Tensor, name: str, layer: int | None, form: Form, source: Source) -> Tensor:
    """Return a tensor as llama.cpp's graph expects it: norms whole, queries scaled, rotary pairs side by side."""
    family = source.family
    if family.norm_offset and "norm" in name:
        value = value + family.norm_offset
    if layer is None:
        return value
    spec = source.architecture.layers[layer]
    if f".{(family.query_norm or family.query).name}." in name:
        value = value * form.query_factor(source, spec)
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


def _check(file: Path, writer: gguf.GGUFWriter, form: Form, source: Source) -> None:
    """Compare a written file with what was to be written, and that with the checkpoint.

    Raises:
        ValueError: they differ.
    """
    reader = gguf.GGUFReader(file)
    wrong = [key for key, value in writer.kv_data[0].items() if not _same(reader.fields[key].contents(), value.value)]
    extra = {"output.weight"} if source.architecture.tie_word_embeddings else set()
    shapes = {tensor.name: tensor for tensor in reader.tensors}
    counted = sum(int(tensor.n_elements) for name, tensor in shapes.items() if name not in {*extra, *form.factors})
    if counted != num_parameters(source.architecture):
        wrong.append(f"number of parameters ({counted:,})")
    positions = source.positions
    assert positions is not None, "no form takes layers that turn differently"
    for name in form.factors:
        if (positions.factors is not None) != (name in shapes):
            wrong.append(name)
        elif positions.factors is not None:
            factors = torch.from_numpy(np.array(shapes[name].data)).double()
            if not torch.allclose(factors, positions.factors, rtol=_ROPE_TOLERANCE, atol=0):
                wrong.append(name)
    if wrong:
        raise ValueError(f"{file.name} differs from its checkpoint in {', '.join(wrong)}: it is not fit for use")


def _same(read: object, meant: object) -> bool:
    if isinstance(meant, float) and isinstance(read, float):
        return math.isclose(read, meant, rel_tol=1e-6)
    return bool(read == meant) if not isinstance(meant, list | tuple) else list(read) == list(meant)  # type: ignore[call-overload]
