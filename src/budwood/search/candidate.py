"""What a search proposes, and what an evaluation says about it."""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal, Protocol

from budwood.arch.count import num_parameters
from budwood.arch.spec import Architecture

Origin = Literal["initial", "mutation", "crossover", "random"]


def canonical_key(architecture: Architecture) -> str:
    """Return a short key that two candidates share exactly when their genes are equal."""
    genes = json.dumps(architecture.to_dict(), sort_keys=True)
    return hashlib.blake2b(genes.encode(), digest_size=8).hexdigest()


@dataclass(frozen=True, slots=True)
class Candidate:
    """A member of a search space; its layers stand in the order in which the space takes them."""

    architecture: Architecture
    origin: Origin

    @property
    def key(self) -> str:
        """Canonical key of the genes; the origin does not matter."""
        return canonical_key(self.architecture)


@dataclass(frozen=True, slots=True, kw_only=True)
class SearchRecord:
    """One evaluated candidate: a row of the history."""

    evaluation: int
    """Position in the order of evaluation, from 0."""
    epoch: int
    """0 for the initial population."""
    origin: Origin
    key: str
    num_parameters: int
    hidden_size: int
    num_hidden_layers: int
    loss: float
    """Mean loss per token, nats."""
    perplexity: float
    tokens: int
    """Tokens predicted to obtain the loss."""
    flops: float
    """FLOPs of the evaluation."""
    seconds: float
    genes: str
    """`Architecture.to_dict` as JSON."""

    @property
    def architecture(self) -> Architecture:
        """The candidate, rebuilt from its genes."""
        return Architecture.from_dict(json.loads(self.genes))

    def to_dict(self) -> dict[str, Any]:
        """Return the record as a JSON-ready dictionary."""
        return asdict(self)


@dataclass(frozen=True, slots=True, kw_only=True)
class Evaluation:
    """Losses of one candidate on the tokens common to all candidates."""

    sequence_losses: Sequence[float]
    """Mean loss per token of every sequence, nats."""
    tokens: int
    flops: float
    seconds: float

    @property
    def loss(self) -> float:
        """Mean loss per token over all sequences (which have equal length), nats."""
        return sum(self.sequence_losses) / len(self.sequence_losses)


class Evaluate(Protocol):
    """What a search needs of the world: the losses of an architecture."""

    def __call__(self, architecture: Architecture) -> Evaluation:
        """Return the losses of one candidate."""
        ...


def gene_columns(architecture: Architecture) -> dict[str, Any]:
    """Return the columns of a history that describe a candidate."""
    return {
        "key": canonical_key(architecture),
        "num_parameters": num_parameters(architecture),
        "hidden_size": architecture.hidden_size,
        "num_hidden_layers": architecture.num_hidden_layers,
        "genes": json.dumps(architecture.to_dict()),
    }
