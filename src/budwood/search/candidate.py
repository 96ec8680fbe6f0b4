"""What a search proposes, and what an evaluation says about it."""

import hashlib
import json
import math
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from statistics import fmean
from typing import Any, Literal, Protocol

from budwood.arch.count import num_parameters
from budwood.arch.selection import Selection
from budwood.arch.spec import Architecture

LAYER_SIZES = ("num_attention_heads", "num_key_value_heads", "head_dim", "intermediate_size")
"""Of which a history has the mean over a candidate's layers."""

Origin = Literal["initial", "mutation", "crossover", "random"]


def canonical_key(selection: Selection) -> str:
    """Return a short key that two candidates share exactly when they keep the same, in whatever order they took it."""
    return hashlib.blake2b(json.dumps(selection.key()).encode(), digest_size=8).hexdigest()


@dataclass(frozen=True)
class Candidate:
    """A member of a search space."""

    selection: Selection
    origin: Origin

    @cached_property
    def key(self) -> str:
        """Canonical key of the genes; the origin does not matter."""
        return canonical_key(self.selection)


@dataclass(frozen=True, slots=True, kw_only=True)
class Evaluation:
    """Losses of one candidate on some of the sequences that are common to all candidates."""

    sequence_losses: Sequence[float]
    """Mean loss per token of every sequence, nats."""
    tokens: int
    """Tokens predicted to obtain the losses."""
    flops: float
    """Spent to obtain them; layers that another candidate had run are not in it."""
    seconds: float
    flops_per_token: float | None = None
    """Of a forward pass of the candidate, whatever was spent; none where nothing ran."""
    latency_seconds: float | None = None
    """Of a forward pass over one sequence; none where it was not measured."""

    @property
    def loss(self) -> float:
        """Mean loss per token over all sequences (which have equal length), nats."""
        return sum(self.sequence_losses) / len(self.sequence_losses)


@dataclass(frozen=True, slots=True, kw_only=True)
class SearchRecord(Evaluation):
    """All that a candidate read: a row of the history."""

    evaluation: int
    """Position in the order of candidates, from 0."""
    epoch: int
    """0 for the initial population."""
    origin: Origin
    key: str
    num_parameters: int
    hidden_size: int
    num_hidden_layers: int
    num_attention_heads: float
    """Of a layer, in the mean; so are the sizes that follow."""
    num_key_value_heads: float
    head_dim: float
    intermediate_size: float
    finished: bool
    """Whether the candidate read all sequences and has a finite loss; else its race dropped it."""

    def to_dict(self) -> dict[str, Any]:
        """Return the record as a JSON-ready dictionary, with its loss and perplexity."""
        perplexity = math.exp(min(self.loss, 700.0))
        return asdict(self) | {"loss": self.loss, "perplexity": perplexity, "num_sequences": len(self.sequence_losses)}


class Evaluate(Protocol):
    """What a search needs of the world: the losses of candidates."""

    def __call__(
        self, selections: Sequence[Selection], sequences: slice = slice(None)
    ) -> Iterator[tuple[int, Evaluation]]:
        """Yield every candidate's place and its losses on some or all of the common sequences, in any order."""
        ...


def gene_columns(selection: Selection, teacher: Architecture) -> dict[str, Any]:
    """Return the columns of a history that describe what a candidate keeps of a teacher; see `budwood.search.genes`."""
    specs = [layer.spec for layer in selection.layers]
    return {
        "key": canonical_key(selection),
        "num_parameters": num_parameters(selection.architecture(teacher)),
        "hidden_size": len(selection.hidden),
        "num_hidden_layers": len(selection.layers),
        **{name: fmean(getattr(spec, name) for spec in specs) for name in LAYER_SIZES},
    }
