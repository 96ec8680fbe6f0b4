"""Estimates of the memory that a search takes beside the teacher, a candidate, and what reads a batch.

Candidates that share their first layers keep hidden states of all text, and so does the teacher from which candidates'
predictions are to diverge little. Candidates that are corrected are, one input at a time, before they read.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace

from budwood.arch.count import layer_parameters
from budwood.arch.family import family_of
from budwood.arch.spec import Architecture
from budwood.reporting.memory import FLOAT32, Memory
from budwood.reporting.streaming import TextReading, solving_bytes
from budwood.subnet.extract import ROWS_TOGETHER
from budwood.subnet.flops import layer_input_sizes, maps_layers
from budwood.subnet.reuse import MOST_HELD
from budwood.subnet.settings import Compensation

_COMPARED = 5
"""Blocks of float32 logits of a sequence that are alive while two predictions are compared."""

# Shape legend: E hidden size, k of n entries of an input are kept, m = n - k are predicted.


@dataclass(frozen=True, slots=True, kw_only=True)
class Evaluating:
    """How a search evaluates candidates."""

    reading: TextReading
    num_together: int = 1
    """Candidates that may share first layers."""
    diverges: bool = False
    """Whether they are compared with the teacher's predictions."""
    compensation: Compensation | None = None
    """How they are corrected from stored moments; none where they are not."""


def search_memory(read: Memory, candidate: Architecture, teacher: Architecture, evaluating: Evaluating) -> Memory:
    """Return what a search takes.

    Args:
        read: what it takes to read a batch of its text.
        candidate: what is read.
        teacher: all of it.
        evaluating: how candidates are evaluated.
    """
    reading, settings = evaluating.reading, evaluating.compensation
    num_held = min(MOST_HELD, evaluating.num_together - 1, candidate.num_hidden_layers - 1)
    corrected = max(_correcting(teacher, candidate, settings), default=0) if settings else 0
    memory = replace(
        read, activations=read.activations + num_held * reading.states(candidate.hidden_size), moments=corrected
    )
    if not evaluating.diverges:
        return memory
    return replace(
        memory,
        head=max(read.head, _COMPARED * FLOAT32 * reading.length * teacher.vocab_size),
        teacher=read.teacher + _fused_bytes(teacher, reading.size) + reading.states(teacher.hidden_size),
    )


def _correcting(teacher: Architecture, child: Architecture, settings: Compensation) -> Iterator[int]:
    """Yield what it takes to correct a child: a moment, what it solves, and the rows that it is folded into."""
    width, exact = teacher.hidden_size, solving_bytes(settings)
    inputs = [
        (k, n)
        for place in range(child.num_hidden_layers)
        for k, n, _ in layer_input_sizes(teacher, child, settings, place)
    ]
    if settings.channels and not teacher.tie_word_embeddings:
        inputs.append((child.hidden_size, width))
    for k, n in inputs:
        if k < n:
            shares = FLOAT32 * k * (n - k)
            yield FLOAT32 * (n**2 + k * n)
            yield 2 * exact * k * n + (shares if exact > FLOAT32 else 0)
            yield FLOAT32 * ROWS_TOGETHER * (n + k) + shares
    if maps_layers(teacher, settings) and child.num_hidden_layers < teacher.num_hidden_layers:
        yield FLOAT32 * (width**2 + 2 * width * max(layer.intermediate_size for layer in teacher.layers))


def _fused_bytes(teacher: Architecture, size: int) -> int:
    """Return what a second whole model has of its own beside the teacher's weights: projections that it fuses."""
    fuses = family_of(teacher.family).query.inside is not None
    return size * layer_parameters(teacher.family, teacher.hidden_size, *teacher.layers) if fuses else 0
