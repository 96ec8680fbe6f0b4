"""What serving engines ask of a shape, as far as sizes decide it."""

from collections.abc import Mapping, Sequence
from typing import Literal

from budwood.arch.family import family_of
from budwood.arch.spec import Architecture

ServingEngine = Literal["vllm", "llama.cpp"]

VLLM_HEAD_DIMS = (range(32, 129, 16), range(32, 257, 32))
"""Head dimensions that vLLM's CPU kernels take, up to 128 and beyond (0.32 tried with every multiple of 8; it takes 512
too); those of GPUs take any multiple of 8 up to 256."""
PAIR_FACTORS = ("granite", "llama", "ministral3", "mistral", "phi3", "qwen2")
"""Families whose graph in llama.cpp turns every rotary pair by a factor of its own, so that heads can lose pairs."""
LAYERWISE = ("llama", "mistral")
"""Families for which llama.cpp has a graph whose layers differ in heads, groups and neurons."""
_ALTERNATING = ("smollm3",)
_FILLING: Mapping[ServingEngine, tuple[str, ...]] = {
    "vllm": ("qwen2",),
    "llama.cpp": ("gpt_neox", "olmo2", "olmo3", "phi3", "stablelm", "starcoder2"),
}
"""Families whose heads an engine takes to fill the hidden size; vLLM's Qwen 2 then computes something else without a
word."""


def check_servable(engines: Sequence[ServingEngine], teacher: Architecture, *, layerwise: bool) -> None:
    """Check that engines can serve sub-networks of a teacher at all.

    Raises:
        ValueError: one cannot; the message says why.
    """
    if "llama.cpp" not in engines:
        return
    model_type = family_of(teacher.family).model_type
    if model_type in _ALTERNATING:
        raise ValueError(
            f"servable: llama.cpp expects the layers of {model_type} to alternate as the teacher's do, which no "
            "size assures once layers are dropped; set servable: [vllm] and see what the export says"
        )
    if layerwise and model_type not in LAYERWISE:
        raise ValueError(
            f"servable: llama.cpp has no form for {model_type} whose layers differ; set layerwise: false, or "
            "servable: [vllm]"
        )
    if layerwise and len({layer.head_dim for layer in teacher.layers}) > 1:
        raise ValueError(
            "servable: llama.cpp needs heads of one dimension, and this teacher's differ by layer; set servable: [vllm]"
        )


def heads_must_fill(engines: Sequence[ServingEngine], family: str, *, layerwise: bool) -> bool:
    """Whether heads must add up to the hidden size; layer-wise classes are our own, which state every size."""
    model_type = family_of(family).model_type
    return not layerwise and any(model_type in _FILLING[engine] for engine in engines)


def servable_head_dims(engines: Sequence[ServingEngine], family: str, head_dims: range, *, layerwise: bool) -> range:
    """Return those head dimensions that engines take.

    Args:
        engines: that are to serve the sub-network.
        family: of the teacher.
        head_dims: what can be cut; the last is the whole head.
        layerwise: whether layers differ: each then keeps rotary pairs of its own, and llama.cpp has one set for all.
    """
    if "llama.cpp" in engines and (layerwise or family_of(family).model_type not in PAIR_FACTORS):
        head_dims = head_dims[-1:]
    if "vllm" not in engines:
        return head_dims
    whole = head_dims[-1]
    if len(head_dims) == 1:
        return head_dims if vllm_takes(whole) else head_dims[:0]
    taken = _vllm_dims(whole)
    return range(taken.start, min(whole + 1, taken.stop), taken.step)


def vllm_takes(head_dim: int) -> bool:
    """Whether vLLM's CPU kernels take heads of a dimension."""
    return head_dim in _vllm_dims(head_dim)


def _vllm_dims(largest: int) -> range:
    return VLLM_HEAD_DIMS[largest >= VLLM_HEAD_DIMS[0].stop]
