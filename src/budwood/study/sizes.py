"""The best of a teacher by sizes."""

from budwood.arch.selection import LayerSelection
from budwood.arch.spec import LayerSpec


def narrowed(
    rank: int, spec: LayerSpec, sizes: tuple[int | None, int | None, int | None, int | None]
) -> LayerSelection:
    """Return the best of a layer.

    Args:
        rank: of the layer.
        spec: all of it.
        sizes: key/value heads, query heads, dimensions of a head, neurons; the teacher's where one is None.

    Raises:
        ValueError: the teacher has fewer, or a size is not allowed; the message names the argument.
    """
    num_groups, num_heads, head_dim, num_neurons = sizes
    groups = within("num_key_value_heads", num_groups, spec.num_key_value_heads)
    heads = within("num_attention_heads", num_heads, groups * spec.heads_per_group)
    dims = within("head_dim", head_dim, spec.head_dim)
    if heads % groups:
        raise ValueError(f"num_attention_heads={heads} must be a multiple of num_key_value_heads={groups}")
    if dims % 2:
        raise ValueError(f"head_dim={dims} must be even: rotary embeddings turn dimensions two by two")
    neurons = within("intermediate_size", num_neurons, spec.intermediate_size)
    return LayerSelection.prefix(rank, LayerSpec.of(groups, heads // groups, dims, neurons))


def within(name: str, wanted: int | None, most: int) -> int:
    """Return a size, or the teacher's where none is wanted.

    Raises:
        ValueError: the teacher has fewer, or it is no whole number.
    """
    if wanted is None:
        return most
    if wanted not in range(1, most + 1):
        raise ValueError(f"{name}={wanted} must be a whole number between 1 and {most}, what the teacher has there")
    return int(wanted)
