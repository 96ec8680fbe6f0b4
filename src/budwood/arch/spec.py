"""The description of a decoder language model that everything else counts, searches and cuts by."""

from dataclasses import dataclass, replace
from functools import lru_cache
from typing import ClassVar, Self

from pydantic import ConfigDict

_MOST_LAYERS = 1024
"""The deepest published dense decoders have fewer than 200; larger numbers are damage, and cost minutes to build."""


def check_depth(depth: object) -> None:
    """Check a number of decoder layers.

    Raises:
        ValueError: no model has as many.
    """
    if not isinstance(depth, int) or not 1 <= depth <= _MOST_LAYERS:
        raise ValueError(f"num_hidden_layers={depth!r} must be between 1 and {_MOST_LAYERS}")


@dataclass(frozen=True, slots=True, kw_only=True)
class LayerSpec:
    """Sizes of one decoder layer, in Hugging Face's words."""

    __pydantic_config__: ClassVar = ConfigDict(extra="forbid")

    num_attention_heads: int
    """Query heads."""
    num_key_value_heads: int
    """Key/value heads (groups); divides `num_attention_heads`."""
    head_dim: int
    """Dimensions per head; even, because rotary embeddings turn pairs."""
    intermediate_size: int
    """Neurons of the MLP."""

    def __post_init__(self) -> None:
        """Refuse sizes that no model can have.

        Raises:
            ValueError: a size is not positive, the head dimension is odd, or the groups do not divide the heads.
        """
        for name in self.__slots__:
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}")
        if self.head_dim % 2:
            raise ValueError(f"head_dim must be even (rotary pairs), got {self.head_dim}")
        if self.num_attention_heads % self.num_key_value_heads:
            raise ValueError(
                f"num_key_value_heads={self.num_key_value_heads} must divide "
                f"num_attention_heads={self.num_attention_heads}"
            )

    @staticmethod
    @lru_cache(maxsize=1 << 16, typed=True)  # a search asks for the same layers many thousand times
    def of(groups: int, queries: int, head_dim: int, neurons: int) -> "LayerSpec":
        """Return the layer of some key/value heads, with so many query heads each."""
        return LayerSpec(
            num_attention_heads=groups * queries,
            num_key_value_heads=groups,
            head_dim=head_dim,
            intermediate_size=neurons,
        )

    @property
    def sizes(self) -> tuple[int, int, int, int]:
        """Key/value heads, query heads of each, dimensions of a head, and neurons: `of` takes them in this order."""
        return self.num_key_value_heads, self.heads_per_group, self.head_dim, self.intermediate_size

    @property
    def heads_per_group(self) -> int:
        """Query heads that share one key/value head."""
        return self.num_attention_heads // self.num_key_value_heads


@dataclass(frozen=True, slots=True, kw_only=True)
class Architecture:
    """A decoder language model without its weights.

    In a model `layers` are in depth order. In a search candidate they are in the order in which the search
    space takes them (most important first once the teacher is ordered); counting does not depend on it.
    """

    __pydantic_config__: ClassVar = ConfigDict(extra="forbid")

    family: str
    """Hugging Face `model_type`, a key of `budwood.arch.family.FAMILIES`."""
    vocab_size: int
    hidden_size: int
    tie_word_embeddings: bool
    layers: tuple[LayerSpec, ...]

    def __post_init__(self) -> None:
        """Refuse an impossible description.

        Raises:
            ValueError: there are no layers or too many, or a size is below one.
        """
        check_depth(len(self.layers))
        for name in ("vocab_size", "hidden_size"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}")

    @property
    def num_hidden_layers(self) -> int:
        """Number of decoder layers."""
        return len(self.layers)

    @property
    def is_uniform(self) -> bool:
        """Whether all layers have the same sizes, as stock Hugging Face classes demand."""
        return len(set(self.layers)) == 1

    def with_layers(self, layers: tuple[LayerSpec, ...]) -> Self:
        """Return this architecture with other layers."""
        return replace(self, layers=layers)

    def describe(self) -> str:
        """Return the sizes in one line, ranges where layers differ."""
        spans = {name: sorted({getattr(layer, name) for layer in self.layers}) for name in LayerSpec.__slots__}
        text = {k: str(v[0]) if len(v) == 1 else f"{v[0]}-{v[-1]}" for k, v in spans.items()}
        heads = f"{text['num_attention_heads']} {'head' if text['num_attention_heads'] == '1' else 'heads'}"
        groups = f"{text['num_key_value_heads']} {'group' if text['num_key_value_heads'] == '1' else 'groups'}"
        layers = f"{self.num_hidden_layers} {'layer' if self.num_hidden_layers == 1 else 'layers'}"
        return (
            f"{layers} x {self.hidden_size} wide, {heads} in {groups} of {text['head_dim']}, "
            f"MLP {text['intermediate_size']}"
        )
