"""What llama.cpp has for a family: its architectures, and what each of them cannot express.

How each architecture computes was read in `src/models/*.cpp` of llama.cpp.
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from types import MappingProxyType

from gguf import MODEL_ARCH
from torch import Tensor

from budwood.arch.config import HFConfig
from budwood.arch.family import Family, family_of
from budwood.arch.spec import Architecture, LayerSpec
from budwood.models.gguf_model import WIDE_LAYERS, WINDOW_PERIODS
from budwood.models.rotary import SLIDING, RopeParameters, changes_at, layer_rope

_SMOLLM3_PERIOD = 4
"""Every fourth layer of llama.cpp's smollm3 has no positions."""
_GELU = "gelu_pytorch_tanh"
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
    yarn: RopeParameters | None = None
    """Its `rope_parameters`, where these are a yarn."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Source:
    """A checkpoint, read as far as its form depends on it."""

    config: HFConfig
    architecture: Architecture
    positions: Positions | None
    """Of all layers, or of those without a window; None where layers of one type turn differently."""
    sliding: Positions | None = None
    """Of layers with a window, in families where these may turn otherwise."""

    @property
    def family(self) -> Family:
        """The table entry of the family."""
        return family_of(self.architecture.family)

    @property
    def window(self) -> int | None:
        """Tokens that some layer looks back on at most; None where all layers see all."""
        window: int | None = self.config.get("sliding_window")
        return window if any(self.slides) else None

    @property
    def slides(self) -> list[bool]:
        """Whether a layer has the window, for every layer."""
        return [kind == SLIDING for kind in self.config.get("layer_types") or [SLIDING] * self.num_layers]

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

    arch: MODEL_ARCH
    interleaved: bool = False
    """Whether the two dimensions of a rotary pair lie side by side; transformers puts them half a head apart."""
    factors: tuple[str, ...] = ()
    """Tensors in which its graph looks for a factor of every rotary pair."""
    yarn: bool = False
    """Whether it stretches the frequencies of layers without a window as a yarn does, and no others."""
    layerwise: bool = False
    """Whether heads, groups and neurons may differ by layer."""
    activation: str = "silu"
    windows: int = 0
    """Every which layer of its own has no sliding window, 0 where none has one; a file can list the layers instead. A
    file without windows has no more positions than the window."""
    always_slides: bool = False
    """Whether some of its layers have a window whatever a file says."""
    keys: Mapping[str, str | int] = field(default_factory=lambda: _RMS)
    """Methods of the writer, and the field of the config whose value they write, or a value."""
    query_factor: Callable[[Source, LayerSpec], float] = lambda _source, _layer: 1.0
    """Of queries, or of their norm, so that its scaling of scores is the model's."""
    needs_head: bool = False
    """Whether it wants an output matrix of its own even where that is the embedding."""
    refuses: Callable[[Source], str | None]
    """What else it cannot express, in words."""


def _refuse_silent_layers(source: Source) -> str | None:
    turning = source.config.get("no_rope_layers")
    return "it has layers without positions" if turning and not all(turning) else None


def _refuse_other_period(source: Source) -> str | None:
    turning = list(map(bool, source.config["no_rope_layers"]))
    expected = [bool((layer + 1) % _SMOLLM3_PERIOD) for layer in range(len(turning))]
    return None if turning == expected else f"its layers without positions are not every {_SMOLLM3_PERIOD}th"


def _refuse_other_gemma2(source: Source) -> str | None:
    config = source.config
    if config["attn_logit_softcapping"] is None or config["final_logit_softcapping"] is None:
        return "it does not cap its logits"
    return _refuse_untied(source)


def _refuse_other_gemma3(source: Source) -> str | None:
    if source.config["attn_logit_softcapping"] is not None:
        return "it caps its attention scores"
    return _refuse_scaled(source.sliding) or _refuse_untied(source)


def _refuse_other_olmo3(source: Source) -> str | None:
    positions, sliding = source.positions, source.sliding
    if positions is not None and sliding is not None and sliding.theta != positions.theta:
        return "its layers with a window have a base of their own"
    return _refuse_scaled(sliding) or _refuse_unfilled(source)


def _refuse_scaled(sliding: Positions | None) -> str | None:
    plain = sliding is None or (sliding.factors is None and sliding.slowdown == 1 and sliding.gain == 1)
    return None if plain else "its layers with a window turn at scaled frequencies"


def _refuse_untied(source: Source) -> str | None:
    return None if source.architecture.tie_word_embeddings else "its head is not tied to its embedding"


def _refuse_unfilled(source: Source) -> str | None:
    layer = source.architecture.layers[0]
    fills = layer.num_attention_heads * layer.head_dim == source.architecture.hidden_size
    return None if fills else "its heads do not add up to the hidden size"


def _gemma_factor(source: Source, layer: LayerSpec) -> float:
    wide = source.num_layers == WIDE_LAYERS[source.family.model_type]
    divisor = source.architecture.hidden_size // layer.num_attention_heads if wide else layer.head_dim
    return math.sqrt(divisor / source.config["query_pre_attn_scalar"])


def _refuse_biases(source: Source) -> str | None:
    on = [switch for switch, is_on in source.family.biases.items() if is_on]
    return f"it has biases ({', '.join(on)})" if on else None


_LLAMA = Form(arch=MODEL_ARCH.LLAMA, interleaved=True, factors=_FREQUENCIES, refuses=_refuse_silent_layers)
_DECI = replace(_LLAMA, arch=MODEL_ARCH.DECI, layerwise=True)
_OLMO2 = Form(arch=MODEL_ARCH.OLMO2, needs_head=True, refuses=_refuse_unfilled)
_GEMMA2 = Form(
    arch=MODEL_ARCH.GEMMA2,
    activation=_GELU,
    windows=WINDOW_PERIODS["gemma2"],
    always_slides=True,
    keys={
        **_RMS,
        "add_attn_logit_softcapping": "attn_logit_softcapping",
        "add_final_logit_softcapping": "final_logit_softcapping",
    },
    query_factor=_gemma_factor,
    refuses=_refuse_other_gemma2,
)
_GEMMA3 = replace(
    _GEMMA2,
    arch=MODEL_ARCH.GEMMA3,
    windows=WINDOW_PERIODS["gemma3_text"],
    always_slides=False,
    keys={**_RMS, "add_final_logit_softcapping": "final_logit_softcapping"},
    refuses=_refuse_other_gemma3,
)
_NEOX_KEYS = {**_LAYER_NORM, "add_parallel_residual": "use_parallel_residual"}
_GRANITE_KEYS = {
    **_RMS,
    "add_embedding_scale": "embedding_multiplier",
    "add_attention_scale": "attention_multiplier",
    "add_residual_scale": "residual_multiplier",
    "add_logit_scale": "logits_scaling",
}
_MINISTRAL3_KEYS = {
    **_RMS,
    "add_attn_temperature_scale": "rope_parameters.llama_4_scaling_beta",
    "add_attn_temperature_length": "rope_parameters.original_max_position_embeddings",
    "add_rope_scaling_orig_ctx_len": "rope_parameters.original_max_position_embeddings",
}
_PHI3 = Form(
    arch=MODEL_ARCH.PHI3,
    factors=("rope_factors_long.weight", "rope_factors_short.weight"),
    # Without the key llama.cpp gives some sizes a window of their own.
    keys={**_RMS, "add_sliding_window": 0},
    refuses=_refuse_unfilled,
)
_STARCODER2 = Form(
    arch=MODEL_ARCH.STARCODER2,
    activation=_GELU,
    keys={"add_layer_norm_eps": "norm_epsilon"},
    refuses=_refuse_unfilled,
)

FORMS: Mapping[str, tuple[Form, ...]] = {
    "gemma2": (_GEMMA2,),
    "gemma3_text": (_GEMMA3,),
    "gpt_neox": (replace(_OLMO2, arch=MODEL_ARCH.GPTNEOX, activation="gelu", keys=_NEOX_KEYS),),
    "granite": (replace(_LLAMA, arch=MODEL_ARCH.GRANITE, keys=_GRANITE_KEYS),),
    "llama": (_LLAMA, _DECI),
    "ministral3": (replace(_LLAMA, arch=MODEL_ARCH.MISTRAL3, keys=_MINISTRAL3_KEYS),),
    "mistral": (_LLAMA, _DECI),
    "olmo2": (_OLMO2,),
    "olmo3": (replace(_OLMO2, yarn=True, windows=4, refuses=_refuse_other_olmo3),),
    "phi3": (_PHI3,),
    # llama.cpp's llama takes biases too, any heads, and the factors that its qwen2 ignores.
    "qwen2": (Form(arch=MODEL_ARCH.QWEN2, refuses=_refuse_unfilled), _LLAMA),
    "qwen3": (Form(arch=MODEL_ARCH.QWEN3, refuses=_refuse_biases),),
    "smollm3": (Form(arch=MODEL_ARCH.SMOLLM3, interleaved=True, refuses=_refuse_other_period), _LLAMA, _DECI),
    "stablelm": (replace(_OLMO2, arch=MODEL_ARCH.STABLELM, keys=_LAYER_NORM),),
    "starcoder2": (_STARCODER2,),
}
"""What llama.cpp has for a family, the nearest first."""
