"""Search spaces: which sub-architectures of a teacher exist, how many, and how to draw one inside a bin.

Coarse spaces take the first entries of every axis of the teacher (paper, section 2.1). Once the teacher is ordered by
importance, first means best.
"""

from dataclasses import dataclass, replace
from math import log10
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from budwood.arch.bins import ParameterBin
from budwood.arch.count import neuron_parameters, num_parameters
from budwood.arch.spec import Architecture, LayerSpec

Granularity = Literal["coarse", "fine"]
SizeConvention = Literal["paper", "exact"]
Sampling = Literal["constructive", "rejection"]
Widths = NDArray[np.float64]

MIN_HEAD_DIM = 4
"""Smallest head dimension of the paper's spaces (table 1)."""
MAX_DRAWS = 20_000
"""Draws after which a bin counts as practically unreachable."""
_DRAWS_PER_TARGET = 1000
_WATER_FILLING_ROUNDS = 4


@dataclass(frozen=True, slots=True, kw_only=True)
class SearchSpace:
    """All coarse sub-architectures of one teacher, uniform or with sizes of their own in every layer."""

    teacher: Architecture
    layerwise: bool
    alignment: int = 1
    """Hidden and MLP widths are multiples of this; 1 is the paper's space, 64 or 128 suit tensor cores."""

    def __post_init__(self) -> None:
        """Refuse what cannot be searched.

        Raises:
            ValueError: the teacher's layers differ, or the alignment is below one or above the teacher's widths.
        """
        if not self.teacher.is_uniform:
            raise ValueError("a search space needs a teacher whose layers all have the same sizes")
        widest = min(self.teacher.hidden_size, self._layer.intermediate_size)
        if not 1 <= self.alignment <= widest:
            raise ValueError(f"alignment must lie between 1 and {widest}, got {self.alignment}")

    @property
    def _layer(self) -> LayerSpec:
        return self.teacher.layers[0]

    @property
    def num_layers_choices(self) -> range:
        """Legal numbers of layers."""
        return range(1, self.teacher.num_hidden_layers + 1)

    @property
    def hidden_sizes(self) -> range:
        """Legal hidden sizes."""
        return range(self.alignment, self.teacher.hidden_size + 1, self.alignment)

    @property
    def intermediate_sizes(self) -> range:
        """Legal MLP widths."""
        return range(self.alignment, self._layer.intermediate_size + 1, self.alignment)

    @property
    def head_dims(self) -> range:
        """Legal head dimensions: even, from 4 on."""
        return range(min(MIN_HEAD_DIM, self._layer.head_dim), self._layer.head_dim + 1, 2)

    @property
    def head_choices(self) -> tuple[tuple[int, int], ...]:
        """Legal `(key/value heads, query heads of each)`."""
        groups = range(1, self._layer.num_key_value_heads + 1)
        return tuple((g, q) for g in groups for q in range(1, self._layer.heads_per_group + 1))

    def __contains__(self, architecture: Architecture) -> bool:
        """Whether an architecture is a member."""
        teacher = self.teacher
        return (
            (architecture.family, architecture.vocab_size, architecture.tie_word_embeddings)
            == (teacher.family, teacher.vocab_size, teacher.tie_word_embeddings)
            and architecture.hidden_size in self.hidden_sizes
            and architecture.num_hidden_layers in self.num_layers_choices
            and (self.layerwise or architecture.is_uniform)
            and all(self._has_layer(layer) for layer in set(architecture.layers))
        )

    def _has_layer(self, layer: LayerSpec) -> bool:
        return (
            (layer.num_key_value_heads, layer.heads_per_group) in self.head_choices
            and layer.head_dim in self.head_dims
            and layer.intermediate_size in self.intermediate_sizes
        )

    def log10_size(self) -> float:
        """Return the decimal logarithm of the number of members, counted exactly."""
        return log10_size(
            len(self.hidden_sizes),
            len(self.head_choices) * len(self.head_dims) * len(self.intermediate_sizes),
            len(self.num_layers_choices),
            layerwise=self.layerwise,
        )

    def smallest(self) -> Architecture:
        """Return the member with the fewest parameters."""
        layer = LayerSpec(
            num_attention_heads=1,
            num_key_value_heads=1,
            head_dim=self.head_dims[0],
            intermediate_size=self.intermediate_sizes[0],
        )
        return replace(self.teacher, hidden_size=self.hidden_sizes[0], layers=(layer,))

    def largest(self) -> Architecture:
        """Return the member with the most parameters: the teacher, or the widest that the alignment allows."""
        layer = replace(self._layer, intermediate_size=self.intermediate_sizes[-1])
        return replace(
            self.teacher, hidden_size=self.hidden_sizes[-1], layers=(layer,) * self.teacher.num_hidden_layers
        )

    def sample_layer(self, rng: np.random.Generator) -> LayerSpec:
        """Draw the sizes of one layer, each uniformly."""
        groups, queries = self.head_choices[rng.integers(len(self.head_choices))]
        return LayerSpec(
            num_attention_heads=groups * queries,
            num_key_value_heads=groups,
            head_dim=pick(self.head_dims, rng),
            intermediate_size=pick(self.intermediate_sizes, rng),
        )

    def sample_any(self, rng: np.random.Generator) -> Architecture:
        """Draw every size uniformly, whatever the parameter count (paper, section 2.2)."""
        num_layers = pick(self.num_layers_choices, rng)
        if self.layerwise:
            layers = tuple(self.sample_layer(rng) for _ in range(num_layers))
        else:
            layers = (self.sample_layer(rng),) * num_layers
        return replace(self.teacher, hidden_size=pick(self.hidden_sizes, rng), layers=layers)

    def sample(
        self, parameter_bin: ParameterBin, rng: np.random.Generator, sampling: Sampling = "constructive"
    ) -> Architecture:
        """Draw a member inside a bin.

        `constructive` draws a parameter count uniformly from the bin and solves the MLP widths for it; `rejection`
        draws until a member happens to lie in the bin (paper, section 2.2).

        Raises:
            ValueError: no member is found; the message gives the reachable range and the number of draws.
        """
        self.require_reachable(parameter_bin)
        for draw in range(MAX_DRAWS):
            # Kept over many draws of shapes: counts that few shapes reach are then as likely as any other.
            if draw % _DRAWS_PER_TARGET == 0:
                target = self.draw_target(parameter_bin, rng)
            drawn = self.sample_any(rng)
            member = self.resize(drawn, parameter_bin, target) if sampling == "constructive" else drawn
            if member is not None and num_parameters(member) in parameter_bin:
                return member
        raise ValueError(
            f"no sub-network in {parameter_bin} among {MAX_DRAWS:,} {sampling} draws: the bin is at the edge of what "
            f"the space reaches ({self._reach()}); widen the bin or move it inwards"
        )

    def draw_target(self, parameter_bin: ParameterBin, rng: np.random.Generator) -> int:
        """Draw a parameter count uniformly from the part of a bin that lies within the space."""
        low = max(parameter_bin.low, num_parameters(self.smallest()))
        high = min(parameter_bin.high, num_parameters(self.largest()))
        return int(rng.integers(low, high + 1))

    def resize(self, architecture: Architecture, parameter_bin: ParameterBin, target: int) -> Architecture | None:
        """Scale the MLP widths of a member until it has a parameter count.

        Returns:
            the resized member, as near to the target as whole widths come, or None where its other sizes leave no legal
            widths for it or it falls out of the bin.
        """
        per_neuron = neuron_parameters(architecture)
        widths = np.array([layer.intermediate_size for layer in architecture.layers], dtype=float)
        fixed = num_parameters(architecture) - per_neuron * int(widths.sum())
        wanted = _scale_widths(widths, (target - fixed) / per_neuron, self._layer.intermediate_size)
        steps = np.rint(wanted / self.alignment).astype(int) * self.alignment
        steps = np.clip(steps, self.intermediate_sizes[0], self.intermediate_sizes[-1])
        resized = architecture.with_layers(
            tuple(
                replace(layer, intermediate_size=int(width))
                for layer, width in zip(architecture.layers, steps, strict=True)
            )
        )
        count, rounding = num_parameters(resized), per_neuron * len(steps) * self.alignment / 2
        return resized if count in parameter_bin and abs(count - target) <= rounding else None

    def require_reachable(self, parameter_bin: ParameterBin) -> None:
        """Check that the bin meets the range of parameter counts of this space.

        Raises:
            ValueError: it does not; the message gives the smallest and the largest count.
        """
        smallest, largest = num_parameters(self.smallest()), num_parameters(self.largest())
        if parameter_bin.high < smallest or parameter_bin.low > largest:
            raise ValueError(f"the parameter bin {parameter_bin} cannot be reached: {self._reach()}")

    def _reach(self) -> str:
        smallest, largest = num_parameters(self.smallest()), num_parameters(self.largest())
        return f"sub-networks of this teacher have {smallest:,} to {largest:,} parameters"


def log10_size(num_hidden: int, num_layer_configs: int, num_layers: int, *, layerwise: bool) -> float:
    """Return log10 of a coarse space's size when the number of layers is free.

    Uniform: `L · E · C`; layer-wise: `E · sum_(l <= L) C^l`, with C configurations of a layer.
    """
    if not layerwise:
        return log10(num_layers) + log10(num_hidden) + log10(num_layer_configs)
    return log10(num_hidden) + log10(sum(num_layer_configs**depth for depth in range(1, num_layers + 1)))


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


def pick(choices: range, rng: np.random.Generator) -> int:
    """Draw one of the choices uniformly."""
    return choices[int(rng.integers(len(choices)))]


def _scale_widths(widths: Widths, total: float, largest: int) -> Widths:
    """Scale widths to a sum, by one factor, without passing the largest width."""
    scaled: Widths = widths * (total / widths.sum())
    for _ in range(_WATER_FILLING_ROUNDS):
        full = scaled >= largest
        free = scaled[~full].sum()
        if not full.any() or free <= 0:
            break
        scaled[~full] *= (total - largest * full.sum()) / free
        scaled = np.minimum(scaled, largest)
    return scaled
