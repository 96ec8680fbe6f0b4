"""Search spaces: which sub-networks of a teacher exist, how many, and how large they are.

Coarse spaces take the first entries of every axis of the teacher, fine spaces any of them (paper, section 2.1); uniform
spaces give all layers the same, layer-wise ones each its own. Once the teacher is ordered by importance, first means
best, for layers too.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cache, cached_property
from itertools import accumulate, product
from math import comb, lcm, log10, prod
from operator import mul
from typing import Literal

from budwood.arch.bins import ParameterBin
from budwood.arch.count import num_parameters
from budwood.arch.family import family_of
from budwood.arch.limits import in_words
from budwood.arch.selection import Selection
from budwood.arch.servable import ServingEngine, check_servable, heads_must_fill, servable_head_dims
from budwood.arch.spec import Architecture, LayerSpec

Granularity = Literal["coarse", "fine"]
SizeConvention = Literal["paper", "exact"]

MIN_HEAD_DIM = 4
"""Smallest head dimension of the paper's spaces (table 1)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LayerChoices:
    """Legal sizes of a layer."""

    groups: range
    queries: range
    """Query heads of a group."""
    head_dims: range
    intermediate_sizes: range

    def __contains__(self, layer: LayerSpec) -> bool:
        """Whether a layer has legal sizes."""
        return all(size in legal for size, legal in zip(layer.sizes, self.axes, strict=True))

    @property
    def axes(self) -> tuple[range, range, range, range]:
        """All of them, in the order of `LayerSpec.sizes`."""
        return self.groups, self.queries, self.head_dims, self.intermediate_sizes

    def attentions(self) -> Iterator[LayerSpec]:
        """Yield a layer with the fewest neurons for every legal attention."""
        for groups, queries, head_dim in product(self.groups, self.queries, self.head_dims):
            yield LayerSpec.of(groups, queries, head_dim, self.intermediate_sizes[0])

    @property
    def smallest(self) -> LayerSpec:
        """The layer with the fewest of everything."""
        return LayerSpec.of(*(legal[0] for legal in self.axes))

    @property
    def largest(self) -> LayerSpec:
        """The layer with the most of everything."""
        return LayerSpec.of(*(legal[-1] for legal in self.axes))


@dataclass(frozen=True, kw_only=True)
class SearchSpace:
    """All sub-networks of one teacher that take the same freedom."""

    teacher: Architecture
    """Its layers by rank: a coarse sub-network of depth l takes the first l."""
    granularity: Granularity = "coarse"
    layerwise: bool
    alignment: int = 1
    """Hidden and MLP widths are multiples of this; 1 is the paper's space, 64 or 128 suit tensor cores."""
    native_only: bool = False
    """Only what stock Hugging Face classes express."""
    servable: tuple[ServingEngine, ...] = ()
    """Only what these engines serve."""

    def __post_init__(self) -> None:
        """Refuse what cannot be searched.

        Raises:
            ValueError: the alignment is below one or above the teacher's widths, stock classes are asked for
                layer-wise sizes or accept none, or an engine serves none.
        """
        widest = min(self.teacher.hidden_size, *(layer.intermediate_size for layer in self.teacher.layers))
        if not 1 <= self.alignment <= widest:
            raise ValueError(f"alignment must lie between 1 and {widest}, got {self.alignment}")
        if self.native_only and self.layerwise:
            raise ValueError("native_only: stock classes give all layers the same sizes; set layerwise: false")
        check_servable(self.servable, self.teacher, layerwise=self.layerwise)
        if not all(legal.head_dims for legal in self.choices):
            whole = min(layer.head_dim for layer in self.pool.layers)
            engines = " and ".join(self.servable)
            raise ValueError(
                f"servable: {engines} serve no heads that can be cut from those of dimension {whole}; leave one out"
            )
        if self.ties_hidden_to_heads and not any(map(self.hidden_sizes_around, self.choices[0].attentions())):
            cause = "native_only" if self.native_only else "servable"
            raise ValueError(
                f"{cause}: no heads of this teacher add up to a multiple of alignment={self.alignment} "
                f"within hidden_size={self.teacher.hidden_size}"
            )

    @property
    def num_layers_choices(self) -> range:
        """Legal numbers of layers."""
        return range(1, self.teacher.num_hidden_layers + 1)

    @property
    def hidden_sizes(self) -> range:
        """Legal hidden sizes."""
        return range(self.alignment, self.teacher.hidden_size + 1, self.alignment)

    @cached_property
    def heads_fit(self) -> Literal["any", "divide", "fill"]:
        """Which heads a hidden size allows: see `Family.stock_heads`."""
        if heads_must_fill(self.servable, self.teacher.family, layerwise=self.layerwise):
            return "fill"
        family = family_of(self.teacher.family)
        return family.stock_heads if self.native_only and family.stand_in is None else "any"

    @property
    def ties_hidden_to_heads(self) -> bool:
        """Whether stock classes or engines leave only some hidden sizes to given heads."""
        return self.heads_fit != "any"

    def hidden_sizes_around(self, layer: LayerSpec) -> Sequence[int]:
        """Return the legal hidden sizes around a layer: those that stock classes or engines accept with it."""
        if not self.ties_hidden_to_heads:
            return self.hidden_sizes
        if self.heads_fit == "fill":
            filled = layer.num_attention_heads * layer.head_dim
            return (filled,) if filled in self.hidden_sizes else ()
        step = lcm(self.alignment, layer.num_attention_heads)
        return range(step, self.teacher.hidden_size + 1, step)

    @cached_property
    def pool(self) -> Architecture:
        """What may be kept: the teacher, in uniform spaces only what all of its layers have."""
        if self.layerwise:
            return self.teacher
        layers = self.teacher.layers
        common = LayerSpec.of(*map(min, zip(*(layer.sizes for layer in layers), strict=True)))
        return self.teacher.with_layers((common,) * len(layers))

    @cached_property
    def choices(self) -> tuple[LayerChoices, ...]:
        """Legal sizes of every layer, by rank."""
        return tuple(
            LayerChoices(
                groups=range(1, layer.num_key_value_heads + 1),
                queries=range(1, layer.heads_per_group + 1),
                head_dims=self._head_dims(layer.head_dim),
                intermediate_sizes=range(self.alignment, layer.intermediate_size + 1, self.alignment),
            )
            for layer in self.pool.layers
        )

    def _head_dims(self, whole: int) -> range:
        cuts = range(min(MIN_HEAD_DIM, whole), whole + 1, 2)
        return servable_head_dims(self.servable, self.teacher.family, cuts, layerwise=self.layerwise)

    def __contains__(self, member: Selection) -> bool:
        """Whether a selection is a member."""
        try:
            member.require_within(self.pool)
        except ValueError:
            return False
        return (
            (self.layerwise or len({layer.indices for layer in member.layers}) == 1)
            and (self.granularity == "fine" or member.is_prefix)
            and all(layer.spec in self.choices[layer.layer] for layer in member.layers)
            and len(member.hidden) in self.hidden_sizes
            and len(member.hidden) in self.hidden_sizes_around(member.layers[0].spec)
        )

    def smallest(self) -> Architecture:
        """Return the sizes of a member with the fewest parameters."""
        return min(self._of_one_layer(), key=num_parameters)

    def largest(self) -> Architecture:
        """Return the sizes of a member with the most parameters."""
        if self.ties_hidden_to_heads:
            return max(self._around_attentions(self.teacher.num_hidden_layers), key=num_parameters)
        layers = tuple(legal.largest for legal in self.choices)
        return replace(self.teacher, hidden_size=self.hidden_sizes[-1], layers=layers)

    def _of_one_layer(self) -> Iterator[Architecture]:
        """Yield members of one layer, among them those with the fewest parameters."""
        if self.ties_hidden_to_heads:
            yield from self._around_attentions(depth=1)
        else:
            # Any layer may be the only one in a fine space.
            for legal in self.choices if self.granularity == "fine" else self.choices[:1]:
                yield replace(self.teacher, hidden_size=self.hidden_sizes[0], layers=(legal.smallest,))

    def _around_attentions(self, depth: int) -> Iterator[Architecture]:
        """Yield the least and the most around every attention, where the hidden size depends on it."""
        legal = self.choices[0]
        for layer in legal.attentions():
            for hidden in self.hidden_sizes_around(layer)[:1]:
                yield replace(self.teacher, hidden_size=hidden, layers=(layer,) * depth)
            for hidden in self.hidden_sizes_around(layer)[-1:]:
                widest = replace(layer, intermediate_size=legal.intermediate_sizes[-1])
                yield replace(self.teacher, hidden_size=hidden, layers=(widest,) * depth)

    def require_reachable(self, parameter_bin: ParameterBin) -> None:
        """Check that the bin meets the range of parameter counts of this space, and of what its members take.

        Raises:
            ValueError: it does not; the message gives the smallest and the largest.
        """
        smallest, largest = self.reach
        if parameter_bin.high < smallest or parameter_bin.low > largest:
            raise ValueError(f"the parameter bin {parameter_bin} cannot be reached: {self.describe_reach()}")
        for limit in parameter_bin.limits:
            least = min(
                limit.of(member) + limit.per_parameter * max(0, parameter_bin.low - num_parameters(member))
                for member in self._of_one_layer()
            )
            if not least <= limit.most:
                raise ValueError(
                    f"{limit} cannot be met: no member of this bin takes less than {in_words(limit.name, least)}"
                )
        if not parameter_bin.load(self.largest()) >= parameter_bin.least_load:
            raise ValueError(
                f"{parameter_bin}: the largest sub-network of this space takes "
                f"{parameter_bin.load(self.largest()):.0%} of that at most; give less, or a range of parameters"
            )

    @cached_property
    def reach(self) -> tuple[int, int]:
        """The smallest and the largest parameter count of a member."""
        return num_parameters(self.smallest()), num_parameters(self.largest())

    def describe_reach(self) -> str:
        """Return the range of parameter counts in words."""
        served = f" that {' and '.join(self.servable)} can serve" if self.servable else ""
        return "sub-networks of this teacher{} have {:,} to {:,} parameters".format(served, *self.reach)

    def log10_size(self, convention: SizeConvention = "exact") -> float:
        """Return the decimal logarithm of the number of members.

        `exact` counts the legal ones: every number of layers, pairs of groups and queries, even
        head sizes from 4 on, aligned widths; in fine spaces all index sets of these sizes, head dimensions taken in
        rotary pairs. `paper` gives the formulas behind table 16 of "Where to begin", which differ in what they count
        (see `log10_paper_size`).
        """
        if convention == "paper":
            return log10_paper_size(self.teacher, self.granularity, layerwise=self.layerwise)
        depth = self.teacher.num_hidden_layers
        if self.ties_hidden_to_heads:
            return log10(self._ways_together() * self._ways_of_layers(depth))
        hidden = self._ways(self.hidden_sizes, self.teacher.hidden_size)
        if not self.layerwise:
            return log10(hidden * self._ways_of_layer(0) * self._ways_of_layers(depth))
        layers = [self._ways_of_layer(rank) for rank in range(depth)]
        if self.granularity == "coarse":
            return log10(hidden * sum(accumulate(layers, mul)))
        return log10(hidden * (prod(ways + 1 for ways in layers) - 1))

    def _ways(self, sizes: Sequence[int], length: int) -> int:
        """Return in how many ways an axis can be cut to one of the sizes."""
        if self.granularity == "coarse":
            return len(sizes)
        if list(sizes) == list(range(1, length + 1)):
            return (1 << length) - 1
        return sum(comb(length, size) for size in sizes)

    def _ways_of_layers(self, depth: int) -> int:
        return self._ways(self.num_layers_choices, depth)

    def _ways_of_layer(self, rank: int) -> int:
        choices, neurons = self.choices[rank], self.pool.layers[rank].intermediate_size
        return self._ways_of_attention(rank) * self._ways(choices.intermediate_sizes, neurons)

    def _ways_of_attention(self, rank: int) -> int:
        choices, layer = self.choices[rank], self.pool.layers[rank]
        return (
            self._ways(choices.groups, layer.num_key_value_heads)
            * self._ways(choices.queries, layer.heads_per_group)
            * self._ways([size // 2 for size in choices.head_dims], layer.head_dim // 2)
        )

    def _ways_together(self) -> int:
        """Return the ways of a uniform layer and the hidden sizes that a stock class accepts around it."""
        choices, layer = self.choices[0], self.pool.layers[0]
        ways: Callable[[int, int], int] = cache(comb) if self.granularity == "fine" else lambda _length, _size: 1
        attentions = sum(
            ways(layer.num_key_value_heads, spec.num_key_value_heads)
            * ways(layer.heads_per_group, spec.heads_per_group)
            * ways(layer.head_dim // 2, spec.head_dim // 2)
            * sum(ways(self.teacher.hidden_size, hidden) for hidden in self.hidden_sizes_around(spec))
            for spec in choices.attentions()
        )
        return attentions * self._ways(choices.intermediate_sizes, layer.intermediate_size)


def log10_paper_size(teacher: Architecture, granularity: Granularity, *, layerwise: bool) -> float:
    """Return log10 of a space's size by the formulas behind the paper's table 16.

    With E hidden size, D MLP width, L layers, H legal head choices and S = head_dim/2 - 1 admissible head sizes:
    coarse `L·E·H·S·D` or `E·(H·S·D)^L`; fine `2^(E+H+S+D+L)` or `2^(E + L(H+S+D) + L)`. The fine uniform entry of the
    table is a natural logarithm printed as a decimal exponent; this returns the decimal one.
    """
    layer = teacher.layers[0]
    num_layers, hidden, neurons = teacher.num_hidden_layers, teacher.hidden_size, layer.intermediate_size
    heads = layer.num_key_value_heads * layer.heads_per_group
    head_sizes = layer.head_dim // 2 - 1
    if granularity == "coarse":
        power = num_layers if layerwise else 1
        return log10(hidden) + power * log10(heads * head_sizes * neurons) + (0 if layerwise else log10(num_layers))
    per_layer = heads + head_sizes + neurons
    return (hidden + (num_layers if layerwise else 1) * per_layer + num_layers) * log10(2)
