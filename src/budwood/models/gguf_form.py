"""What llama.cpp has for a family: its architectures, and what each of them cannot express.

How each architecture computes was read in `src/models/*.cpp` of llama.cpp.
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from types import MappingProxyType

import gguf
from torch import Tensor

from budwood.arch.config import HFConfig
from budwood.arch.family import Family, family_of
from budwood.arch.spec import Architecture, LayerSpec
from budwood.models.rotary import changes_at, layer_rope

_SMOLLM3_PERIOD = 4
"""Every fourth layer of llama.cpp's smollm3 has no positions."""
_GEMMA2_27B_LAYERS = 46
"""llama.cpp knows the one Gemma 2 whose scores it scales otherwise by its number of layers."""
_FREQUENCIES = ("rope_freqs.weight",)
_RMS: Mapping[str, str | int] = MappingProxyType({"add_layer_norm_rms_eps": "rms_norm_eps"})
_LAYER_NORM: Mapping[str, str | int] = MappingProxyType({"add_layer_norm_eps": "layer_norm_eps"})


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

    config: HFConfig
    architecture: Architecture
    positions: Positions | None
    """None where layers turn differently."""

    @property
    def family(self) -> Family:
        """The table entry of the family."""
        return family_of(self.architecture.family)

    @property
    def window(self) -> int | None:
        """Tokens that some layer looks back on at most; None where all layers see all."""
        types = self.config.get("layer_types") or ["sliding_attention"]
        window: int | None = self.config.get("sliding_window")
        return window if "sliding_attention" in types else None

    def limits(self, *, windows: bool) -> int:
        """Return the positions up to which a file computes what the checkpoint computes.

        Args:
            windows: whether the file has the model's sliding windows.
        """
        ropes = [layer_rope(self.config, layer) for layer in range(self.num_layers)]
        found = [self.config["max_position_embeddings"], None if windows else self.window, *map(changes_at, ropes)]
        return min(int(limit) for limit in found if limit)

    @property
    def num_layers(self) -> int:
        """Decoder layers."""
        return self.architecture.num_hidden_layers


@dataclass(frozen=True, slots=True, kw_only=True)
class Form:
    """One architecture of llama.cpp."""

    arch: gguf.MODEL_ARCH
    interleaved: bool
    """Whether the two dimensions of a rotary pair lie side by side; transformers puts them half a head apart."""
    factors: tuple[str, ...] = ()
    """Tensors in which its graph looks for a factor of every rotary pair."""
    layerwise: bool = False
    """Whether heads, groups and neurons may differ by layer."""
    activation: str = "silu"
    windows: bool = False
    """Whether it has sliding windows; a file without them has no more positions than the window."""
    keys: Mapping[str, str | int] = field(default_factory=lambda: _RMS)
    """Methods of the writer, and the field of the config whose value they write, or a value."""
    query_factor: Callable[[Source, LayerSpec], float] = lambda _source, _layer: 1.0
    """Of queries, so that its scaling of scores is the model's."""
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
    if not alternates and config["sliding_window"] < config["max_position_embeddings"]:
        return "its sliding and full layers do not alternate"
    return None


def _refuse_unfilled(source: Source) -> str | None:
    layer = source.architecture.layers[0]
    fills = layer.num_attention_heads * layer.head_dim == source.architecture.hidden_size
    return None if fills else "its heads do not add up to the hidden size"


def _gemma2_factor(source: Source, layer: LayerSpec) -> float:
    wide = source.num_layers == _GEMMA2_27B_LAYERS
    divisor = source.architecture.hidden_size // layer.num_attention_heads if wide else layer.head_dim
    return math.sqrt(divisor / source.config["query_pre_attn_scalar"])


def _refuse_biases(source: Source) -> str | None:
    on = [switch for switch, is_on in source.family.biases.items() if is_on]
    return f"it has biases ({', '.join(on)})" if on else None


_LLAMA = Form(arch=gguf.MODEL_ARCH.LLAMA, interleaved=True, factors=_FREQUENCIES, refuses=_refuse_silent_layers)

_DECI = replace(_LLAMA, arch=gguf.MODEL_ARCH.DECI, layerwise=True)

FORMS: Mapping[str, tuple[Form, ...]] = {
    "gemma2": (
        Form(
            arch=gguf.MODEL_ARCH.GEMMA2,
            interleaved=False,
            activation="gelu_pytorch_tanh",
            windows=True,
            keys={
                **_RMS,
                "add_attn_logit_softcapping": "attn_logit_softcapping",
                "add_final_logit_softcapping": "final_logit_softcapping",
                "add_sliding_window": "sliding_window",
            },
            query_factor=_gemma2_factor,
            refuses=_refuse_other_gemma,
        ),
    ),
    "gpt_neox": (
        Form(
            arch=gguf.MODEL_ARCH.GPTNEOX,
            interleaved=False,
            activation="gelu",
            keys={**_LAYER_NORM, "add_parallel_residual": "use_parallel_residual"},
            needs_head=True,
            refuses=_refuse_unfilled,
        ),
    ),
    "granite": (
        Form(
            arch=gguf.MODEL_ARCH.GRANITE,
            interleaved=True,
            factors=_FREQUENCIES,
            keys={
                **_RMS,
                "add_embedding_scale": "embedding_multiplier",
                "add_attention_scale": "attention_multiplier",
                "add_residual_scale": "residual_multiplier",
                "add_logit_scale": "logits_scaling",
            },
        ),
    ),
    "llama": (_LLAMA, _DECI),
    "ministral3": (
        Form(
            arch=gguf.MODEL_ARCH.MISTRAL3,
            interleaved=True,
            factors=_FREQUENCIES,
            keys={
                **_RMS,
                "add_attn_temperature_scale": "rope_parameters.llama_4_scaling_beta",
                "add_attn_temperature_length": "rope_parameters.original_max_position_embeddings",
                "add_rope_scaling_orig_ctx_len": "rope_parameters.original_max_position_embeddings",
            },
        ),
    ),
    "mistral": (_LLAMA, _DECI),
    "olmo2": (Form(arch=gguf.MODEL_ARCH.OLMO2, interleaved=False, needs_head=True, refuses=_refuse_unfilled),),
    "phi3": (
        Form(
            arch=gguf.MODEL_ARCH.PHI3,
            interleaved=False,
            factors=("rope_factors_long.weight", "rope_factors_short.weight"),
            # Without the key llama.cpp gives some sizes a window of their own.
            keys={**_RMS, "add_sliding_window": 0},
            refuses=_refuse_unfilled,
        ),
    ),
    # llama.cpp's llama takes biases too, any heads, and the factors that its qwen2 ignores.
    "qwen2": (Form(arch=gguf.MODEL_ARCH.QWEN2, interleaved=False, refuses=_refuse_unfilled), _LLAMA),
    "qwen3": (Form(arch=gguf.MODEL_ARCH.QWEN3, interleaved=False, refuses=_refuse_biases),),
    "smollm3": (Form(arch=gguf.MODEL_ARCH.SMOLLM3, interleaved=True, refuses=_refuse_other_period), _LLAMA, _DECI),
    "stablelm": (
        Form(
            arch=gguf.MODEL_ARCH.STABLELM,
            interleaved=False,
            keys=_LAYER_NORM,
            needs_head=True,
            refuses=_refuse_unfilled,
        ),
    ),
    "starcoder2": (
        Form(
            arch=gguf.MODEL_ARCH.STARCODER2,
            interleaved=False,
            activation="gelu_pytorch_tanh",
            keys={"add_layer_norm_eps": "norm_epsilon"},
            refuses=_refuse_unfilled,
        ),
    ),
}
"""What llama.cpp has for a family, the nearest first."""
