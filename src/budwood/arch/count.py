"""Parameters, floating-point operations and cache size of an architecture, in closed form."""

from functools import lru_cache
from math import prod

from budwood.arch.family import Module, axis_lengths, family_of
from budwood.arch.spec import Architecture, LayerSpec

_MATRIX_DIMS = 2


def num_parameters(architecture: Architecture) -> int:
    """Return the exact number of distinct parameters; a tied head counts once."""
    family = family_of(architecture.family)
    outer = family.outer_modules(tied=architecture.tie_word_embeddings)
    lengths = axis_lengths(architecture, architecture.layers[0])
    layers = sum(
        layer_parameters(architecture.family, architecture.hidden_size, layer) for layer in architecture.layers
    )
    return sum(_size(module, lengths) for module in outer) + layers


@lru_cache(maxsize=65536)
def layer_parameters(model_type: str, hidden_size: int, layer: LayerSpec) -> int:
    """Return the number of parameters of one decoder layer."""
    lengths = _layer_lengths(hidden_size, layer)
    return sum(_size(module, lengths) for module in family_of(model_type).layer_modules)


def neuron_parameters(architecture: Architecture) -> int:
    """Return how many parameters one MLP neuron adds to a layer."""
    family = family_of(architecture.family)
    return (len(family.mlp_in) + 1) * architecture.hidden_size


def forward_flops_per_token(architecture: Architecture, *, context: int, causal: bool = False) -> int:
    """Return the FLOPs of a forward pass, per token.

    Every matmul weight counts two, the head included (tied or not), the embedding look-up, biases and norms not.
    Attention counts `4 · heads · head_dim · context` per layer. With `causal=False` this reproduces tables 9 to 12 of
    "Where to begin" at context 2048.

    Args:
        architecture: what is run.
        context: tokens per sequence.
        causal: charge only the half of the attention matrix that a causal mask keeps.
    """
    attention = sum(4 * layer.num_attention_heads * layer.head_dim * context for layer in architecture.layers)
    layers = sum(
        _layer_matmul_weights(architecture.family, architecture.hidden_size, layer) for layer in architecture.layers
    )
    head = architecture.vocab_size * architecture.hidden_size
    return 2 * (layers + head) + (attention // 2 if causal else attention)


def training_flops_per_token(architecture: Architecture, *, context: int) -> int:
    """Return the FLOPs of a forward and backward pass, per token: three forwards (paper, appendix B)."""
    return 3 * forward_flops_per_token(architecture, context=context)


def kv_cache_bytes_per_token(architecture: Architecture, *, bytes_per_value: int = 2) -> int:
    """Return the bytes that generation keeps for every token of context."""
    return sum(2 * layer.num_key_value_heads * layer.head_dim * bytes_per_value for layer in architecture.layers)


@lru_cache(maxsize=65536)
def _layer_matmul_weights(model_type: str, hidden_size: int, layer: LayerSpec) -> int:
    lengths = _layer_lengths(hidden_size, layer)
    modules = family_of(model_type).layer_modules
    return sum(_size(module, lengths) for module in modules if len(module.axes) == _MATRIX_DIMS)


def _layer_lengths(hidden_size: int, layer: LayerSpec) -> dict[str, int]:
    shell = Architecture(family="", vocab_size=1, hidden_size=hidden_size, tie_word_embeddings=True, layers=(layer,))
    return axis_lengths(shell, layer)


def _size(module: Module, lengths: dict[str, int]) -> int:
    return prod(lengths[name] for axis in module.axes for name in axis)
